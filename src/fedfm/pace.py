"""When a round closes: after all, at a deadline with a quorum, or at every K-th arrival (simulated time)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import torch

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.protocols import Load, Pace
from fedfm.vectors.patterns import matches


@method("lognormal", slot="speed", section="VII")
@dataclass(frozen=True)
class Speed:
    """How long a piece of work takes: mean_s, and step_s a local step, times a party's own and a round's own factor.

    Both factors are lognormal with mean 1, exp(s z - s^2 / 2); the party's is the same in every round. The
    default takes no time.
    """

    mean_s: float = knob(0.0, "mean duration in simulated seconds", low=0.0)
    spread: float = knob(
        0.0, "standard deviation of the logarithm between parties", low=0.0, only=(("mean_s", "step_s"), True)
    )
    jitter: float = knob(
        0.0, "the same between rounds of one party", low=0.0, only=(("mean_s", "step_s"), True)
    )
    step_s: float = knob(0.0, "mean simulated seconds of one local step", low=0.0)

    def duration(self, ctx: Ctx, steps: int = 0) -> float:
        """Seconds that `ctx.client` needs for so many steps in `ctx.round`."""
        own = _factor(self.spread, ctx.at(round=0).rng("speed"))
        return (self.mean_s + self.step_s * steps) * own * _factor(self.jitter, ctx.rng("jitter"))


@method("link", slot="link", section="VII")
@dataclass(frozen=True)
class Link:
    """How long bytes travel: latency_s and bytes over bandwidth, times a party's own lognormal factor (mean 1)."""

    up_mbit_s: float | None = knob(
        None, "bandwidth from the party, megabits a second; none: no limit", above=0.0
    )
    down_mbit_s: float | None = knob(None, "bandwidth to the party; none: no limit", above=0.0)
    latency_s: float = knob(0.0, "seconds before the first byte is there", low=0.0)
    spread: float = knob(0.0, "standard deviation of the logarithm between parties", low=0.0)

    def seconds(self, nbytes: int, mbit_s: float | None, ctx: Ctx) -> float:
        """Seconds for so many bytes to or from `ctx.client`."""
        own = _factor(self.spread, ctx.at(round=0).rng("link"))
        return (self.latency_s + (nbytes * 8e-6 / mbit_s if mbit_s else 0.0)) * own


def _factor(s: float, rng: torch.Generator) -> float:
    return math.exp(s * float(torch.randn((), dtype=torch.float64, generator=rng)) - s * s / 2)


NO_WAIT = Link()
WALL = "work takes the time it takes at real parties, not what speed and links say; no simulation can do that"


def by_the_wall(fed: Any) -> bool:
    """Are the seconds of this federation's pace those of real parties?"""
    return bool(getattr(fed.pace, "wall", False))


@dataclass(frozen=True, kw_only=True)
class SimulatedPace(Pace):
    """What all paces share: simulated durations, and parties that vanish in mid-session."""

    speed: Speed = knob(factory=Speed, doc="how long work takes")
    links: Mapping[str, Link] = knob(
        factory=dict,
        doc="pattern of parties -> link; who matches none has no wait",
        names=("some parties", ""),
    )
    dropout: float = knob(0.0, "probability that a party vanishes in a round", low=0.0, high=1.0)
    dropout_phase: str = knob(
        "upload",
        "before what it vanishes; empty: before its first word",
        names="phase",
        only=("dropout", True),
    )
    drop: Mapping[str, str] = knob(
        factory=dict, doc="party -> phase before which it vanishes, every round", names=("party", "phase")
    )

    def due(self, now: float, ctx: Ctx, load: Load) -> float:
        link = self._link(ctx.client)
        return now + link.seconds(load.down, link.down_mbit_s, ctx) + self.speed.duration(ctx, load.steps)

    def lands(self, due: float, nbytes: int, ctx: Ctx) -> float:
        link = self._link(ctx.client)
        return due + link.seconds(nbytes, link.up_mbit_s, ctx)

    def _link(self, party: str) -> Link:
        return next((link for p, link in self.links.items() if matches(p, party)), NO_WAIT)

    @property
    def loses(self) -> bool:
        return self.partial or bool(self.dropout or self.drop)

    def lost(self, phase: str, ctx: Ctx) -> bool:
        """One draw a party and round, so that whoever is lost is lost once, before its phase."""
        if ctx.client in self.drop and self.drop[ctx.client] in ("", phase):
            return True
        if not self.dropout or self.dropout_phase not in ("", phase):
            return False
        rng = ctx.at(path="").rng("dropout")
        return float(torch.rand((), dtype=torch.float64, generator=rng)) < self.dropout


@method(
    "synchronous",
    slot="pace",
    section="IV.A",
    survey=(25,),
    paper="McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017",
    atlas=("fedavg",),
    also=("sync",),
)
@dataclass(frozen=True)
class AllArrive(SimulatedPace):
    """The round waits for everybody who was planned and has not failed; it lasts as long as the slowest."""


@method(
    "quorum",
    slot="pace",
    section="VII",
    survey=(229,),
    paper="Bonawitz et al., Towards Federated Learning at Scale: System Design, 2019",
    reduces_to="quorum(fraction=0) is synchronous",
)
@dataclass(frozen=True)
class Quorum(SimulatedPace):
    """The round closes at a deadline and counts when ceil(fraction * planned) parties contributed.

    Work that is done exactly at the deadline is in time. `eager` closes already when the quorum has arrived.
    Late work is cancelled, or goes on and counts in the round in which it arrives.
    """

    fraction: float = knob(0.8, "share of the planned parties that must contribute", low=0.0, high=1.0)
    deadline_s: float | None = knob(
        None,
        "seconds until a round closes, simulated or the `wall`'s; none: no limit",
        above=0.0,
        only=(("speed.mean_s", "speed.step_s", "links", "wall"), True),
    )
    eager: bool = knob(False, "close as soon as the quorum has arrived")
    late: Literal["cancel", "keep"] = knob("cancel", "what becomes of late work", choices=("cancel", "keep"))
    wall: bool = knob(False, WALL)

    @property
    def partial(self) -> bool:  # type: ignore[override]
        return self.eager or self.deadline_s is not None

    @property
    def independent(self) -> bool:
        return not self.eager and self.late == "cancel"

    def quorum(self, planned: int) -> int:
        return max(1, math.ceil(round(self.fraction * planned, 9)))  # 0.07 * 100 is 7.000000000000001

    def enough(self, arrived: int, planned: int, waited_s: float) -> bool:
        d = self.deadline_s
        if d is not None and waited_s > d and not math.isclose(waited_s, d):  # 0.2 + 0.1 - 0.2 > 0.1
            return True
        return self.eager and arrived >= self.quorum(planned)


@method(
    "buffered",
    slot="pace",
    section="IV.A",
    survey=(215, 229),
    paper="Nguyen et al., Federated Learning with Buffered Asynchronous Aggregation, 2022",
    reduces_to="buffered(size=m, concurrency=m) is synchronous",
    atlas=("async",),
    also=("async", "asynchronous"),
)
@dataclass(frozen=True)
class Buffered(SimulatedPace):
    """Up to M = `concurrency` parties work at any time; the server steps at every K-th = `size`-th arrival.

    Nobody waits: work goes on across rounds and arrives with a staleness, the number of versions made
    meanwhile (about M / K on average); `fedbuff` discounts it. Combine with a selector whose plans are random
    in every part (uniform), for the places that became free go to the first of the plan. A round in which too
    many fail closes with fewer than K. ValueError when M < K.
    """

    size: int = knob(10, "contributions a round, K", low=1)
    concurrency: int = knob(20, "parties at work at any time, M", low=1)
    _: KW_ONLY
    speed: Speed = knob(factory=lambda: Speed(1.0, 0.5, 0.1), doc="how long work takes")
    wall: bool = knob(False, WALL)

    late = "keep"
    partial = True

    def __post_init__(self) -> None:
        if self.concurrency < self.size:
            raise ValueError(
                f"buffered waits for {self.size} contributions but lets only {self.concurrency} "
                "parties work: concurrency must be at least size"
            )

    def room(self, busy: int, want: int) -> int:
        return max(0, self.concurrency - busy)

    def enough(self, arrived: int, planned: int, waited_s: float) -> bool:
        return arrived >= self.size
