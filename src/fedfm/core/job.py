"""What the hub and a session say to each other: a job, and the words of its session."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from fedfm.core.context import Terms
from fedfm.core.message import Message, nothing
from fedfm.ledger.events import Line

UPLOAD = "upload"
VALIDATION = "\0validation"  # the case of rows that find the best round; no evaluator's case is called so
POOLED = "<everybody>"  # the id of the one owner of all data, a baseline
Fault = Literal["", "party", "method", "machine"]


@dataclass(frozen=True)
class Job:
    """One session to run. `epoch` is unique in the run, restarts included: every word carries it, so nothing late is mistaken.

    kind "train": a round's work; "ask": a question of the server-side slot `case`; "alone": train without the others;
    "score": measure the brief on a piece of the evaluator's `case`, at the server; "visit": measure it on a party's own
    test rows; "own": score what a party would use on them, or on its validation rows (`case`).
    """

    kind: str
    id: str
    epoch: int
    round: int = 0  # in which it begins: also the version of its brief
    attempt: int = 0
    base: int = 0  # the client state to start from
    due: float = 0.0  # simulated time at which its work is done, then at which its upload is there
    landed: bool = False  # the second of them
    position: int = 0  # in the plan
    terms: Terms = Terms()
    case: str = ""
    part: tuple[int, int] = (0, 1)  # score: this part of so many
    malicious: bool = False
    horizon: int = 0

    def order(self) -> tuple[float, int]:
        """Who is released first."""
        return self.due, self.epoch

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Job:
        """The inverse of `dataclasses.asdict`."""
        return cls(**plain | {"terms": Terms(**plain["terms"]), "part": tuple(plain["part"])})


@dataclass(frozen=True)
class Said:
    """What an engine hands to the hub: one utterance of one session, or its end (`phase` "done" or "gone").

    `fault` says whose a failure is, and `where` in which line: what the hub does about it depends on that alone.
    """

    id: str
    epoch: int
    phase: str
    message: Message = field(default_factory=nothing)
    state_version: int = 0
    last: bool = False  # the session ends with this
    events: tuple[Line, ...] = ()
    error: str = ""
    fault: Fault = ""
    where: str = ""
    turn: int = -1  # which word of its session, from 0; -1: an engine's own, about a session that broke
