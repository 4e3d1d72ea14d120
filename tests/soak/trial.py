"""One drawn federation tried in every way: engines, a stop and a resume, and what must hold of any run whatever is in it."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from fedfm.checks.rules import check
from fedfm.core.combine import Pipe, stages_of
from fedfm.core.errors import ConfigError, DataError
from fedfm.core.federation import Federation
from fedfm.core.loop import Run
from fedfm.core.message import pack
from fedfm.core.protocols import Reward, Valuer
from fedfm.core.session import Site
from fedfm.core.state import Store
from fedfm.data.source import Parties, Shard
from fedfm.efficiency.communication.codec.entropy import Entropy
from fedfm.efficiency.training.hierarchy import Edges
from fedfm.engines.inprocess import InProcess
from fedfm.engines.processes import Processes
from fedfm.laws.homes import Pictures, factored, mixed, pictures, play, quadratics
from fedfm.running.feasible import feasible, idle
from fedfm.tasks.quadratic import Quadratics
from soak.promises import descends, indifferent, is_smooth, private, sane, told, unlike

# Every party's optimum lies on one side of the start, so whoever is drawn, weighed or cut away: a step goes down for all.
SIDE = Quadratics(a=(1.0, 2.0, 4.0, 8.0, 3.0), b=(1.0, 1.2, 0.8, 1.1, 0.9), rows=4)


@dataclass(frozen=True)
class Housed:
    """The parties of another data set, where the server, the public and each party's tests have rows too."""

    inner: Any
    parties: int

    agreed: ClassVar[frozenset[str]] = frozenset({"schema", "test", "server", "public"})

    def open(self, seed: int, *columns: Any) -> Parties:
        parties = self.inner.open(seed, *columns)
        rows = parties.test().rows
        own = tuple(replace(s, rows=s.rows[:2]) for s in parties.shards)
        return replace(parties, house=Shard("server", rows), shown=Shard("public", rows), own=own)


POINTS = quadratics(data=Housed(SIDE, 5))
IMAGES = pictures(data=Housed(Pictures(parties=4), 4))
FACTORS = factored(data=Housed(SIDE, 5))
MIXED = mixed(data=Housed(Pictures(parties=4), 4))


class Stop(BaseException):
    """The run is killed here."""


@dataclass(frozen=True)
class Way:
    """How a federation is tried: also on so many workers (0: not), stopped at so many words (0: not), beside its twin."""

    workers: int = 0
    stop: int = 0
    twin: bool = False


def refused(fed: Federation) -> list[str]:
    """What every run says of its data and its model before any work.

    But for an epsilon that means nothing: that is tried all the same.
    """
    parties = fed.data.open(fed.seed)
    rows = {i: len(parties.train(i)) for i in parties.ids}
    if said := [str(p) for p in feasible(fed, rows) if "meaningful" not in p.why]:
        return said
    bound = fed.task.open(parties)
    said = [why for m in fed.methods().values() if (why := m.feasible(fed.select.most(len(rows)), bound))]
    if said:
        return said
    with tempfile.TemporaryDirectory() as folder:
        return [str(p) for p in idle(Site(fed, bound, parties, Store(Path(folder))))]


def complaints(fed: Federation, folder: Path, way: Way = Way(), calm: bool = False) -> list[str]:
    """What does not hold of this federation; empty when all is well. `calm`: hold it to descend, too."""
    said: Counter[str] = Counter()
    if refused(fed):
        return []
    try:
        one = play(replace(fed, engine=InProcess()), folder / "one", around=listening(said))
    except (ConfigError, DataError):
        if (folder / "one" / "metrics.jsonl").exists():
            raise
        return []  # refused when it was opened, before any work
    found = [*sane(one), *told(one, said), *private(one)]
    if calm:
        found += descends(one)
    fresh = any(getattr(s, "real_noise", False) for s in stages_of(fed.uplink))  # no two runs are alike
    if way.workers and not fresh:
        two = play(replace(fed, engine=Processes(way.workers)), folder / "two")
        found += [f"on {way.workers} workers: {why}" for why in unlike(one, two)]
    if way.stop and not fresh:
        try:
            play(replace(fed, engine=InProcess()), folder / "three", around=stopping(way.stop))
        except Stop:
            pass
        three = play(replace(fed, engine=InProcess()), folder / "three", resume=True)
        found += [
            f"stopped at word {way.stop} and resumed: {why}" for why in unlike(one, three, resumed=True)
        ]
    for k, other in enumerate(twins(fed) if way.twin and not fresh else ()):
        if other != fed and not check(other) and not refused(other):
            two = play(replace(other, engine=InProcess()), folder / f"twin-{k}")
            found += [f"twin {k}: {why}" for why in indifferent(one, two)]
    return found


def twins(fed: Federation) -> Iterator[Federation]:
    """The same federation without what must not move a model: who values and pays, lossless codes behind all others.

    And, where a little noise in the last bits stays a little: another fold, no masks, no edges.
    """
    wires = {
        slot: Pipe(*stages_of(wire), Entropy())
        for slot, wire in (("uplink", fed.uplink), ("downlink", fed.downlink))
        if slot == "uplink" or len(stages_of(wire)) != 1  # a pipe of one stage has its own streams
    }
    yield replace(fed, value=Valuer(), reward=Reward(), **wires)
    if not is_smooth(fed):
        return
    yield replace(fed, fold="fixed" if fed.fold == "float" else "float")
    if any(s.opaque for s in stages_of(fed.uplink)):
        yield replace(fed, uplink=Pipe(*(s for s in stages_of(fed.uplink) if not s.opaque)))
    if isinstance(fed.select, Edges):
        yield replace(fed, select=fed.select.inner)


# ---- what is listened to and done to a run -----------------------------------------------------------------------
LEAVE = ("train", "ask", "own", "visit")  # kinds of jobs whose words cross between the house and a party


def listening(said: Counter[str]) -> Callable[[Run], None]:
    """Count the bytes that cross, as packed messages, by direction."""

    def around(run: Run) -> None:
        start, hear, send = run.engine.start, run.engine.next, run.engine.send
        kinds: dict[tuple[str, int], str] = {}

        def started(job: Any, brief: Any) -> None:
            kinds[job.id, job.epoch] = job.kind
            if job.kind in LEAVE:
                said["down"] += len(pack(brief))
            start(job, brief)

        def heard() -> Any:
            word = hear()
            kind = kinds[word.id, word.epoch]
            if word.phase not in ("done", "gone") and kind in LEAVE:
                said["up" if word.phase == "upload" else "talk"] += len(pack(word.message))
            return word

        def sent(id: str, epoch: int, message: Any) -> None:
            said["talk"] += len(pack(message))
            send(id, epoch, message)

        run.engine.start, run.engine.next, run.engine.send = started, heard, sent  # type: ignore[method-assign]

    return around


def stopping(at: int) -> Callable[[Run], None]:
    """Die before the `at`-th word is heard, wherever in a round that is."""

    def around(run: Run) -> None:
        hear, count = run.engine.next, iter(range(1, 10**9))

        def heard() -> Any:
            if next(count) >= at:
                raise Stop
            return hear()

        run.engine.next = heard  # type: ignore[method-assign]

    return around
