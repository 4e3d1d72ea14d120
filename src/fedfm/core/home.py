"""What the server's machine holds: the opened model, its own rows, public rows, and the test rows.

The test rows are read by evaluation alone. Nothing in here needs a party's rows.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from fedfm.cards.registry import name_of
from fedfm.core import blame, scoring
from fedfm.core.context import Ctx
from fedfm.core.errors import ConfigError, DataError, Problem
from fedfm.core.job import VALIDATION, Job, Said
from fedfm.core.message import Message
from fedfm.core.protocols import Bound, Say
from fedfm.core.talk import words

if TYPE_CHECKING:
    from fedfm.core.federation import Federation


class Home:
    """The server's side of a federation; `parties` says how many examples each party has."""

    def __init__(self, fed: Federation, bound: Bound, parties: Mapping[str, int], source: Any):
        self.fed, self.bound, self.parties, self.source = fed, bound, dict(parties), source
        self.test, self.rows, self.public = cache(self._test), cache(self._rows), cache(self._public)

        inner = [("client.local", c) for c in [fed.client.alone()] if c != fed.client]
        if problems := [
            Problem(slot, f"{name_of(m)} cannot act here", *blame.mended(why, m))
            for slot, m in (*fed.methods().items(), *inner)
            if (why := m.feasible(fed.select.most(len(parties)), bound))
        ]:
            raise ConfigError(problems)
        needs = frozenset[str]().union(*(m.needs for m in fed.methods().values()))
        if "server rows" in needs:
            source.server()  # DataError, with the knob that gives them, before any work
        if "public rows" in needs:
            source.public()
        if fed.evaluate.validates and fed.serving.whole:
            self._validates()

    def _validates(self) -> None:
        """Raises ConfigError where there are no rows that could find the best round."""
        try:
            self.source.server()
        except DataError as e:
            evaluate = self.fed.evaluate
            where = "evaluate.keep_best" if evaluate.keep_best else "evaluate.stop_after"
            what, why = (
                "there are no rows to find the best round by",
                "the reported test rows must not choose it",
            )
            raise ConfigError(
                [Problem(where, what, why, "data.server_rows=200 (from the held-out rows)")]
            ) from e

    def _test(self, case: str, part: int, parts: int) -> Any:
        """A piece of one of the evaluator's cases, encoded once."""
        rows = self.source.server() if case == VALIDATION else self.fed.evaluate.rows(case, self.source)
        return self.bound.encode(replace(rows, rows=rows.rows[part::parts]))

    def _rows(self) -> Any:
        """The server's own rows, encoded; raises DataError where there are none."""
        return self.bound.encode(self.source.server())

    def _public(self) -> Any:
        """Rows that everybody sees, encoded; raises DataError where there are none."""
        return self.bound.encode(self.source.public())

    @property
    def cases(self) -> tuple[str, ...]:
        """What the evaluator scores here."""
        if self.fed.evaluate.where == "parties":
            return ()
        return tuple(self.fed.evaluate.cases(self.source))

    def run(self, job: Job, brief: Message) -> Generator[Said, Message, None]:
        """A score, as a session: it may run in any worker."""
        ctx = Ctx(self.fed.seed, job.round, client=job.id, simulated=self.fed.simulated, events=[])
        return words(job, self._score(job, brief, ctx), ctx)

    def _score(self, job: Job, brief: Message, ctx: Ctx) -> Generator[Say, Message, None]:
        with ctx.ambient():
            self.bound.load(brief.x)
            scores = self.fed.evaluate.measure(self.test(job.case, *job.part), self.bound)
        yield Say("score", scoring.tell(scores), last=True)
