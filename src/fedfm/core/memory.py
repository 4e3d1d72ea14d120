"""What the server remembers between rounds, and one round under way."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fedfm.core.context import Ctx
from fedfm.core.fold import Fold
from fedfm.core.hub import Session
from fedfm.core.message import Message
from fedfm.core.protocols import Plan, State
from fedfm.core.session import Job
from fedfm.core.state import freeze, thaw, write


@dataclass
class RunState:
    """All that the server must remember between rounds; one file a round."""

    round: int = 0
    attempt: int = 0
    clock: float = 0.0  # simulated seconds
    epoch: int = 0  # sessions begun so far
    server: State = field(default_factory=dict)
    select: State = field(default_factory=dict)
    reward: State = field(default_factory=dict)
    down: State = field(default_factory=dict)  # the downlink's, at the server
    decode: dict[str, State] = field(default_factory=dict)  # the uplink's memory of each sender
    accepted: dict[str, int] = field(default_factory=dict)  # client -> version of its state
    busy: dict[str, Job] = field(default_factory=dict)  # sessions under way
    briefs: dict[str, State] = field(default_factory=dict)  # what they started from, by version and shape
    ledger: int = 0  # committed bytes
    metrics: int = 0

    def save(self, path: Path) -> None:
        write(path, freeze(vars(self) | {"busy": {i: asdict(j) for i, j in self.busy.items()}}))

    @classmethod
    def load(cls, path: Path) -> RunState:
        plain = thaw(path)
        return cls(**plain | {"busy": {i: Job.of(j) for i, j in plain["busy"].items()}})


@dataclass
class Round:
    """One round under way; nothing of it lasts unless it succeeds."""

    ctx: Ctx
    plan: Plan
    select: State  # the selector's, once the round has succeeded
    queue: list[Job]  # with those that earlier rounds left at work, in order of completion
    start: float  # simulated seconds
    down: State  # the downlink's, before this round's briefs
    fold: Fold
    seen: int = 0  # of the queue
    kept: dict[str, Session] = field(default_factory=dict)  # the contributors
    messages: dict[str, Message] = field(default_factory=dict)  # theirs, where somebody reads single ones
    decoders: dict[str, State] = field(default_factory=dict)
    failed: str = ""
    last: float = field(default_factory=time.perf_counter)
    seconds: Counter[str] = field(default_factory=Counter)  # wall seconds by what they were spent on

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] += now - self.last  # type: ignore[assignment]
        self.last = now
