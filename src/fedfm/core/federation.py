"""A federation is a frozen record of slots."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, fields
from dataclasses import replace as replace  # a federation with some slots filled otherwise
from typing import Any

from fedfm.cards.registry import knob, load, name_of
from fedfm.core.errors import ConfigError, Problem
from fedfm.core.protocols import (
    Adversary,
    Aggregator,
    Client,
    Detector,
    Evaluator,
    Pace,
    Reward,
    Selector,
    Server,
    Slot,
    Task,
    Valuer,
    Wire,
)

SHARED = ("data", "seed", "threads", "device", "engine")  # of a run: all of its stages have them in common


@dataclass(frozen=True)
class Federation:
    """Every slot of a federation; all but `task` and `data` have a default.

    With `stages` it is the last one of a run of several: each begins from the model of the one before, with states of
    its own; what is SHARED is that of the last. Rounds are numbered through.
    """

    task: Task = knob(doc="foundation model, tuning and objective")
    data: Any = knob(doc="who holds what")
    select: Selector = knob(factory=Selector, doc="who takes part in a round")
    client: Client = knob(factory=lambda: load("local")(), doc="local training")
    downlink: Wire = knob(factory=Wire, doc="codec of the broadcast")
    uplink: Wire = knob(factory=Wire, doc="codecs and protection of the updates")
    talk: Wire = knob(factory=Wire, doc="codec of conversations inside a round")
    aggregate: Aggregator = knob(factory=lambda: load("mean")(), doc="messages to one vector")
    server: Server = knob(
        factory=Server, doc="what the server does with it; null: the client's own half, else apply"
    )
    pace: Pace = knob(factory=Pace, doc="when a round closes")
    adversary: Adversary = knob(factory=Adversary, doc="malicious parties")
    detect: Detector = knob(factory=Detector, doc="whose message is refused")
    evaluate: Evaluator = knob(factory=lambda: load("held-out")(), doc="when and on what the model is scored")
    value: Valuer = knob(factory=Valuer, doc="contribution of each party")
    reward: Reward = knob(factory=Reward, doc="payments")
    engine: Any = knob(factory=lambda: load("inprocess")(), doc="where sessions run; never changes a result")
    rounds: int = knob(10, "rounds to run", low=0)
    horizon: int | None = knob(
        None, "rounds for which schedules and noise are made, however many are run; null: `rounds`", low=1
    )
    seed: int = knob(0, "seed of every stream of randomness", low=0)
    threads: int = knob(
        1, "threads of one worker; part of the run's identity, because it changes bits", low=1, high=1024
    )
    fold: str = knob(
        "float", "the sum: fp32 in release order, or exact fixed point", choices=("float", "fixed")
    )
    device: str = knob("auto", "auto, cpu or cuda")

    stages: tuple[Federation, ...] = knob((), "federations that run before this one, as a warm start")

    simulated = True  # a real party's process says otherwise

    def __post_init__(self) -> None:
        shared = {k: getattr(self, k) for k in SHARED}
        g = self.stages or ()
        if not (isinstance(g, list | tuple) and all(isinstance(s, Federation) for s in g)):
            what = f"{str(g)[:80]!r} is no list of federations"
            raise ConfigError(
                [Problem("stages", what, "each runs before this one", "stages=(FEDERATION, ...)")]
            )
        flat = (part for s in g for part in (*s.stages, s))
        object.__setattr__(self, "stages", tuple(replace(s, **shared, stages=()) for s in flat))

    @property
    def each(self) -> tuple[Federation, ...]:
        """All stages in order, this one last; each knows those before it."""
        return *(replace(s, stages=self.stages[:k]) for k, s in enumerate(self.stages)), self

    @property
    def since(self) -> int:
        """Rounds of the stages before."""
        return sum(s.rounds for s in self.stages)

    @property
    def last(self) -> int:
        """The number of rounds done after which this stage ends."""
        return self.since + self.rounds

    @property
    def span(self) -> int:
        """The horizon: rounds of the whole run. An extended run keeps it."""
        return self.rounds if self.horizon is None else self.horizon

    def methods(self) -> dict[str, Slot]:
        """What fills the slots, where it is a method."""
        named = {f.name: vars(self)[f.name] for f in fields(self)} | {"server": self.serving}
        return {slot: v for slot, v in named.items() if isinstance(v, Slot)}

    @functools.cached_property
    def serving(self) -> Server:
        """The server that serves: the one named, else the client's own half, else `apply` for what clients send."""
        if not self.server.identity():
            return self.server
        half = self.client.server_half()
        if half is not None:
            return half
        kind = self.client.makes
        apply: Server = load("apply")(takes=kind) if kind in ("delta", "weights") else load("apply")()
        return apply


def readers(fed: Federation) -> Iterator[tuple[str, str]]:
    """(slot, name) of everything that reads single messages."""
    for slot, method in (
        ("aggregate", fed.aggregate),
        ("value", fed.value),
        ("detect", fed.detect),
        ("adversary", fed.adversary),
    ):
        if method.reads:
            yield slot, name_of(method)
