"""Sessions in the actors of a Ray cluster, for simulations that outgrow one machine.

Each actor opens data and model once; both lie under the same path on every machine, and where its rows, its model, its
processor or a version are others than here, the run is refused before work. Jobs are handed out longest first. Briefs,
words and states travel as the frames of `processes`, and a party's state with its job: only this machine has the
run's folder. Code of the user's own is sent as source.

Ray itself pickles between the machines of one cluster, and the federation's spec is sent that way: all of them are one
owner's, one trust domain. What parties say is never unpickled. Ray's ports are for a network that nobody else is in.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from fedfm.cards.registry import knob, method
from fedfm.core.errors import ConfigError, FedfmError, MachineFault, MissingExtra, Problem, words_of
from fedfm.core.job import POOLED, Job, Said
from fedfm.core.message import Message
from fedfm.core.session import Site
from fedfm.engines import actor
from fedfm.engines.carried import sources
from fedfm.engines.frames import parted, same, word
from fedfm.machine import cores

KEPT = 8  # briefs that an actor remembers
DEPTH = 2  # jobs at an actor that have not yet said their first word
WINDOW = 4  # sessions an actor that may be under way: the longest of them is handed out first
START_S = 300.0  # until all actors must have opened the federation


@method(
    "ray",
    slot="engine",
    section="VIII.B",
    paper="Moritz et al., Ray: A Distributed Framework for Emerging AI Applications, 2018",
)
@dataclass(frozen=True)
class Ray:
    """Actors of a Ray cluster, on one machine or several; the same bits as `inprocess`. Needs `fedfm[ray]`."""

    workers: int = knob(
        0, "actors; 0: one a core, or a GPU where the model is on one, of the cluster", low=0, high=65536
    )
    address: str = knob(
        "", "of a running cluster, HOST:PORT or auto; empty: RAY_ADDRESS, else one of this machine alone"
    )

    def make(self) -> RayEngine:
        return RayEngine(self)


@dataclass
class _Worker:
    actor: Any
    where: str = ""
    pid: int = 0
    fresh: dict[tuple[str, int], float] = field(default_factory=dict)  # jobs before their first word: lengths
    briefs: list[int] = field(default_factory=list)


class RayEngine:
    """Hands the longest job that waits to the actor with the least before it."""

    def __init__(self, spec: Ray):
        self.spec, self._ours = spec, False
        self.workers = spec.workers or cores()
        self._actors: list[_Worker] = []
        self._queue: list[tuple[float, Job, Message]] = []
        self._home: dict[tuple[str, int], _Worker] = {}
        self._due: dict[Any, tuple[str, int]] = {}  # answers of actors that are awaited: whose
        self._heard: deque[Said] = deque()
        self._briefs: deque[tuple[int, Message, Any]] = deque(maxlen=KEPT)

    @property
    def ahead(self) -> int:
        return self.workers * WINDOW

    def open(self, site: Site) -> None:
        self._site, self._ray = site, _ray()
        try:
            self._ours = _connect(self._ray, self.spec.address, self.workers * site.fed.threads)
            self._begin()
        except BaseException:
            self.close()
            raise

    def start(self, job: Job, brief: Message) -> None:
        self._queue.append((self._length(job), job, brief))

    def send(self, id: str, epoch: int, message: Message) -> None:
        head = {"do": "send", "id": id, "epoch": epoch}
        self._tell(self._home[id, epoch], (id, epoch), head, actor.packed(message), None)

    def cancel(self, id: str, epoch: int) -> None:
        key = id, epoch
        self._queue = [entry for entry in self._queue if (entry[1].id, entry[1].epoch) != key]
        if (worker := self._home.pop(key, None)) is not None:
            worker.fresh.pop(key, None)
            self._tell(worker, key, {"do": "cancel", "id": id, "epoch": epoch}, None, None)

    def keep(self, id: str, versions: set[int], upto: int) -> None:
        self._site.store.keep(id, versions, upto)

    def next(self) -> Said:
        while not self._heard:
            self._feed()
            self._listen()
        return self._heard.popleft()

    def close(self) -> None:
        for w in self._actors:
            self._leave(w.actor)
        self._actors.clear()
        self._due.clear()
        self._briefs.clear()
        if self._ours:
            self._ours = False
            self._ray.shutdown()

    # ---- its actors -------------------------------------------------------------------------------------------
    def _begin(self) -> None:
        """Start the actors, and have each open the federation. Raises ConfigError and FedfmError."""
        ray, site, fed = self._ray, self._site, self._site.fed
        cuda = site.bound.device.type == "cuda"
        have = ray.cluster_resources()
        room = int(have.get("GPU", 0)) if cuda else int(have.get("CPU", 0) // fed.threads)
        self.workers = self.spec.workers or max(1, room)
        if self.workers > room:
            raise ConfigError(
                [_crowded(self.workers, room, "GPUs" if cuda else f"times {fed.threads} cores")]
            )
        made = ray.remote(actor.Actor).options(
            num_cpus=fed.threads, num_gpus=int(cuda), max_restarts=0, scheduling_strategy="SPREAD"
        )
        given = [ray.put(x) for x in (sources(), self._parcel(), actor.packed(Message(site.bound.init)))]
        how = actor.how(site.bound.device.type)
        self._actors = [_Worker(self._take(made)) for _ in range(self.workers)]
        opening = {w.actor.open.remote(*given, how): w for w in self._actors}
        done, late = ray.wait(list(opening), num_returns=len(opening), timeout=START_S)
        if late:
            raise MachineFault(
                f"{len(done)} of {self.workers} actors have started within {START_S:g} s: the cluster is busy\n"
                f"    fix: engine.workers={len(done) or 1}, or wait until it is free"
            )
        here = actor.common(fed, site.bound, site.parties)
        for ref, w in opening.items():
            self._opened(w, ref, here)

    def _take(self, made: Any) -> Any:
        """A fresh actor."""
        return made.remote()

    def _leave(self, actor: Any) -> None:
        with contextlib.suppress(Exception):  # the cluster may be gone already
            self._ray.kill(actor)

    def _opened(self, worker: _Worker, ref: Any, here: dict[str, str]) -> None:
        """What an actor said when it had opened the federation; one that died is left out."""
        try:
            found = json.loads(self._ray.get(ref))
        except self._ray.exceptions.RayError as e:
            self._bury(worker, e)
            return
        worker.where, worker.pid = found["where"], found["pid"]
        if "error" in found:
            raise FedfmError(
                f"the worker on {worker.where} cannot open the federation: {found['error']}\n    why: each actor reads "
                "data and model itself\n    fix: let both lie under the same path on every machine, and install there "
                "what your own code imports"
            )
        for what, mine in here.items():
            if (theirs := found["facts"].get(what)) != mine:
                raise FedfmError(
                    f"{what} on {worker.where} is not what it is here: {str(theirs)[:40]}, not {mine[:40]}\n    why: where "
                    "a session runs must not change the result\n    fix: the same files, versions and kind of processor "
                    "on every machine (ATEN_CPU_CAPABILITY=avx2 makes processors alike)"
                )

    def _parcel(self) -> bytes:
        try:
            data: bytes = self._ray.cloudpickle.dumps(self._site.fed)
            return data
        except Exception as e:  # noqa: BLE001 - nobody can list what objects of strangers raise
            raise FedfmError(
                f"this federation cannot be sent to other machines: {words_of(e)[:300]}\n    why: it holds an object that "
                "cannot be pickled\n    fix: give the class or function that makes it, or engine=processes"
            ) from e

    def _bury(self, worker: _Worker, why: BaseException) -> None:
        """An actor died, or its machine: its sessions are gone, the others go on."""
        if worker not in self._actors:
            return
        self._actors.remove(worker)
        self._leave(worker.actor)  # it may only have been out of reach
        said = f"{type(why).__name__}: {str(why).strip().splitlines()[0] if str(why).strip() else 'no words'}"
        lost = [key for key, w in self._home.items() if w is worker]
        self._due = {ref: key for ref, key in self._due.items() if self._home.get(key) is not worker}
        for key in lost:
            del self._home[key]
            error = f"its worker on {worker.where or 'a machine of the cluster'} died ({said})"
            self._heard.append(Said(*key, "gone", last=True, error=error, fault="machine"))
        if not self._actors:
            raise MachineFault(
                f"all actors died ({said}): look at the cluster (ray status), use fewer workers (engine.workers=1) if "
                "memory ran out, or engine=inprocess; fedfm resume continues this run"
            )

    # ---- words ------------------------------------------------------------------------------------------------
    def _length(self, job: Job) -> float:
        """How long a job may take beside others: its local steps, or its rows; a question or a score is short."""
        if job.kind not in ("train", "alone"):
            return 0.0
        rows = self._site.home.parties
        n = sum(rows.values()) if job.id == POOLED else rows.get(job.id, 0)
        return float(job.terms.steps or self._site.fed.client.steps_for(n) or n)

    def _feed(self) -> None:
        self._queue.sort(key=lambda entry: -entry[0])  # stable: equals in the hub's order
        while self._queue:
            length, job, brief = self._queue[0]
            deep = DEPTH if job.kind == "train" else 1  # a baseline is long: nothing waits behind it
            if not (free := [w for w in self._actors if len(w.fresh) < deep]):
                return
            self._hand(min(free, key=lambda w: sum(w.fresh.values())), *self._queue.pop(0))

    def _hand(self, worker: _Worker, length: float, job: Job, brief: Message) -> None:
        number, ref = self._brief(brief)
        if known := number in worker.briefs:
            ref = None
        else:
            worker.briefs = [*worker.briefs, number][-KEPT:]
        key = job.id, job.epoch
        worker.fresh[key], self._home[key] = length, worker
        head = {"do": "start", "job": asdict(job), "brief": number, "keep": worker.briefs}
        self._tell(worker, key, head, None if known else ref, self._state(job))

    def _brief(self, brief: Message) -> tuple[int, Any]:
        """A number for a brief, and where the cluster has its bytes: they cross to each machine once."""
        for number, known, ref in self._briefs:
            if same(known, brief):
                return number, ref
        number = self._briefs[-1][0] + 1 if self._briefs else 0
        self._briefs.append((number, brief, self._ray.put(actor.packed(brief))))
        return number, self._briefs[-1][2]

    def _state(self, job: Job) -> Any:
        """The party's state from which a job starts; the session says so if it is not there."""
        with contextlib.suppress(FileNotFoundError):
            if job.base:
                return np.frombuffer(self._site.store.path(job.id, job.base).read_bytes(), dtype=np.uint8)
        return None

    def _tell(
        self, worker: _Worker, key: tuple[str, int], head: dict[str, Any], body: Any, state: Any
    ) -> None:
        ref = worker.actor.hear.remote(json.dumps(head), body, state)
        if head["do"] != "cancel":
            self._due[ref] = key

    def _listen(self) -> None:
        if self._heard:
            return
        if not self._due:
            raise RuntimeError("every session waits: the hub asked for news that nobody can have")
        for ref in self._ray.wait(list(self._due), num_returns=1)[0]:
            key = self._due.pop(ref)
            worker = self._home.get(key)
            try:
                frame = memoryview(self._ray.get(ref))
            except self._ray.exceptions.RayError as e:
                if worker is not None:
                    self._bury(worker, e)
                continue
            if worker is not None and len(frame):
                self._hear(worker, frame)

    def _hear(self, worker: _Worker, frame: memoryview) -> None:
        head, message, state = parted(frame)
        said = word(head, message)
        worker.fresh.pop((said.id, said.epoch), None)
        if said.last:
            del self._home[said.id, said.epoch]
        if len(state):
            self._site.store.put(said.id, said.state_version, bytes(state))
        self._heard.append(said)


def _crowded(asked: int, room: int, of: str) -> Problem:
    return Problem(
        "engine.workers",
        f"{asked} actors are more than the cluster has room for",
        f"it has {room} {of}",
        f"engine.workers={room}, or add machines (ray start --address=...)" if room else "add machines to it",
    )


# ---- the cluster ----------------------------------------------------------------------------------------------
def _ray() -> Any:
    """The library. Raises MissingExtra."""
    try:
        import ray
    except ImportError as e:
        raise MissingExtra("ray", "ray", "engine=ray") from e
    return ray


def _connect(ray: Any, address: str, asked: int) -> bool:
    """Be connected to a cluster; was it this call that did it? Raises FedfmError where none answers."""
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody outside
    address = address or os.environ.get("RAY_ADDRESS", "") or "local"
    more = {"num_cpus": max(asked, cores()), "include_dashboard": False}
    try:
        ray.init(address=address, logging_level="ERROR", **(more if address == "local" else {}))
    except (ConnectionError, RuntimeError, ValueError) as e:
        raise FedfmError(
            f"no Ray cluster answers at {address}: {words_of(e)[:300]}\n    why: engine=ray works in one\n    fix: ray start "
            "--head here, ray start --address=HOST:PORT on the others; without engine.address, and without "
            "RAY_ADDRESS, fedfm starts one of this machine alone"
        ) from e
    return True
