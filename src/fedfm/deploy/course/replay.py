"""A run that was served, once more in one process: with its arrivals and everybody's rows, the same bits."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedfm.config import text
from fedfm.config.setup import Setup
from fedfm.core.errors import ResumeError
from fedfm.core.federation import Federation
from fedfm.core.job import Job, Said
from fedfm.core.message import Message
from fedfm.core.session import Site
from fedfm.deploy.course.arrivals import End, Names, Recorded, read
from fedfm.deploy.server import shaped
from fedfm.engines.inprocess import InProcessEngine
from fedfm.running.drive import Plan, drive, open_site
from fedfm.running.execute import PLAN
from fedfm.running.progress import Progress, Silent
from fedfm.running.record.folder import CONFIG, begun, recorded
from fedfm.running.verdict import Result


def replay(folder: Path, out: Path, data: Any = None, progress: Progress | None = None) -> Result:
    """Do the run that was served in `folder` again, in this process and into `out`, as far as it has come.

    `data`: everybody's rows as a data spec, where they are not those of the config. Noise of the operating system is
    other noise; all else is the same. Raises ResumeError for a run that was not served.
    """
    found = recorded(folder)
    if not (real := found.get("real")):
        raise ResumeError(f"{folder} was run by one process: fedfm run {folder / CONFIG}")
    setup = Setup.of(text.load(folder / CONFIG))
    fed = setup.fed if data is None else replace(setup.fed, data=data)
    record, names = read(folder), Names()
    fed = shaped(fed, Again(record, names), rehearsal=not real["authority"], moments=record.moments)
    sites = list[Site]()

    def opening(fed: Federation, folder: Path, progress: Progress) -> Site:
        sites.append(site := open_site(fed, folder, progress))
        unknown = dict.fromkeys(site.home.parties, 0)
        site.home.parties |= unknown | record.joined.get(-1, {})
        return site

    def sealed(line: dict[str, Any]) -> None:
        names.seal(line["round"])
        for site in sites:
            site.home.parties |= record.joined.get(line["round"], {})

    with begun(out, setup.recipe or "run") as fresh:
        plan = Plan(fresh, Setup(fed, setup.recipe).config, fed, PLAN | {"baselines": found["baselines"]})
        plan.listeners, plan.progress, plan.open = (sealed,), progress or Silent(), opening
        plan.found = record.findings
        plan.write_config()
        plan.keep()
        return drive(plan)


@dataclass(frozen=True)
class Again:
    """The engine slot of a replay."""

    record: Recorded
    names: Names

    def make(self) -> AgainEngine:
        return AgainEngine(self)


class AgainEngine(InProcessEngine):
    """Sessions in this process, each of which ends where it did."""

    def __init__(self, spec: Again):
        super().__init__()
        self._spec = spec
        self._ends: dict[tuple[str, int], End] = {}
        self._turns: dict[tuple[str, int], int] = {}
        self._gone: deque[Said] = deque()

    def start(self, job: Job, brief: Message) -> None:
        if job.kind != "score":
            name = self._spec.names.of(job)
            if (end := self._spec.record.ends.get(name)) is not None:
                self._ends[job.id, job.epoch] = end
            if name in self._spec.record.blank:
                job = replace(job, base=0)
        super().start(job, brief)

    def next(self) -> Said:
        if self._gone:
            return self._gone.popleft()
        # who ended while it waited for the others is heard before them
        alive = (one for one in self._todo if one[:2] in self._talks)
        self._todo = deque(sorted(alive, key=lambda one: not self._waits(one[:2])))
        key = self._todo[0][:2] if self._todo else ("", -1)
        if (end := self._ends.get(key)) is None:
            return super().next()
        if end.turn == (turn := self._turns.get(key, 0)):
            return self._over(key, end)
        said = super().next()
        self._turns[key] = turn + 1
        if end.waits and end.turn == turn + 1:
            self._gone.append(self._over(key, end))
        return said

    def _over(self, key: tuple[str, int], end: End) -> Said:
        self.cancel(*key)
        return end.said(*key)

    def _waits(self, key: tuple[str, int]) -> bool:
        return key in self._ends and self._ends[key].waits
