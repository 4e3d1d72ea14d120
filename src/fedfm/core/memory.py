"""What the server remembers between rounds, and one round under way."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from fedfm.core.context import Ctx
from fedfm.core.errors import ResumeError
from fedfm.core.fold import Fold
from fedfm.core.hub import Session
from fedfm.core.job import Job
from fedfm.core.message import Message
from fedfm.core.protocols import Plan, State
from fedfm.core.state import Store, freeze, thaw
from fedfm.files import write

FORMAT = 2  # of checkpoints
Replaced = tuple[str, set[int], int]  # a party whose states moved, the versions to keep, up to which version


@dataclass
class RunState:
    """All that the server must remember between rounds; one file a round."""

    stage: int = 0
    round: int = 0  # numbered through all stages
    attempt: int = 0
    clock: float = 0.0  # simulated seconds
    epoch: int = 0  # sessions begun so far, those of dead attempts included
    server: State = field(default_factory=dict)
    slots: dict[str, State] = field(default_factory=dict)  # of every other server-side slot
    decode: dict[str, int] = field(default_factory=dict)  # sender -> version of the uplink's memory of it
    down: dict[str, int] = field(default_factory=dict)  # receiver -> version of what the downlink remembers
    pending: dict[str, State] = field(default_factory=dict)  # the downlink's, once the receiver has answered
    accepted: dict[str, int] = field(default_factory=dict)  # client -> version of its state
    busy: dict[str, Job] = field(default_factory=dict)  # sessions under way
    briefs: dict[str, State] = field(default_factory=dict)  # what they started from, by version and terms
    ledger: int = 0  # committed bytes
    metrics: int = 0

    def succeeded(self, fresh: RunState) -> RunState:
        """The first state of the next stage: `fresh`, and what is counted through."""
        counted = {k: vars(self)[k] for k in ("round", "attempt", "clock", "epoch", "ledger", "metrics")}
        return replace(fresh, stage=self.stage + 1, **counted)

    def save(self, path: Path) -> None:
        plain = vars(self) | {"busy": {i: asdict(j) for i, j in self.busy.items()}}
        write(path, freeze({"format": FORMAT, **plain}))

    @classmethod
    def load(cls, path: Path) -> RunState:
        plain = thaw(path)
        if (found := plain.pop("format", 1)) != FORMAT:
            fix = "resume it with the release that began it"
            raise ResumeError(f"{path} has format {found}, this release reads {FORMAT}: {fix}")
        return cls(**plain | {"busy": {i: Job.of(j) for i, j in plain["busy"].items()}})


class Memories:
    """What the server remembers of each party on one wire: a file a party, written only when it moved."""

    def __init__(self, folder: Path, versions: dict[str, int]):
        self.store, self.versions = Store(folder), versions
        self.before = dict(versions)  # what the last checkpoint names
        self._held: dict[str, State] = {}

    def of(self, id: str) -> State:
        if id not in self._held:
            self._held[id] = self.store.load(id, self.versions.get(id, 0))
        return self._held[id]

    def move(self, id: str, state: State, version: int) -> None:
        self._held[id] = state
        if saved := self.store.save(id, version, state):
            self.versions[id] = saved
        else:
            self.versions.pop(id, None)

    def settle(self) -> None:
        """A checkpoint has been written: what neither it nor the one before names can go."""
        for id in self.versions.keys() | self.before.keys():
            if (new := self.versions.get(id, 0)) != (old := self.before.get(id, 0)):
                self.store.keep(id, {old, new}, max(old, new))
        self.before = dict(self.versions)


@dataclass
class Round:
    """One round under way; nothing of it lasts unless it succeeds."""

    ctx: Ctx
    slots: dict[str, State]  # the server-side slots' own, as they will be
    start: float  # simulated seconds
    folds: dict[str, Fold] = field(default_factory=dict)  # by group: one at the root, or one at every edge
    plan: Plan = field(default_factory=lambda: Plan(()))
    queue: list[Job] = field(default_factory=list)  # with those of earlier rounds at work, by completion
    seen: int = 0  # of the queue
    kept: dict[str, Session] = field(default_factory=dict)  # the contributors
    messages: dict[str, Message] = field(default_factory=dict)  # theirs, where somebody reads single ones
    decoders: dict[str, State] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    failed: str = ""
    replaced: list[Replaced] = field(default_factory=list)
    last: float = field(default_factory=time.perf_counter)
    seconds: Counter[str] = field(default_factory=Counter)  # wall seconds by what they were spent on

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] += now - self.last  # type: ignore[assignment]
        self.last = now
