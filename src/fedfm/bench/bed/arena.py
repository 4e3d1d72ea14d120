"""A federation in motion in a directory that is thrown away, as `fedfm run` would set it up; rounds on demand."""

from __future__ import annotations

import contextlib
import gc
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfm.bench import machine
from fedfm.core.federation import Federation
from fedfm.core.loop import Run
from fedfm.evaluation.held_out import HeldOut
from fedfm.running.execute import open_site
from fedfm.running.process import borrowed
from fedfm.running.progress import Progress

NEVER = HeldOut(every=10**9, parts=1)  # only the starting model is scored, before the first measured round
ENDLESS = 10**9  # rounds: the last one would be scored


@dataclass(frozen=True)
class Lap:
    """One round: its record, wall seconds, CPU seconds of all processes, and the events that it committed."""

    record: dict[str, Any]
    wall: float
    cpu: float
    events: list[dict[str, Any]]


class Arena:
    """A run whose rounds are taken one at a time."""

    def __init__(self, run: Run):
        self.run, self._rounds = run, run.rounds()
        next(self._rounds)  # the score of the starting model

    def lap(self) -> Lap:
        """Play one round, everything but evaluation included: plan, work, fold, server step, ledger, checkpoint."""
        gc.collect()
        pids, begun = machine.workers(self.run.engine), self.run.state.ledger
        cpu, wall = machine.cpu(pids), time.perf_counter()
        record = next(self._rounds)
        wall, cpu = time.perf_counter() - wall, machine.cpu(pids) - cpu
        with self.run.books.ledger.path.open("rb") as f:
            f.seek(begun)
            events = [json.loads(line) for line in f]
        return Lap(record, wall, cpu, events)


@contextlib.contextmanager
def opened(fed: Federation) -> Iterator[Arena]:
    """Data, model and engine ready, the starting model scored; torch's number of threads as the federation says."""
    with tempfile.TemporaryDirectory(prefix="fedfm-bench-") as folder, borrowed(fed.threads):
        site = open_site(fed, Path(folder), Progress())
        for i in site.parties.ids:
            site.data(i)
        site.home.test("", 0, 1)
        engine = fed.engine.make()
        engine.open(site)
        try:
            yield Arena(Run(fed, Path(folder), site.home, engine))
        finally:
            engine.close()
