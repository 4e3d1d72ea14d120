"""An engine on which everything goes wrong that can go wrong between parties and server, the same way for the same seed.

What happens to a word follows from the seed and from whose word it is, in which round, and the how-many-eth; not from
when it is heard. So a run that is killed and resumed meets the same faults again, and a failure replays from its seed.
"""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from fedfm import files
from fedfm.core.job import Job, Said
from fedfm.core.message import Message
from fedfm.core.session import Site
from fedfm.engines.inprocess import InProcess, InProcessEngine
from fedfm.ledger import file as ledger

Who = tuple[str, int, str]  # kind of job, round, party
RATES = {"crash": 0.05, "lose": 0.04, "double": 0.1, "ghost": 0.1, "stale": 0.1, "late": 0.2}


class Killed(BaseException):
    """The server's process is gone."""


@dataclass
class Record:
    """What a faulty engine did."""

    lost: set[Who] = field(default_factory=set)  # whose upload or answer never arrived
    done: Counter[str] = field(default_factory=Counter)  # faults by kind


@dataclass(frozen=True)
class Faulty:
    """Spec of the engine. `die`: the server is killed before it hears so many words (0: never)."""

    seed: int
    record: Record = field(default_factory=Record, compare=False)
    die: int = 0

    def make(self) -> FaultyEngine:
        return FaultyEngine(self)


class FaultyEngine:
    """`inprocess`, with a bad line between it and the hub."""

    workers, ahead = 1, 3

    def __init__(self, spec: Faulty):
        self.spec, self.inner = spec, InProcess().make()
        self.order = random.Random(f"{spec.seed} order")
        self.jobs: dict[tuple[str, int], Job] = {}
        self.words: Counter[tuple[str, int]] = Counter()
        self.ready: list[Said] = []
        self.silent: list[tuple[str, int]] = []  # sessions whose word was lost: their end is a time-out
        self.old: list[Said] = []
        self.heard = 0

    def open(self, site: Site) -> None:
        self.inner.open(site)

    def start(self, job: Job, brief: Message) -> None:
        self.jobs[job.id, job.epoch] = job
        self.inner.start(job, brief)

    def send(self, id: str, epoch: int, message: Message) -> None:
        self.inner.send(id, epoch, message)

    def cancel(self, id: str, epoch: int) -> None:
        self.silent = [key for key in self.silent if key != (id, epoch)]
        self.inner.cancel(id, epoch)

    def keep(self, id: str, versions: set[int], upto: int) -> None:
        self.inner.keep(id, versions, upto)

    def close(self) -> None:
        self.inner.close()

    def next(self) -> Said:
        self.heard += 1
        if self.spec.die and self.heard >= self.spec.die:
            raise Killed
        while len(self.ready) < 3 and (said := self._said()) is not None:
            self.ready += self._fate(said)
        if not self.ready and self.silent:
            self.ready.append(self._gone(self.silent.pop(0), "nothing was heard of it any more"))
        if not self.ready:
            raise RuntimeError("every session waits: the hub asked for news that nobody can have")
        return self.ready.pop(self.order.randrange(len(self.ready)))

    def _said(self) -> Said | None:
        try:
            return self.inner.next()
        except RuntimeError:  # everybody waits for an answer
            return None

    def _fate(self, said: Said) -> list[Said]:
        """What the hub gets to hear in place of this word."""
        key = (said.id, said.epoch)
        job = self.jobs[key]
        if job.kind not in ("train", "ask") or said.phase in ("done", "gone"):
            return [said]
        self.words[key] += 1
        dice = random.Random(f"{self.spec.seed} {job.kind} {job.round} {job.id} {self.words[key]}")
        fate = next((name for name, rate in RATES.items() if dice.random() < rate), "")
        self.spec.record.done[fate] += 1
        if fate in ("crash", "lose"):
            if said.phase in ("upload", "answer") or not self._uploaded(key):
                self.spec.record.lost.add((job.kind, job.round, job.id))
            self.inner.cancel(*key)
            if fate == "crash":
                return [self._gone(key, "the connection was lost")]
            self.silent.append(key)
            return []
        self.old.append(said)
        if fate == "double":
            return [said, said]
        if fate == "stale":  # of a session that is no more
            return [replace(said, epoch=dice.choice((said.epoch - 1, 0, -1, said.epoch + 1000))), said]
        if fate == "ghost":  # a word that was heard before
            return [dice.choice(self.old), said]
        if fate == "late" and (more := self._said()) is not None:
            return [*self._fate(more), said]
        return [said]

    def _uploaded(self, key: tuple[str, int]) -> bool:
        return any((s.id, s.epoch) == key and s.phase == "upload" for s in self.old)

    def _gone(self, key: tuple[str, int], error: str) -> Said:
        return Said(*key, "gone", last=True, error=error)


@dataclass(frozen=True)
class Absent:
    """`inprocess`, where these parties never say a word: what a faulty run is compared with."""

    lost: frozenset[Who]

    def make(self) -> InProcessEngine:
        return AbsentEngine(self.lost)


class AbsentEngine(InProcessEngine):
    def __init__(self, lost: frozenset[Who]):
        super().__init__()
        self.lost, self.jobs = lost, dict[tuple[str, int], Job]()

    def start(self, job: Job, brief: Message) -> None:
        self.jobs[job.id, job.epoch] = job
        super().start(job, brief)

    def next(self) -> Said:
        said = super().next()
        job = self.jobs[said.id, said.epoch]
        if (job.kind, job.round, job.id) not in self.lost:
            return said
        self.cancel(said.id, said.epoch)
        return Said(said.id, said.epoch, "gone", last=True, error="absent")


@contextmanager
def bad_disk(seed: int, rate: float) -> Iterator[Counter[str]]:
    """fsync or rename of what a run writes fails now and then (full, read-only, broken): never silently."""
    dice, done = random.Random(f"{seed} disk"), Counter[str]()

    def sometimes(real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if dice.random() < rate:
                done[name] += 1
                code = dice.choice((errno.ENOSPC, errno.EROFS, errno.EIO))
                raise OSError(code, os.strerror(code))
            return real(*args)

        return call

    real = {name: getattr(os, name) for name in ("fsync", "replace")}

    class Disk:
        fsync, replace = (staticmethod(sometimes(real[name], name)) for name in real)

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

    here = (files.os, ledger.os)
    files.os, ledger.os = Disk(), Disk()  # type: ignore[assignment]
    try:
        yield done
    finally:
        files.os, ledger.os = here
