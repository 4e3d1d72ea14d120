"""The pace by the wall's clock: a round takes in what arrives while it is open, in the order in which it arrives.

The clock runs from the moment a round's briefs go out until it closes, and stands still in between: what the server does
by itself is nobody's delay. The moments are recorded, so that the same run on a simulated clock gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fedfm.around import AroundPace
from fedfm.core.context import Ctx
from fedfm.core.errors import RoundFailed
from fedfm.core.hub import Hub, Session
from fedfm.core.job import Job
from fedfm.core.loop import Run
from fedfm.core.message import Message
from fedfm.core.protocols import Load, Pace
from fedfm.deploy.course.arrivals import Arrivals, Key


@dataclass(frozen=True)
class OnTheWall(AroundPace):
    """A pace whose work is done when it is done, whatever its speed and its links say.

    `moments`: those of a run that is done again (work without one never came); None: nobody knows them beforehand.
    """

    inner: Pace
    moments: Mapping[Key, float] | None = None

    def due(self, now: float, ctx: Ctx, load: Load) -> float:
        if self.moments is None:
            return now
        return self.moments.get(("train", ctx.client, ctx.round, 0), math.inf)


class Wall:
    """The clock of a run, and when its work arrived, by epoch."""

    def __init__(self, clock: Callable[[], float], arrivals: Arrivals):
        self._clock, self._arrivals = clock, arrivals
        self.at: dict[int, float] = {}
        self._last = self._start = 0.0
        self._opened: float | None = None  # by `clock`

    def open(self, start: float) -> None:
        """A round's briefs go out; its clock says `start`."""
        self._start, self._opened = start, self._clock()
        self._last = max(self._last, start)

    def close(self) -> None:
        """Nothing is awaited any more."""
        self._opened = None

    def now(self) -> float:
        """Seconds in all in which rounds were open."""
        if self._opened is None:
            return self._last
        return max(self._last, self._start + self._clock() - self._opened)

    def mark(self, session: Key, epoch: int) -> None:
        """A session's work is there, or it has ended; no two do at one moment."""
        self._last = self.at[epoch] = math.nextafter(self.now(), math.inf)
        self._arrivals.land(session, self._last)


class WallHub(Hub):
    """A hub that releases work as it arrives."""

    def __init__(self, run: Run, wall: Wall):
        super().__init__(run.fed, run.engine, run.bound)
        self.accept, self.epoch = run.hub.accept, run.hub.epoch
        self._run, self._wall = run, wall
        self._engine: Any = run.engine  # that of real parties, which can be listened to for a moment

    def released(
        self,
        queue: list[Job],
        brief: Callable[[Job], Message],
        window: int,
        stop: Callable[[Job], bool],
        lands: Callable[[Job, int], Job] = lambda job, nbytes: job,
    ) -> Iterator[Session]:
        """Sessions as they arrive, or end without an upload, until all have, or `stop` says that it is enough."""
        wall = self._wall
        wall.open(self._run.state.clock)
        try:
            for job in queue:
                if job.id not in self.live:  # what outlives its round may be under way already
                    self.start(job, brief(job))
            for i in range(len(queue)):
                while (k := self._first(queue, i)) is None:
                    if stop(replace(queue[i], due=wall.now())):
                        return
                    if self._engine.heard:
                        self.pump()
                    else:
                        self._engine.listen()
                job = queue.pop(k)
                queue.insert(i, replace(job, due=wall.at.pop(job.epoch), landed=True))
                if stop(queue[i]):
                    return
                yield self.live[queue[i].id]
        except RoundFailed:
            self._broken(queue)
            raise
        finally:
            wall.close()

    def _broken(self, queue: list[Job]) -> None:
        """A conversation of all has failed: what was not there by then ends then."""
        for i, job in enumerate(queue):
            if job.landed or self.fed.pace.late == "keep" or job.id not in self.live:
                continue
            if job.epoch not in self._wall.at:
                self._wall.mark(("train", job.id, job.round, 0), job.epoch)
            queue[i] = replace(job, due=self._wall.at[job.epoch], landed=True)

    def _first(self, queue: list[Job], i: int) -> int | None:
        """Which of the queue, from `i` on, was there first; None: nobody is."""
        there = [k for k in range(i, len(queue)) if self._there(self.live[queue[k].id])]
        return min(there, key=lambda k: self._wall.at[queue[k].epoch], default=None)

    def _there(self, s: Session) -> bool:
        return (s.upload is not None or s.ended) and s.job.epoch in self._wall.at
