"""Who of the roster is here: whom a run waits for before it begins, and what may begin without everybody."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedfm.cards.registry import name_of
from fedfm.checks.rules import check
from fedfm.core.combine import Pipe, stages_of
from fedfm.core.errors import MachineFault, Problem
from fedfm.core.federation import Federation
from fedfm.core.loop import Run
from fedfm.core.memory import RunState
from fedfm.core.protocols import Client, Pace
from fedfm.deploy.course.arrivals import Arrivals
from fedfm.deploy.course.wall import Wall, WallHub
from fedfm.deploy.reception import Reception
from fedfm.deploy.views import ServerSite

WHOLE = "begin with the whole roster: leave --quorum out"


@dataclass(frozen=True)
class _Missing(Pace):
    """A pace under which a planned party may be missing from the sum, as in a run that begins without everybody."""

    loses = True


def short(fed: Federation, roster: int, quorum: int) -> list[Problem]:
    """Why a run may not begin with `quorum` parties of so many on its roster: what it promises rests on all of them."""
    if not 1 <= quorum <= roster:
        why = f"the roster has {roster} part{'y' if roster == 1 else 'ies'}"
        return [Problem("--quorum", f"{quorum} is no number of them", why, f"1 to {roster}")]
    return [] if quorum == roster else [*_promised(fed), *_few(fed, roster, quorum)]


def _promised(fed: Federation) -> Iterator[Problem]:
    """What is said to parties, or published of them, as if all were there."""
    if (at := Pipe(fed.uplink).hidden) is not None:
        what = f"{name_of(Pipe(fed.uplink).stages[at])} would sum those that are here, however few"
        why = "its threshold is a share of who gave keys, and parties' policies count the roster"
        yield Problem(f"uplink.{at}", what, why, WHOLE)
    if fed.select.asks:
        what = f"{name_of(fed.select)} asks everybody before it plans, and would hear a part of the roster"
        why = "its plan, and what it promises, are of all answers; of who is not here not even the rows are known"
        yield Problem("select", what, why, f"{WHOLE}; or select=null, uniform or poisson")
    if fed.evaluate.where == "parties" or fed.evaluate.personal:
        what, why = (
            "it scores models at the parties that are here",
            "a score that later parties are a part of is no later value of the first one",
        )
        yield Problem("evaluate", what, why, f"{WHOLE}; or evaluate=held-out with rows of the server's")
    known = {str(p) for p in check(fed)}
    missing = replace(fed, pace=_Missing())
    yield from (p for p in check(missing) if p.where == "aggregate.denominator" and str(p) not in known)


def _few(fed: Federation, roster: int, quorum: int) -> Iterator[Problem]:
    """Rounds that could not succeed before more parties have come."""
    planned = fed.select.most(roster)
    here = planned * quorum / roster  # of a round's parties, on average
    wants: list[tuple[str, Any, int]] = [("aggregate", fed.aggregate, fed.aggregate.least)]
    wants += [(f"uplink.{i}", stage, stage.least) for i, stage in enumerate(stages_of(fed.uplink))]
    wants += [("pace", fed.pace, fed.pace.quorum(planned))]
    for slot, method, n in wants:
        if n > here:
            what = f"{name_of(method)} needs {n} contributors, and a round would have {here:.3g} on average"
            why = f"it asks {planned} of {roster} parties, of whom {quorum} are here; most would fail until more have come"
            yield Problem(slot, what, why, f"--quorum {-(-n * roster // planned)} or more")


class Presence:
    """Who of the roster is here, and who takes part: whoever comes in a round does from the next one on."""

    def __init__(
        self,
        fed: Federation,
        reception: Reception,
        arrivals: Arrivals,
        names: Sequence[str],
        tell: Callable[[str], None],
        state: RunState,
    ):
        """`state`: that of the checkpoint which the run goes on from, or a fresh one."""
        self.fed, self.reception, self.arrivals, self.names = fed, reception, arrivals, tuple(names)
        self.tell, self.state = tell, state
        self.site: ServerSite | None = None  # of the run, which learns of numbers of rows
        self.run: Run | None = None
        self.wall: Wall | None = None  # where the pace's seconds are real ones
        self.lost: dict[str, set[int]] = {}  # party -> versions of its state that are gone
        reception.about, reception.admits = self._about, self._admits

    @property
    def rows(self) -> dict[str, int]:
        """How many rows each party of the roster has; 0 where it has not come yet."""
        return {i: self.arrivals.rows.get(i, 0) for i in self.names}

    def gather(
        self, quorum: int, wait_s: float | None, clock: Callable[[], float], stop: Callable[[], bool]
    ) -> None:
        """Wait until so many are ready; they take part.

        Raises MachineFault after `wait_s`, with who is missing; KeyboardInterrupt at `stop`.
        """
        began, said = clock(), ""
        while len(self.names) - len(missing := self._missing()) < quorum:
            if stop():
                raise KeyboardInterrupt
            if wait_s is not None and clock() - began > wait_s:
                refused = "".join(f"\n    {n}: {why}" for n, why in self.reception.refused.items())
                raise MachineFault(
                    f"after {wait_s:g} s these parties are not here: {', '.join(missing)}{refused}"
                )
            left = quorum - len(self.names) + len(missing)
            some = "" if left == len(missing) else f"{left} of "
            if (text := f"waiting for {some}{', '.join(missing)}") != said:
                self.tell(said := text)
            self._heard()
        self._admit()
        if absent := [n for n in self.names if n not in self.arrivals.rows]:
            self.tell(f"it begins without {', '.join(absent)}: each takes part from the round after it comes")

    def sealed(self, line: Mapping[str, Any]) -> None:
        """A round has been committed: those who have come meanwhile take part in the next one."""
        self.arrivals.seal(line["round"])
        for name in self._admit():
            self.tell(f"{name} takes part from round {line['round'] + 1}")
            if self.site is not None:
                self.site.tells(name, self.arrivals.rows[name])

    def lead(self, run: Run) -> None:
        """The run has begun, and moves its state."""
        self.run, self.state = run, run.state
        if self.wall is not None:
            run.hub = WallHub(run, self.wall)

    def _about(self, peer: str) -> dict[str, Any]:
        """What the run expects of a party: the version of its state, and in which rounds it may have spoken."""
        known = peer in self.arrivals.rows or peer in self.arrivals.told
        return {"state": self.state.accepted.get(peer, 0), "round": self.state.round, "known": known}

    def _admits(self, peer: str, states: Sequence[int]) -> str:
        """Why a party cannot take part with these versions of its state; what may begin anew does."""
        self.lost.pop(peer, None)
        if not (gone := self._named(peer) - {0, *states}):
            return ""
        if theirs := self._paired(peer):
            return (
                f"state: the server names version {max(gone)}, the party has {list(states)[:5] or 'none'}: it has lost what {theirs}, "
                "which has a counterpart at the server and cannot begin anew alone. Restore the party's folder `states`; the "
                "run goes on without it"
            )
        self.lost[peer] = gone
        self.tell(f"{peer} has lost its states (version {max(gone)}): what it remembered begins anew")
        return ""

    def _named(self, peer: str) -> set[int]:
        """The versions of its state that a job may begin from: accepted, of work under way, or of work that has been heard."""
        busy = self.state.busy.get(peer)
        live = self.run.hub.live.get(peer) if self.run is not None else None
        found = {self.state.accepted.get(peer, 0), busy.base if busy else 0}
        return found | {live.state_version if live else 0}

    def _paired(self, peer: str) -> str:
        """Which memory of a party is one half, the server holding the other; empty: it is the party's alone."""
        client = self.fed.client
        if client.server_half() is not None or client.dialect != Client.dialect:
            return f"{name_of(client)} remembered"
        if peer in self.state.decode:
            return "the uplink's codec remembered of what it has sent"
        return "the downlink's codec remembered of what it was sent" if peer in self.state.down else ""

    def _missing(self) -> list[str]:
        return [n for n in self.names if n not in self.reception.present]

    def _admit(self) -> list[str]:
        """Those who are here and have not taken part so far."""
        fresh = [i for i in self.names if i in self.reception.present and i not in self.arrivals.rows]
        for name in fresh:
            self.arrivals.join(name, self.reception.rows[name])
        return fresh

    def _heard(self) -> None:
        """Take the next frame, and say what it means."""
        frame = self.reception.transport.receive(1.0)
        if frame is None:
            return
        before = dict(self.reception.refused)
        news = self.reception.take(frame)
        if news is not None and news.kind == "ready":
            self.tell(f"{news.peer} is ready, {self.reception.rows[news.peer]} rows")
        for name, why in self.reception.refused.items():
            if before.get(name) != why:
                self.tell(f"{name} cannot take part: {why}")
