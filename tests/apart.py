"""Parties apart: every party's rows and states live in a process of their own, forked before any data are opened.

The server's process has its own rows, public rows and test rows, and no party's: asking for one is an error.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from fedfm.core.federation import Federation
from fedfm.core.home import Home
from fedfm.core.job import Job, Said
from fedfm.core.loop import Run
from fedfm.core.message import Message
from fedfm.core.session import Guard
from fedfm.core.state import Store, freeze, thaw
from fedfm.data.splits import opened
from fedfm.engines.inprocess import InProcessEngine
from fedfm.engines.processes import _receive, _send, _work
from fedfm.files import write
from fedfm.laws.homes import Played
from fedfm.ledger import file as ledger
from fedfm.running.course.stages import begun
from fedfm.tasks.beginning.warm import begin, trail


class Only:
    """A data set of which one side may see its own part: a party its rows, the server ("") everything but rows."""

    def __init__(self, parties: Any, whose: str):
        self._parties, self._whose = parties, whose
        self.ids, self.labels, self.schema = parties.ids, parties.labels, parties.schema  # agreed beforehand
        if not whose:
            self.server, self.public, self.group = parties.server, parties.public, parties.group

    def train(self, id: str) -> Any:
        assert id == self._whose, f"'{self._whose or 'the server'}' asked for the rows of {id}"
        return self._parties.train(id)

    def test(self, id: str | None = None) -> Any:
        assert id == (self._whose or None), f"'{self._whose or 'the server'}' asked for the test rows of {id}"
        return self._parties.test(id)

    def __getattr__(self, name: str) -> Any:
        if name in ("shards", "held_out", "pooled", "distribution"):
            raise AssertionError(f"'{self._whose or 'the server'}' asked for `{name}`")
        return getattr(self._parties, name)


class Apart:
    """The engine: a pipe to each party's process; scores run at the server."""

    workers, ahead = 1, 2

    def __init__(self, fed: Federation, folder: Path, ids: tuple[str, ...]):
        fork = multiprocessing.get_context("fork")
        self._pipes: dict[str, Connection] = {}
        self._processes = []
        for id in ids:
            ours, theirs = fork.Pipe()
            others = [ours, *self._pipes.values()]
            process = fork.Process(target=_party, args=(theirs, others, fed, folder, id), daemon=True)
            process.start()
            theirs.close()
            self._pipes[id] = ours
            self._processes.append(process)
        self.rows = {id: int(_receive(pipe)[0]["rows"]) for id, pipe in self._pipes.items()}
        self._scores, self._at_home = InProcessEngine(), set[int]()
        self._heard: deque[Said] = deque()

    def open(self, home: Any) -> None:
        self._scores.open(home)

    def start(self, job: Job, brief: Message) -> None:
        from dataclasses import asdict

        if job.kind == "score":
            self._at_home.add(job.epoch)
            self._scores.start(job, brief)
        else:
            _send(
                self._pipes[job.id],
                {"do": "start", "job": asdict(job), "brief": job.epoch, "keep": [job.epoch]},
                brief,
            )

    def send(self, id: str, epoch: int, message: Message) -> None:
        _send(self._pipes[id], {"do": "send", "id": id, "epoch": epoch}, message)

    def cancel(self, id: str, epoch: int) -> None:
        if epoch in self._at_home:
            self._scores.cancel(id, epoch)
        else:
            _send(self._pipes[id], {"do": "cancel", "id": id, "epoch": epoch}, None)

    def keep(self, id: str, versions: set[int], upto: int) -> None:
        _send(
            self._pipes[id],
            {"do": "keep", "id": id, "epoch": 0, "versions": sorted(versions), "upto": upto},
            None,
        )

    def next(self) -> Said:
        if self._scores._todo:
            return self._scores.next()
        while not self._heard:
            for pipe in wait(list(self._pipes.values())):
                head, message = _receive(pipe)  # type: ignore[arg-type]
                self._heard.append(Said(**head | {"events": tuple(head["events"]), "message": message}))
        return self._heard.popleft()

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        for pipe in self._pipes.values():
            pipe.close()


def _party(pipe: Connection, others: list[Connection], fed: Federation, folder: Path, id: str) -> None:
    torch.set_num_threads(1)
    parties = Only(opened(fed.data, fed.seed, fed.task), id)
    bound = fed.task.open(parties)
    if fed.stages:  # told by the server
        bound.init = thaw(folder / "start.safetensors")["start"]
    guard = Guard(fed, bound, parties, Store(folder / "sites" / str(len(fed.stages)) / id))
    _send(pipe, {"rows": len(parties.train(id))}, None)
    _work(pipe, others, guard)


@contextmanager
def _opened(
    fed: Federation, folder: Path, ids: tuple[str, ...], resume: bool, last: Run | None
) -> Iterator[Run]:
    kept = 1.0
    if last is not None:
        bound = fed.task.open(Only(opened(fed.data, fed.seed, fed.task), ""))
        start, kept = begin(bound, trail(last.bound, last.model()))
        write(folder / "start.safetensors", freeze({"start": start}))
    engine = Apart(fed, folder, ids)  # before anything is opened here
    try:
        parties = Only(opened(fed.data, fed.seed, fed.task), "")
        bound = fed.task.open(parties)
        if last is not None:
            bound.init = start
        rows: Mapping[str, int] = {i: engine.rows[i] for i in ids}
        home = Home(fed, bound, rows, parties)
        engine.open(home)
        run = Run(fed, folder, home, engine, resume, last.state if last else None)
        if last is not None:
            begun(run, len(fed.stages), kept)
        yield run
    finally:
        engine.close()


def play(fed: Federation, folder: Path, *, resume: bool = False) -> Played:
    """Run `fed` with its parties apart."""
    ids = opened(fed.data, fed.seed, fed.task).ids  # what a server's config would name
    records: list[dict[str, Any]] = []
    last: Run | None = None
    for part in fed.each:
        with _opened(part, folder, ids, resume, last) as run:
            records += run.rounds()
        last = run
    events = folder / "events.jsonl"
    return Played(run, records, list(ledger.read(events)), ledger.digest(events))
