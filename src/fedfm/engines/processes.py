"""Sessions in worker processes of this machine, one client at a time each.

The workers are forked from the process that has loaded the frozen base and encoded the data, so they are ready at
once and share its memory pages; what a client trains lies in the worker's own small buffer. Frames on the pipes are
a JSON line and a safetensors message: nothing is pickled. A generator lives in the worker that started it, and a
suspended session does not occupy the worker.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import signal
import threading
from collections import deque
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, ClassVar

import torch

from fedfm.cards.registry import knob, method
from fedfm.checks.place import forked
from fedfm.core.errors import FedfmError, MachineFault
from fedfm.core.job import Job, Said
from fedfm.core.message import Message, unpack
from fedfm.core.session import Site
from fedfm.engines.desk import Desk
from fedfm.engines.frames import LENGTHS, pieces, same, told, word
from fedfm.files import short
from fedfm.machine import cores

KEPT = 8  # briefs that a worker remembers
_VECTORS = 64  # pieces a system call; the limit is 1024


@method("processes", slot="engine", section="VIII.B", also=("multiprocessing", "parallel"))
@dataclass(frozen=True)
class Processes:
    """Worker processes on one machine; the same bits as `inprocess`."""

    workers: int = knob(0, "worker processes; 0: one a core", low=0, high=1024)

    forks: ClassVar[bool] = True  # this process: CUDA must not have been started in it

    def make(self) -> ProcessEngine:
        return ProcessEngine(self.workers or cores())


@dataclass
class _Worker:
    pipe: Connection
    process: Any
    load: int = 0  # sessions handed over that have not yet said their first word
    briefs: list[int] = field(default_factory=list)


class ProcessEngine:
    """Hands each job to the least loaded worker, at most two deep, so that none idles and none hoards."""

    DEPTH = 2

    def __init__(self, workers: int):
        self.workers = workers
        self.ahead = workers * self.DEPTH + workers
        self._pool: list[_Worker] = []
        self._queue: deque[tuple[Job, Message]] = deque()
        self._home: dict[tuple[str, int], _Worker] = {}
        self._fresh: set[tuple[str, int]] = set()
        self._heard: deque[Said] = deque()
        self._briefs: deque[tuple[int, Message]] = deque(maxlen=KEPT)

    def open(self, site: Site) -> None:
        if site.bound.device.type == "cuda":
            raise FedfmError(
                "engine=processes forks, and a process that uses CUDA cannot be forked: use engine=inprocess"
            )
        self._site = site
        try:
            for _ in range(self.workers):
                self._pool.append(self._hired(site))
        except Exception as e:
            begun = len(self._pool)
            self.close()
            if (fault := short(e)) is None:
                raise
            some = f"engine.workers={begun // 2}" if begun > 1 else "engine=inprocess"
            raise MachineFault(
                f"{fault}\n    fix: or {some}: {begun} of {self.workers} workers could be started"
            ) from e

    def _hired(self, site: Site) -> _Worker:
        fork = multiprocessing.get_context("fork")
        ours, theirs = fork.Pipe()
        try:
            inherited = [ours, *(w.pipe for w in self._pool)]
            process = fork.Process(target=_work, args=(theirs, inherited, site), daemon=True)
            process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return _Worker(ours, process)

    def start(self, job: Job, brief: Message) -> None:
        self._queue.append((job, brief))
        self._feed()

    def send(self, id: str, epoch: int, message: Message) -> None:
        self._put(self._home[id, epoch], {"do": "send", "id": id, "epoch": epoch}, message)

    def cancel(self, id: str, epoch: int) -> None:
        self._queue = deque((j, b) for j, b in self._queue if (j.id, j.epoch) != (id, epoch))
        if (worker := self._home.pop((id, epoch), None)) is not None:
            self._put(worker, {"do": "cancel", "id": id, "epoch": epoch}, None)
            if (id, epoch) in self._fresh:
                self._fresh.discard((id, epoch))
                worker.load -= 1
        self._feed()

    def keep(self, id: str, versions: set[int], upto: int) -> None:
        self._site.store.keep(id, versions, upto)  # the workers write to the same folder

    def next(self) -> Said:
        while not self._heard:
            self._listen()
        return self._heard.popleft()

    def close(self) -> None:
        for w in self._pool:
            try:
                os.write(w.pipe.fileno(), LENGTHS.pack(0, 0))
            except OSError:
                pass
        for w in self._pool:
            w.process.join(timeout=5)
            if w.process.is_alive():
                w.process.kill()
            w.pipe.close()
        self._pool.clear()

    # ---- plumbing ---------------------------------------------------------------------------------------------
    def _listen(self) -> None:
        ready = wait([w.pipe for w in self._pool])
        for worker in self._pool:
            if worker.pipe not in ready:
                continue
            try:
                head, message = _receive(worker.pipe)
            except (EOFError, OSError):
                self._bury(worker)
                continue
            said = word(head, message)
            key = (said.id, said.epoch)
            if self._home.get(key) is not worker:
                continue  # cancelled meanwhile
            if key in self._fresh:
                self._fresh.discard(key)
                worker.load -= 1
            if said.last:
                del self._home[key]
            self._heard.append(said)
            self._feed()

    def _bury(self, worker: _Worker) -> None:
        """A worker died: its sessions are gone, the others go on."""
        self._pool.remove(worker)
        worker.process.join(timeout=1)
        code = worker.process.exitcode
        lost = [key for key, w in self._home.items() if w is worker]
        for key in lost:
            del self._home[key]
            self._fresh.discard(key)
            self._heard.append(
                Said(
                    key[0],
                    key[1],
                    "gone",
                    last=True,
                    error=f"its worker process died (exit code {code})",
                    fault="machine",
                )
            )
        if not self._pool:
            doing = f" while it worked for {', '.join(sorted({key[0] for key in lost}))}" if lost else ""
            raise MachineFault(
                f"all worker processes died, the last with exit code {code}{doing}\n    why: with -9 often for want of memory, "
                "else something in the work ends its process (os._exit, a crash of a library)\n    fix: fewer workers "
                "(engine.workers=1), or take that out; fedfm resume continues this run"
            )
        self._feed()

    def _feed(self) -> None:
        while self._queue and self._pool:
            worker = min(self._pool, key=lambda w: w.load)
            if worker.load >= (self.DEPTH if self._queue[0][0].kind == "train" else 1):
                return  # a baseline is long: nothing waits behind it
            job, brief = self._queue.popleft()
            key = self._key(brief)
            known = key in worker.briefs
            if not known:
                worker.briefs = [*worker.briefs, key][-KEPT:]
            self._put(
                worker,
                {"do": "start", "job": asdict(job), "brief": key, "keep": worker.briefs},
                None if known else brief,
            )
            worker.load += 1
            self._home[job.id, job.epoch] = worker
            self._fresh.add((job.id, job.epoch))

    def _key(self, brief: Message) -> int:
        """A number for a brief, so that it crosses each pipe once."""
        for key, known in self._briefs:
            if same(known, brief):
                return key
        self._briefs.append((self._briefs[-1][0] + 1 if self._briefs else 0, brief))
        return self._briefs[-1][0]

    def _put(self, worker: _Worker, head: dict[str, Any], message: Message | None) -> None:
        try:
            _send(worker.pipe, head, message)
        except OSError:
            pass  # its death is heard by `_listen`


def _send(pipe: Connection, head: dict[str, Any], message: Message | None) -> None:
    """One frame: its two lengths, the line, the message; no tensor is copied but by the kernel."""
    left = [memoryview(p) for p in pieces(head, message) if len(p)]
    while left:
        sent = os.writev(pipe.fileno(), left[:_VECTORS])
        while left and sent >= len(left[0]):
            sent -= len(left.pop(0))
        if sent:
            left[0] = left[0][sent:]


def _receive(pipe: Connection) -> tuple[dict[str, Any], Message | None]:
    """The inverse of `_send`. Raises EOFError when the other side is gone or says goodbye."""
    line, body = LENGTHS.unpack(_read(pipe, LENGTHS.size))
    if not line:
        raise EOFError
    head = json.loads(bytes(_read(pipe, line)))
    return head, unpack(_read(pipe, body)) if body else None


def _read(pipe: Connection, size: int) -> memoryview:
    """Exactly `size` bytes, in memory of their own."""
    frame = torch.empty(size, dtype=torch.uint8).numpy().data
    at = 0
    while at < size:
        got = os.readv(pipe.fileno(), [frame[at:]])
        if not got:
            raise EOFError
        at += got
    return frame


def _work(pipe: Connection, others: list[Connection], site: Site) -> None:
    """The life of one worker: start, continue or drop sessions as told; die with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for other in others:
        other.close()
    torch.set_num_threads(site.fed.threads)
    forked()
    inbox: queue.SimpleQueue[tuple[dict[str, Any], Message | None]] = queue.SimpleQueue()
    threading.Thread(target=_drain, args=(pipe, inbox), daemon=True).start()
    desk = Desk(site)
    while True:
        while not desk.todo or not inbox.empty():
            desk.told(*inbox.get())
        if (said := desk.step()) is not None:
            _send(pipe, told(said), said.message)


def _drain(pipe: Connection, inbox: queue.SimpleQueue[tuple[dict[str, Any], Message | None]]) -> None:
    """Always read: were the pipe full while we write an upload, parent and worker would wait for each other."""
    try:
        while True:
            inbox.put(_receive(pipe))
    except (EOFError, OSError):
        os._exit(0)
