"""Events: one type a fact that a run may note. Each says who may note it, and what of it may leave the house.

A method's own facts are types in the method's file; the loop's are here. In the ledger an event is a line of JSON:
its fields, and `round`, `kind` and `client`. Under a protection a second ledger is written for others, which holds
the fields that a type `shows`: by default none, and not even that it happened.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

Line = dict[str, Any]  # an event as the ledger holds it
KINDS: dict[str, type[Event]] = {}


@dataclass(frozen=True)
class Event:
    """A fact; subclass it as a frozen dataclass, and give it to `ctx.note`.

    `shows`: the fields that those outside may read although somebody is to be protected, because they follow from
    the config alone; None: not even that it happened. `server`: a party cannot note it. `clocked`: a clock made it,
    so no two runs agree on it and the ledger's digest leaves it out.
    """

    kind: ClassVar[str] = ""
    shows: ClassVar[tuple[str, ...] | None] = None
    server: ClassVar[bool] = False
    clocked: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        cls.kind = cls.__dict__.get("kind") or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
        before = KINDS.setdefault(cls.kind, cls)
        if (before.__module__, before.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(
                f"{before.__module__}.{before.__qualname__} notes '{cls.kind}' already: rename {cls.__qualname__}"
            )
        KINDS[cls.kind] = cls

    @classmethod
    def counted(cls, line: Line) -> Collection[str] | None:
        """Of an aggregator that chooses: whose messages counted of those that it combined, or, in an event of one party's
        message, that party or nobody. None: the event says nothing of it."""
        return None

    def facts(self) -> dict[str, Any]:
        """Its fields, as JSON knows them."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def counted(line: Line) -> Collection[str] | None:
    """Whose messages counted, where the event says so: of all that were combined, or whether its own party's did."""
    cls = KINDS.get(str(line.get("kind")))
    return None if cls is None else cls.counted(line)


def shown(line: Line) -> Line | None:
    """What those outside may read of an event under a protection; None: nothing. A kind that is not known is not shown."""
    cls = KINDS.get(str(line.get("kind")))
    if cls is None or cls.shows is None:
        return None
    return {k: line[k] for k in (*cls.shows, "round", "kind") if k in line}


def of_server(line: Line) -> bool:
    """May only the server note it?"""
    cls = KINDS.get(str(line.get("kind")))
    return cls is not None and cls.server


# ---- of the loop ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Planned(Event):
    """Whom a round asks to work, and how they were drawn."""

    clients: list[str]
    sampling: dict[str, Any]
    kind = "plan"
    shows = ("sampling",)
    server = True


@dataclass(frozen=True)
class Upload(Event):
    """A party's message, before it is encoded. `told`: in simulation, what the party's own method says of its work."""

    mass: float | list[float]
    version: int
    told: Mapping[str, Any]

    def facts(self) -> dict[str, Any]:
        """A fact of the method stands beside the others, and in the place of none."""
        own = {"mass": self.mass, "version": self.version}
        return own | dict(self.told) | own


@dataclass(frozen=True)
class Bytes(Event):
    """Bytes on the wire: `direction` up, down or talk; after each stage of the uplink."""

    direction: str
    total: int
    stages: Mapping[str, int]


@dataclass(frozen=True)
class Seconds(Event):
    """CPU seconds of a party's local work, and of encoding it."""

    work: float
    encode: float
    clocked = True


@dataclass(frozen=True)
class Dropout(Event):
    """A party went away before `phase`."""

    phase: str
    reason: str


@dataclass(frozen=True)
class Failed(Event):
    """A party's work broke."""

    error: str
    server = True


@dataclass(frozen=True)
class Refused(Event):
    """A message that came was not used; `by`: the hub, or a detector."""

    by: str
    reason: str
    server = True


@dataclass(frozen=True)
class Late(Event):
    """A party's work came after its round had closed."""

    server = True


@dataclass(frozen=True)
class RoundFailed(Event):
    """A round moved nobody's state."""

    reason: str
    server = True


@dataclass(frozen=True)
class Stopped(Event):
    """The run ended before its last round: one more would exceed a budget, or validation rows gain no more."""

    reason: str
    shows = ()
    server = True


@dataclass(frozen=True)
class Edge(Event):
    """The sum of a group went up from its edge, once."""

    group: str
    parties: int
    bytes: int
    server = True


@dataclass(frozen=True)
class Value(Event):
    """A party's contribution to a round."""

    value: float
    server = True


@dataclass(frozen=True)
class Pay(Event):
    """A party's reward for a round."""

    amount: float
    server = True


@dataclass(frozen=True)
class Stage(Event):
    """A stage began (`stage`, from 1) from the model of the one before; `kept`: the share of what that one moved which its
    tuning can say; `metrics`: the scores of the start."""

    stage: int
    kept: float
    metrics: Mapping[str, float]
    shows = ("stage",)
    server = True
