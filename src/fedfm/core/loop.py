"""The one loop: Algorithm 1 of McMahan et al. (2017) over the slots of a federation, with its checkpoints and its ledger."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from fedfm.cards.registry import name_of
from fedfm.core import blame, scoring
from fedfm.core import fold as folding
from fedfm.core.best import Best
from fedfm.core.books import Books, latest
from fedfm.core.briefs import Briefs
from fedfm.core.context import Ctx, Terms
from fedfm.core.errors import FedfmError, MethodFault, RoundFailed, words_of
from fedfm.core.federation import Federation, readers
from fedfm.core.fold import Fold
from fedfm.core.home import Home
from fedfm.core.hub import Engine, Hub, Session
from fedfm.core.job import Job
from fedfm.core.memory import Replaced, Round, RunState
from fedfm.core.message import Message, nothing
from fedfm.core.protocols import Aggregate, Bound, Load, Outcome, Plan, State
from fedfm.core.spending import always, overspends, unseen
from fedfm.core.state import lent, whole
from fedfm.ledger import events
from fedfm.ledger.events import Line
from fedfm.ledger.file import read
from fedfm.vectors.cut import cut

T = TypeVar("T")
STATEFUL = ("aggregate", "adversary", "detect", "value", "reward")  # the selector's starts from the pool


class Run:
    """A federation in motion: the loop, its checkpoints and its ledger, under `folder`. It holds no party's rows."""

    def __init__(
        self,
        fed: Federation,
        folder: Path,
        home: Home,
        engine: Engine,
        resume: bool = False,
        before: RunState | None = None,
    ):
        """`before`: the state in which the stage before ended; what it counted goes on, all else starts anew."""
        self.fed, self.folder, self.home, self.engine = fed, folder, home, engine
        self.bound: Bound = home.bound
        self.parties = home.parties
        self.ctx0 = Ctx(fed.seed, simulated=fed.simulated, horizon=fed.span, since=fed.since)
        self.malicious = fed.adversary.members(tuple(self.parties), self.ctx0)
        self.layout = fed.client.gives(self.bound.layout)
        state = latest(folder) if resume else None
        if state is None:
            with blame.of_slot("server", fed.serving):
                server = fed.serving.init(self.bound, self.ctx0)
            state = RunState(server=server, slots=self._slots())
            state = state if before is None else before.succeeded(state)
        self.state, self.books = state, Books(folder, state)
        self.best = Best(fed.evaluate, self.bound.objective, folder)
        self.best.see(r for r in read(self.books.metrics.path) if not fed.since or r["round"] > fed.since)
        self.briefs = Briefs(fed, self.bound, state, self.books.receivers)
        self.hub = Hub(fed, engine, self.bound)
        self.hub.accept, self.hub.epoch = self._check_upload, self._epoch
        self.tick: Callable[[int, int], None] = lambda done, planned: None  # progress inside a round
        self.reads_each = any(readers(fed))

    # ---- the loop ---------------------------------------------------------------------------------------------
    def rounds(self) -> Iterator[dict[str, Any]]:
        """Algorithm 1. Yields one record a round; stopping between two of them loses nothing."""
        fed, st, hub = self.fed, self.state, self.hub
        if st.round == 0 and not self.books.metrics.length:
            ctx = self.ctx0.at(events=[])
            yield self._commit({"round": 0} | scoring.of_run(self, ctx), list(ctx.drain()))
        stop = self._overspent([]) or self.best.stale(st.round)
        while st.round < fed.last and not stop:
            r = self._round()
            try:
                self._begin(r)
                over, lands = partial(self._enough, r), partial(self._lands, r)
                for s in hub.released(r.queue, self.briefs.of, self.engine.ahead, over, lands):
                    r.lap("train")
                    self._take(s, r)
                    r.lap("aggregate")
                self._barrier(r)
                agg, server = self._jointly(r, partial(self._step, r))
                values, paid = self._worth(r, agg)
                self._keep(r, agg, server, values, paid)
            except RoundFailed as e:  # nobody's state moves
                r.failed, r.kept = str(e), {}
                r.ctx.note(events.RoundFailed(r.failed))
            self._free(r)
            r.lap("aggregate")
            st.round += 1
            stop = self._overspent(r.ctx.events or [])
            record: dict[str, Any] = {"round": st.round, "clients": len(r.kept), "planned": len(r.plan.jobs)}
            record |= {"clock": st.clock, "failed": r.failed}
            if st.round % fed.evaluate.every == 0 or st.round == fed.last or stop:
                record |= scoring.of_run(self, r.ctx)
                self.best.see([record])
                stop = stop or self.best.stale(st.round)
            if stop:
                r.ctx.note(events.Stopped(stop))
            r.lap("evaluate")
            yield self._commit(record | {"seconds": r.seconds}, r.ctx.events or [], r.replaced)

    def _overspent(self, fresh: Sequence[Line]) -> str:
        """Why no further round may begin: it would exceed a privacy budget."""
        return overspends(self.fed, lambda: [*read(self.books.ledger.path), *fresh], len(self.parties))

    # ---- the start of a round ---------------------------------------------------------------------------------
    def _slots(self) -> dict[str, State]:
        fed, ids = self.fed, tuple(self.parties)
        first = dict[str, State]()
        for slot in (*STATEFUL, "select"):
            with blame.of_slot(slot, method := getattr(fed, slot)):
                first[slot] = method.init(self.parties if slot == "select" else ids, self.ctx0)
        return first

    def _round(self) -> Round:
        st = self.state
        ctx = self.ctx0.at(round=st.round, attempt=st.attempt, layout=self.layout, events=[])
        ctx = ctx.at(house=scoring.View(self, ctx))
        return Round(ctx, lent(st.slots), st.clock)

    def _begin(self, r: Round) -> None:
        """Plan, and make a job of each planned party; the hub starts it when its turn comes."""
        fed, st, ctx = self.fed, self.state, r.ctx
        r.queue = sorted(st.busy.values(), key=Job.order)
        r.plan, r.slots["select"] = self._plan(r)
        for position, (i, terms) in enumerate(r.plan.jobs):
            job, n = self.job("train", i, position, terms), self.parties[i]
            down = self.briefs.of(job).nbytes
            load = Load(down, terms.steps or fed.client.steps_for(n), n)
            st.busy[i] = replace(job, due=fed.pace.due(st.clock, ctx.at(client=i, terms=terms), load))
            ctx.at(client=i).note(events.Bytes("down", down, {}))
        self.hub.begin(st.server, ctx)
        r.queue = sorted(st.busy.values(), key=Job.order)
        r.lap("other")

    def _plan(self, r: Round) -> tuple[Plan, State]:
        """Whom to ask to work: the selector's plan, after its questions, cut to the pace's room."""
        fed, st, ctx, select = self.fed, self.state, r.ctx, r.slots["select"]
        pool = {i: n for i, n in self.parties.items() if i not in st.busy}
        answers: dict[str, Message] = {}
        with blame.of_slot("select", fed.select, select):
            if fed.select.asks:
                asked = fed.select.candidates(pool, select, ctx)
                blame.chosen("asks", fed.select, asked, pool)
                brief = Message(fed.serving.model(st.server), "weights", version=st.round, sender="server")
                answers = self.ask("select", asked, fed.select.question(brief, pool, select, ctx), ctx)
            plan, select = fed.select.select(pool, select, ctx.at(unseen=unseen(fed)), answers)
            blame.chosen("plans", fed.select, [i for i, _ in plan.jobs], pool)
        room = max(0, fed.pace.room(len(st.busy), len(plan.jobs)))
        if room < len(plan.jobs):  # what was drawn is no longer what takes part, and the accountant must know
            plan = replace(
                plan, jobs=plan.jobs[:room], sampling={"kind": "cut", "drawn": dict(plan.sampling)}
            )
        ctx.note(events.Planned([i for i, _ in plan.jobs], dict(plan.sampling)))
        return plan, select

    def ask(
        self, slot: str, ids: Sequence[str], question: Message, ctx: Ctx | None = None
    ) -> dict[str, Message]:
        """The answers of a server-side slot at the parties; who fails to answer is left out."""
        ctx, answers = ctx if ctx is not None else self.hub.ctx, dict[str, Message]()
        blame.chosen("asks", getattr(self.fed, slot), ids, self.parties, slot)
        jobs = [replace(self.job("ask", i, k), case=slot) for k, i in enumerate(ids)]
        for s in self.hub.collect(jobs, lambda job: question):
            ctx.at(client=s.job.id).note(events.Bytes("down", question.nbytes, {}))
            self._note(s, ctx)
            if s.upload is not None:
                answers[s.job.id] = s.upload
        return answers

    def _epoch(self) -> int:
        self.state.epoch += 1
        return self.state.epoch

    def job(self, kind: str, id: str, position: int, terms: Terms | None = None) -> Job:
        st = self.state
        job = Job(kind, id, self._epoch(), st.round, st.attempt, st.accepted.get(id, 0), st.clock)
        return replace(job, position=position, terms=terms or Terms(), malicious=id in self.malicious)

    # ---- its messages -----------------------------------------------------------------------------------------
    def _take(self, s: Session, r: Round) -> None:
        """Put a released session's upload where it belongs: into the fold, or among those that somebody reads."""
        r.seen += 1
        self.tick(r.seen, len(r.queue))
        there = r.ctx.at(client=s.job.id, terms=s.job.terms)
        self._note(s, r.ctx)
        if s.upload is not None:
            try:
                m = self._decoded(s.upload, s.job, r, there)
                if self.reads_each:
                    r.messages[s.job.id] = m
                else:
                    fold = r.folds.setdefault(s.job.terms.group or "", Fold(self.fed.fold))
                    folding.gather(self.fed, m, fold, there)
                r.kept[s.job.id] = s
            except Exception as e:  # noqa: BLE001 - whatever a stranger's bytes do to a decoder, the round goes on
                there.note(events.Refused("hub", words_of(e)))
                r.refused[s.job.id] = s.error = words_of(e)
                s.where = "" if isinstance(e, FedfmError) or not self.fed.simulated else blame.place(e)
        s.upload, s.asked = None, nothing()  # O(1) memory: the fold has it

    def _decoded(self, m: Message, job: Job, r: Round, there: Ctx) -> Message:
        """An upload, decoded and validated; raises MessageRefused."""
        c, stack = cut(self.bound.layout, *job.terms.shape), self.hub.stack
        layout = self.fed.client.gives(c.layout) if c and stack.hidden is None else self.layout
        apart = stack.stages and layout.mixed and stack.hidden is None
        there = there.at(round=job.round, layout=layout.trained if apart else layout)
        x, r.decoders[job.id] = stack.decode(m.x, m.side, self.books.senders.of(job.id), there)
        if apart:
            folding.validate(replace(m, x=x), layout.trained.size)
            folding.validate(replace(m, x=m.side["buffers"]), layout.still.size)
            x = layout.whole(x.float(), m.side["buffers"])
        m = replace(m, x=x, side={}, sender=job.id, version=job.round)
        if stack.hidden is None:
            folding.validate(m, layout.size)
        return m

    def _check_upload(self, m: Message) -> None:
        folding.admit(self.fed, m, self.hub.stack, self.layout, self.hub.ctx.muted())

    def settle(self, kept: Sequence[Message] | Fold, ctx: Ctx) -> tuple[Aggregate, State]:
        state = self.state.slots["aggregate"]
        return folding.settle(self.fed, kept, self.hub.wire, state, ctx, len(self.parties))

    def _note(self, s: Session, ctx: Ctx) -> None:
        """Move a session's facts to the round's ledger."""
        if ctx.events is not None:
            ctx.events.extend(s.events)
        s.told = s.told or any(e["kind"] == events.Dropout.kind for e in s.events)  # that says it already
        s.events.clear()
        if s.status == "gone" and not s.told:
            s.told = True
            ctx.at(client=s.job.id).note(events.Failed(s.error + (f" ({s.where})" if s.where else "")))

    def _enough(self, r: Round, job: Job) -> bool:
        return self.fed.pace.enough(len(r.kept), len(r.plan.jobs), job.due - r.start)

    def _lands(self, r: Round, job: Job, nbytes: int) -> Job:
        """The job, with the time at which its upload of so many bytes is there."""
        if job.landed:
            return job
        ctx = r.ctx.at(client=job.id, round=job.round, terms=job.terms)
        if (due := self.fed.pace.lands(job.due, nbytes, ctx)) > job.due:
            self.state.busy[job.id] = job = replace(job, due=due, landed=True)
        return job

    # ---- its end ----------------------------------------------------------------------------------------------
    def _barrier(self, r: Round) -> None:
        """Nothing more is awaited: last words, forgeries, detection, quorum. Raises RoundFailed."""
        fed, st, late = self.fed, self.state, r.queue[r.seen :]
        wait_s = fed.pace.deadline_s
        if late and wait_s is not None and not fed.pace.enough(len(r.kept), len(r.plan.jobs), 0.0):
            st.clock = max(st.clock, r.start + wait_s)  # it was the deadline that closed the round
        if fed.pace.late == "cancel":
            self.hub.cancel(j.id for j in late)
        self.hub.finish(r.kept)
        self._same_line(r)
        r.ctx.house.messages = r.messages
        r.messages, r.slots["adversary"] = fed.adversary.forge(
            r.messages, self.malicious, r.slots["adversary"], r.ctx
        )
        r.ctx.house.messages = r.messages
        flagged, r.slots["detect"] = self._jointly(r, lambda ms, ctx: self._flag(ms, r, ctx))
        for i, why in flagged.items():
            r.ctx.at(client=i).note(events.Refused(name_of(fed.detect), why))
            r.refused[i] = why
            del r.messages[i], r.kept[i]
        if len(r.kept) < (needed := fed.pace.quorum(len(r.plan.jobs))) and not always(fed):
            why = f"{len(r.kept)} of {len(r.plan.jobs)} parties contributed, {needed} are needed"
            raise RoundFailed(why if r.plan.jobs else f"{name_of(fed.select)} chose nobody")

    def _flag(self, messages: Mapping[str, Message], r: Round, ctx: Ctx) -> tuple[dict[str, str], State]:
        with blame.of_slot("detect", self.fed.detect, r.slots["detect"]):
            flagged, state = self.fed.detect.flag(messages, r.slots["detect"], ctx)
            blame.chosen("flags", self.fed.detect, list(flagged), messages, "detect")
            return flagged, state

    def _same_line(self, r: Round) -> None:
        """Several honest parties, and all that were at work, failed in one line that nobody declared: the method."""
        live = [self.hub.live[j.id] for j in r.queue[: r.seen] if j.id in self.hub.live]
        lines = {s.where for s in live}
        if len(live) > 1 and len(lines) == 1 and "" not in lines and not any(s.job.malicious for s in live):
            raise MethodFault("a method", f"every party failed alike: {live[0].error}", lines.pop())

    def _jointly(self, r: Round, work: Callable[[Mapping[str, Message], Ctx], T]) -> T:
        """Work on all messages; if it raises, once more without the malicious parties' (see `blame.jointly`)."""
        again: Callable[[], Any] | None = None
        if bad := self.malicious & r.kept.keys():
            honest = {i: m for i, m in r.messages.items() if i not in bad}
            again = partial(work, honest, r.ctx.muted()) if self.reads_each else _sums_cannot
        return blame.jointly(partial(work, r.messages, r.ctx), again)

    def _step(self, r: Round, messages: Mapping[str, Message], ctx: Ctx) -> tuple[Aggregate, State]:
        """The aggregate, and the server's state after it; raises RoundFailed when that is not finite."""
        agg, r.slots["aggregate"] = self.settle(
            list(messages.values()) if self.reads_each else folding.rooted(r.folds, ctx), ctx
        )
        with blame.of_slot("server", self.fed.serving, agg.x, self.hub.server):
            server = self.fed.serving.step(lent(self.hub.server), agg, ctx)
        if not whole(server):
            name = name_of(self.fed.serving)
            raise RoundFailed(f"the step of {name} gives values that are not finite: lower its rate")
        return agg, server

    def _worth(self, r: Round, agg: Aggregate) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """Contributions and payments of a round; a payment must be one."""
        with blame.of_slot("value", self.fed.value, r.slots["value"]):
            values, r.slots["value"] = self.fed.value.value(agg.ids, r.slots["value"], r.ctx)
            values = {i: float(v) for i, v in values.items()}
        with blame.of_slot("reward", self.fed.reward, r.slots["reward"]):
            paid, r.slots["reward"] = self.fed.reward.pay(r.plan, agg.ids, values, r.slots["reward"], r.ctx)
            paid = {i: float(p) for i, p in paid.items()}
        if bad := [i for i, v in values.items() if not math.isfinite(v) or i not in self.parties]:
            raise MethodFault("value", f"{name_of(self.fed.value)} gives {bad[0]} the value {values[bad[0]]}")
        if bad := [i for i, p in paid.items() if not (math.isfinite(p) and p >= 0) or i not in self.parties]:
            raise MethodFault("reward", f"{name_of(self.fed.reward)} pays {bad[0]} {paid[bad[0]]}")
        return values, paid

    def _keep(
        self,
        r: Round,
        agg: Aggregate,
        server: State,
        values: Mapping[str, float],
        paid: Mapping[str, float],
    ) -> None:
        """The round has succeeded: its states become the run's, the contributors' versions are accepted."""
        st = self.state
        with blame.of_slot("select", self.fed.select):
            outcome = Outcome(r.plan, agg.ids, r.refused, values, paid)
            r.slots["select"] = self.fed.select.learn(r.slots["select"], outcome, r.ctx)
        st.server, st.slots = server, r.slots
        for i, s in r.kept.items():
            if r.decoders[i] or i in st.decode:
                self.books.senders.move(i, r.decoders[i], s.job.epoch)
            if i in st.pending:
                self.books.receivers.move(i, st.pending.pop(i), s.job.epoch)
            if s.state_version != st.accepted.get(i, 0):
                st.accepted[i] = s.state_version
        for i, value in values.items():
            r.ctx.at(client=i).note(events.Value(value))
        for i, amount in paid.items():
            r.ctx.at(client=i).note(events.Pay(amount))

    def _free(self, r: Round) -> None:
        """Free those whose work has ended (all of them after a failure), cancel or keep who is late."""
        st, hub, late = self.state, self.hub, self.fed.pace.late
        ended = r.queue[: r.seen] if late == "keep" else [j for j in r.queue if j.id in hub.live]
        st.clock = max([st.clock, *(j.due for j in ended)])
        for job in ended:
            self._note(hub.live[job.id], r.ctx)  # whether it was released in time is chance
            versions = {job.base, st.accepted.get(job.id, 0)}
            r.replaced.append((job.id, versions, max(versions | {hub.live[job.id].job.epoch})))
            del st.busy[job.id]
            hub.cancel([job.id])
        if late == "cancel":
            for i in st.busy:
                r.ctx.at(client=i).note(events.Late())
            hub.cancel(st.busy)
            st.busy.clear()
        self.briefs.keep(st.busy)

    def _commit(
        self, record: dict[str, Any], lines: list[Line], replaced: Sequence[Replaced] = ()
    ) -> dict[str, Any]:
        self.best.see([record])
        self.best.keep(self.state.round, self.model())
        done = self.books.commit(self.state, record, lines, self.engine.workers)
        self.best.settle(self.state.round)
        for states in replaced:  # only now does no checkpoint name them
            self.engine.keep(*states)
        return done

    # ---- models -----------------------------------------------------------------------------------------------
    def model(self) -> Tensor:
        """The present global model."""
        return self.fed.serving.model(self.state.server)

    def final(self) -> Tensor:
        """The model that the run leaves: that of the best round where it is kept, else the present one."""
        best = self.best.model(self.state.round)
        return self.model() if best is None else best


def _sums_cannot() -> None:
    """A sum cannot be taken apart: whose message it was stays open, so the round fails and not the run."""
    raise RoundFailed("the sum cannot be taken apart")
