"""Sessions in this very process, one after the other: a debugger works in client code."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass

from fedfm.cards.registry import method
from fedfm.core.job import Job, Said
from fedfm.core.message import Message
from fedfm.core.session import Site


@method("inprocess", slot="engine", section="VIII.B", also=("simulation", "serial"))
@dataclass(frozen=True)
class InProcess:
    """One process, no server, no daemon: the default, and the reference for every other engine."""

    def make(self) -> InProcessEngine:
        return InProcessEngine()


class InProcessEngine:
    """Runs a session only when the hub asks for news, so nothing is computed ahead of need."""

    ahead = 1
    workers = 1

    def __init__(self) -> None:
        self._todo: deque[tuple[str, int, Message | None]] = deque()
        self._talks: dict[tuple[str, int], Generator[Said, Message, None]] = {}

    def open(self, site: Site) -> None:
        self._site = site

    def start(self, job: Job, brief: Message) -> None:
        self._talks[job.id, job.epoch] = self._site.run(job, brief)
        self._todo.append((job.id, job.epoch, None))

    def send(self, id: str, epoch: int, message: Message) -> None:
        self._todo.append((id, epoch, message))

    def next(self) -> Said:
        while self._todo:
            id, epoch, message = self._todo.popleft()
            if (talk := self._talks.get((id, epoch))) is None:
                continue  # cancelled
            said = next(talk) if message is None else talk.send(message)
            if said.last:
                del self._talks[id, epoch]
            return said
        raise RuntimeError("every session waits: the hub asked for news that nobody can have")

    def cancel(self, id: str, epoch: int) -> None:
        if (talk := self._talks.pop((id, epoch), None)) is not None:
            talk.close()

    def keep(self, id: str, versions: set[int], upto: int) -> None:
        self._site.store.keep(id, versions, upto)

    def close(self) -> None:
        for talk in self._talks.values():
            talk.close()
        self._talks.clear()
        self._todo.clear()
