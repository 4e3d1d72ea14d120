"""What a run owes to the wall and to nothing else: which party came when, and whose session ended before its end.

It stands in the run's folder, `arrivals.jsonl`, each line durable before the run acts on it. With it and everybody's
rows the run can be done again in one process (`deploy/course/replay.py`), bit for bit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedfm.core.errors import ResumeError
from fedfm.core.job import Job, Said
from fedfm.files import cannot_write, write

FILE = "arrivals.jsonl"
Key = tuple[str, str, int, int]  # a session, by what is the same in every run


@dataclass
class Names:
    """Names sessions by kind, party, round, and which of its kind it is since that round was sealed (training: 0)."""

    sealed: int = -1  # rounds that have been committed; -1: not even the scores of the beginning
    asked: int = 0

    def of(self, job: Job) -> Key:
        """To be asked once for each session, in the order in which they are begun."""
        if job.kind == "train":
            return "train", job.id, job.round, 0
        self.asked += 1
        return job.kind, job.id, self.sealed, self.asked

    def seal(self, round: int) -> None:
        """A round has been committed."""
        self.sealed, self.asked = round, 0


@dataclass(frozen=True)
class End:
    """How a session ended early: after `turn` words, and whether it then waited for an answer to the last."""

    turn: int
    waits: bool
    error: str
    fault: str = "party"
    where: str = ""
    events: tuple[dict[str, Any], ...] = ()

    def said(self, id: str, epoch: int) -> Said:
        """The word that the hub hears."""
        told: Any = {"error": self.error, "fault": self.fault, "where": self.where, "events": self.events}
        return Said(id, epoch, "gone", last=True, turn=self.turn, **told)


@dataclass(frozen=True)
class Recorded:
    """What the file holds. `joined`: by the rounds that were sealed then (-1: none), rows by party.

    `blank`: sessions that began from no state, as their party had lost its own. `moments`: when their work was there, on a
    clock that runs while a round is open.
    """

    joined: dict[int, dict[str, int]] = field(default_factory=dict)
    ends: dict[Key, End] = field(default_factory=dict)
    blank: dict[Key, None] = field(default_factory=dict)
    moments: dict[Key, float] = field(default_factory=dict)

    def rows(self) -> dict[str, int]:
        """Of each party that has joined, how many it has told."""
        return {i: n for joined in self.joined.values() for i, n in joined.items()}

    def findings(self) -> tuple[str, ...]:
        """What somebody should know of it: whose memory of the run began anew."""
        rounds: dict[str, int] = {}
        for _, id, round, _ in self.blank:
            rounds[id] = min(round, rounds.get(id, round))
        return tuple(
            f"{id} had lost its states before round {k + 1}: what it remembered of this run began anew"
            for id, k in sorted(rounds.items())
        )


def read(folder: Path) -> Recorded:
    """The record of a run. Raises ResumeError for a line that is none."""
    found, sealed = Recorded(), -1
    for line in _lines(folder / FILE):
        if line["do"] == "sealed":
            sealed = line["round"]
        elif line["do"] == "joined":
            found.joined.setdefault(sealed, {})[line["id"]] = line["rows"]
        else:
            _of_session(found, line)
    return found


def _of_session(found: Recorded, line: dict[str, Any]) -> None:
    kind, id, round, number = line["session"]
    session = kind, id, round, number
    if line["do"] == "anew":  # after a restart, whatever became of it
        for known in (found.ends, found.blank, found.moments):
            known.pop(session, None)
    elif line["do"] == "blank":
        found.blank[session] = None
    elif line["do"] == "landed":
        found.moments[session] = line["at"]
    elif line["do"] == "gone":
        found.ends[session] = End(**line["end"] | {"events": tuple(line["end"]["events"])})


class Arrivals:
    """The record of a run that is under way, in its folder."""

    def __init__(self, folder: Path, sealed: int | None):
        """`sealed`: the round of the checkpoint that the run goes on from (None: it begins); what came after it is forgotten."""
        self.path, self.names = folder / FILE, Names()
        self.told = read(folder).rows()  # also by whom a dead attempt has heard after that
        kept = list(_upto(_lines(self.path), sealed))
        write(self.path, _bytes(kept))
        if sealed is not None:
            if {"do": "sealed", "round": sealed} not in kept:
                self.seal(sealed)
            self.names.seal(sealed)
        found = read(folder)
        self.rows, self._known = found.rows(), {*found.ends, *found.blank, *found.moments}

    def join(self, id: str, rows: int) -> None:
        """A party takes part from here on."""
        self.rows[id] = rows
        self._add({"do": "joined", "id": id, "rows": rows})

    def begin(self, job: Job) -> Key:
        """A session begins; one that outlives its round has ended before a restart, and begins anew."""
        if (session := self.names.of(job)) in self._known:
            self._known.remove(session)
            self._add({"do": "anew", "session": session})
        return session

    def end(self, session: Key, end: End) -> None:
        """A session has ended early."""
        self._known.add(session)
        self._add({"do": "gone", "session": session, "end": vars(end)})

    def blank(self, session: Key) -> None:
        """A session begins from no state: its party has lost the one that the run has accepted."""
        self._known.add(session)
        self._add({"do": "blank", "session": session})

    def land(self, session: Key, at: float) -> None:
        """A session's work is there, at a moment of the wall's clock."""
        self._known.add(session)
        self._add({"do": "landed", "session": session, "at": at})

    def seal(self, round: int) -> None:
        """A round has been committed."""
        self._add({"do": "sealed", "round": round})
        self.names.seal(round)

    def _add(self, line: Mapping[str, Any]) -> None:
        try:
            with self.path.open("ab") as f:
                f.write(_bytes([line]))
                f.flush()
                os.fsync(f.fileno())
        except OSError as e:
            raise cannot_write(self.path, e) from e


def _bytes(lines: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(x, separators=(",", ":")).encode() + b"\n" for x in lines)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of the file; half a line that a killed process left is none."""
    if not path.exists():
        return
    for number, raw in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not raw.endswith(b"\n"):
            return
        try:
            line = json.loads(raw)
            assert isinstance(line, dict) and isinstance(line["do"], str)
        except (ValueError, AssertionError, KeyError, RecursionError) as e:
            raise ResumeError(f"{path}, line {number}, is damaged ({e}): restore it") from e
        yield line


def _upto(lines: Iterable[dict[str, Any]], sealed: int | None) -> Iterator[dict[str, Any]]:
    """What was known when a round was sealed; all, where the process was killed before it could note that."""
    if sealed is None:
        return
    for line in lines:
        yield line
        if line == {"do": "sealed", "round": sealed}:
            return
