"""The one loop: Algorithm 1 over the slots of a federation, with its checkpoints and its ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedfm.core import fold as folding
from fedfm.core.check import readers
from fedfm.core.combine import Pipe
from fedfm.core.context import Ctx, Event, Terms
from fedfm.core.errors import FedfmError, MessageRefused, RoundFailed, reason
from fedfm.core.federation import Federation
from fedfm.core.fold import Fold
from fedfm.core.hub import Engine, Hub, Session
from fedfm.core.ledger import Ledger
from fedfm.core.memory import Round, RunState
from fedfm.core.message import Message, nothing
from fedfm.core.protocols import Bound, Plan, Scores, State
from fedfm.core.registry import name_of
from fedfm.core.session import Job, Site
from fedfm.core.tree import cut


class Run:
    """A federation in motion: the loop, its checkpoints and its ledger, under `folder`."""

    def __init__(self, fed: Federation, folder: Path, site: Site, engine: Engine, resume: bool = False):
        self.fed, self.folder, self.site, self.engine = fed, folder, site, engine
        self.bound: Bound = site.bound
        self.parties: dict[str, int] = {i: len(site.parties.train(i)) for i in site.parties.ids}
        self.ctx0 = Ctx(fed.seed, simulated=fed.simulated, horizon=fed.rounds)
        self.malicious = fed.adversary.members(tuple(self.parties), self.ctx0)
        self.layout = fed.client.gives(self.bound.layout)
        last = max(self.checkpoints(), default=None) if resume else None
        if last is None:
            self.state = RunState(
                server=fed.server.init(self.bound, self.ctx0), select=fed.select.init(self.parties, self.ctx0)
            )
        else:
            self.state = RunState.load(self._checkpoint(last))
            self.state.attempt += 1
            self.state.save(self._checkpoint(last))  # an attempt counts even if it commits nothing
        self.ledger = Ledger(folder / "events.jsonl", self.state.ledger)
        self.metrics = Ledger(folder / "metrics.jsonl", self.state.metrics)
        self.hub = Hub(fed, engine, self.bound)
        self.hub.accept = self._check_upload
        self.tick: Callable[[int, int], None] = lambda done, planned: None  # progress inside a round
        self.reads_each = any(readers(fed))

    # ---- the loop ---------------------------------------------------------------------------------------------
    def rounds(self) -> Iterator[dict[str, Any]]:
        """Algorithm 1. Yields one record a round; stopping between two of them loses nothing."""
        fed, st, hub = self.fed, self.state, self.hub
        if st.round == 0 and not self.metrics.length:
            yield self._commit({"round": 0, "metrics": self.score(fed.server.model(st.server))}, [])
        while st.round < fed.rounds:
            r = self._begin()
            r.lap("other")
            try:
                for s in hub.released(r.queue, self._brief, self.engine.ahead, partial(self._enough, r)):
                    r.lap("train")
                    self._take(s, r)
                    r.lap("aggregate")
                self._barrier(r)
                agg = self.settle(list(r.messages.values()) if self.reads_each else r.fold, r.ctx)
                server = fed.server.step(hub.server, agg, r.ctx)
                values = fed.value.value(agg.ids, self.game(r.messages, hub.server, r.ctx), r.ctx)
                paid, reward = fed.reward.pay(r.plan, agg.ids, values, st.reward, r.ctx)
                self._keep(r, server, reward, values, paid)
            except RoundFailed as e:  # nobody's state moves
                r.failed, r.kept, st.down = str(e), {}, r.down
                r.ctx.note("round_failed", reason=r.failed)
            self._free(r)
            r.lap("aggregate")
            st.round += 1
            record = {
                "round": st.round,
                "clients": len(r.kept),
                "planned": len(r.plan.jobs),
                "clock": st.clock,
                "failed": r.failed,
            }
            if st.round % fed.evaluate.every == 0 or st.round == fed.rounds:
                record["metrics"] = self.score(fed.server.model(st.server))
            r.lap("evaluate")
            yield self._commit(record | {"seconds": r.seconds}, r.ctx.events or [])

    # ---- the start of a round ---------------------------------------------------------------------------------
    def _begin(self) -> Round:
        """Plan, and make a job of each planned party; the hub starts it when its turn comes."""
        fed, st, down, start = self.fed, self.state, self.state.down, time.perf_counter()
        ctx = self.ctx0.at(round=st.round, attempt=st.attempt, layout=self.layout, events=[])
        plan, select = self._plan(ctx)
        for position, (i, terms) in enumerate(plan.jobs):
            job = self.job("train", i, position, terms)
            st.busy[i] = job = replace(job, due=fed.pace.due(st.clock, ctx.at(client=i, terms=terms)))
            ctx.at(client=i).note("bytes", direction="down", total=self._brief(job).nbytes, stages={})
        self.hub.begin(st.server, ctx)
        queue = sorted(st.busy.values(), key=lambda j: (j.due, j.epoch))
        return Round(ctx, plan, select, queue, st.clock, down, Fold(fed.fold), last=start)

    def _plan(self, ctx: Ctx) -> tuple[Plan, State]:
        """Whom to ask to work: the selector's plan, after its questions, cut to the pace's room."""
        fed, st = self.fed, self.state
        pool = {i: n for i, n in self.parties.items() if i not in st.busy}
        asked = fed.select.candidates(pool, st.select, ctx) if fed.select.asks else ()
        answers: dict[str, Message] = {}
        for s in self.hub.collect([self.job("ask", i, k) for k, i in enumerate(asked)], self._brief):
            ctx.at(client=s.job.id).note(
                "bytes", direction="down", total=self._brief(s.job).nbytes, stages={}
            )
            self._note(s, ctx)
            if s.upload is not None:
                answers[s.job.id] = s.upload
        plan, select = fed.select.select(pool, st.select, ctx, answers)
        room = max(0, fed.pace.room(len(st.busy), len(plan.jobs)))
        if room < len(plan.jobs):  # what was drawn is no longer what takes part, and the accountant must know
            plan = replace(
                plan, jobs=plan.jobs[:room], sampling={"kind": "cut", "drawn": dict(plan.sampling)}
            )
        ctx.note("plan", clients=[i for i, _ in plan.jobs], sampling=dict(plan.sampling))
        return plan, select

    def job(self, kind: str, id: str, position: int, terms: Terms | None = None) -> Job:
        st = self.state
        st.epoch += 1
        return Job(
            kind,
            id,
            st.epoch,
            st.round,
            st.attempt,
            st.accepted.get(id, 0),
            st.clock,
            position,
            terms or Terms(),
            malicious=id in self.malicious,
        )

    def _brief(self, job: Job) -> Message:
        """What the job starts from, made once per version and shape of terms."""
        fed, st, key = self.fed, self.state, f"{job.round}|{job.terms.shape}"
        if key not in st.briefs:
            m = fed.server.brief(st.server, job.terms)
            layout = fed.server.gives(self.bound.layout)
            if (c := cut(layout, *job.terms.shape)) is not None:
                m, layout = replace(m, x=c.narrow(m.x)), c.layout
            ctx = Ctx(fed.seed, job.round, layout=layout, simulated=fed.simulated).within("down")
            x, side, st.down = fed.downlink.encode(m.x, st.down, ctx)
            st.briefs[key] = {"x": x, "side": {**m.side, **side}, "kind": m.kind, "info": dict(m.info)}
        return Message(version=job.round, sender="server", **st.briefs[key])

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
                    folding.gather(self.fed, m, r.fold, there)
                r.kept[s.job.id] = s
            except Exception as e:  # noqa: BLE001 - whatever a stranger's bytes do to a decoder, the round goes on
                there.note("refused", by="hub", reason=reason(e))
        s.upload, s.asked = None, nothing()  # O(1) memory: the fold has it

    def _decoded(self, m: Message, job: Job, r: Round, there: Ctx) -> Message:
        """An upload, decoded and validated; raises MessageRefused."""
        c, memory = cut(self.bound.layout, *job.terms.shape), self.state.decode.get(job.id, {})
        layout = self.fed.client.gives(c.layout) if c else self.layout
        x, r.decoders[job.id] = self.hub.stack.decode(
            m.x, m.side, memory, there.at(round=job.round, layout=layout)
        )
        m = replace(m, x=x, side={}, sender=job.id, version=job.round)
        if self.hub.stack.hidden is None:
            folding.validate(m, layout.size)
        return m

    def _check_upload(self, m: Message) -> None:
        """Under an opaque stage a wrong length must be caught before the barrier names the survivors."""
        if (at := self.hub.stack.hidden) is not None:
            nought, ctx = (
                torch.zeros(self.fed.aggregate.lifted(self.layout)),
                self.hub.ctx.muted().at(client=m.sender),
            )
            n = (
                Pipe(*self.hub.stack.stages[:at]).encode(nought, {}, ctx)[0].numel()
            )  # linear stages: the length says nothing of the data
            masses = folding.weights_behind(self.fed, n)
            x, _ = self.hub.stack.decode(m.x, m.side, {}, ctx)  # down to the masked values
            if m.info.get("masses") != masses or x.shape != (n + masses,) or x.dtype != torch.int64:
                raise MessageRefused(
                    f"{m.sender} sent {tuple(x.shape)} {x.dtype} where {n} and {masses} of mass were agreed"
                )

    def settle(self, kept: Sequence[Message] | Fold, ctx: Ctx) -> Any:
        return folding.settle(self.fed, kept, self.hub.wire, ctx, len(self.parties))

    def _note(self, s: Session, ctx: Ctx) -> None:
        """Move a session's facts to the round's ledger."""
        if ctx.events is not None:
            ctx.events.extend(s.events)
        s.told = s.told or any(e["kind"] == "dropout" for e in s.events)  # that says it already
        s.events.clear()
        if s.status == "gone" and not s.told:
            s.told = True
            ctx.at(client=s.job.id).note("failed", error=s.error)

    def _enough(self, r: Round, job: Job) -> bool:
        return self.fed.pace.enough(len(r.kept), len(r.plan.jobs), job.due - r.start)

    # ---- its end ----------------------------------------------------------------------------------------------
    def _barrier(self, r: Round) -> None:
        """Nothing more is awaited: last words, forgeries, detection, quorum. Raises RoundFailed."""
        fed, st, late = self.fed, self.state, r.queue[r.seen :]
        wait_s = getattr(fed.pace, "deadline_s", None)
        if late and wait_s is not None and late[0].due > r.start + wait_s:
            st.clock = max(st.clock, r.start + wait_s)  # the round was closed by its deadline
        if fed.pace.late == "cancel":
            self.hub.cancel(j.id for j in late)
        self.hub.finish(r.kept)
        r.messages = fed.adversary.forge(r.messages, self.malicious, r.ctx)
        for i, why in fed.detect.flag(r.messages, r.ctx).items():
            r.ctx.at(client=i).note("refused", by=name_of(fed.detect), reason=why)
            del r.messages[i], r.kept[i]
        if len(r.kept) < (needed := fed.pace.quorum(len(r.plan.jobs))):
            raise RoundFailed(f"{len(r.kept)} of {len(r.plan.jobs)} parties contributed, {needed} are needed")

    def _keep(
        self, r: Round, server: State, reward: State, values: Mapping[str, float], paid: Mapping[str, float]
    ) -> None:
        """The round has succeeded: its states become the run's, the contributors' versions are accepted."""
        st = self.state
        st.server, st.reward, st.select = server, reward, r.select
        st.decode = {i: d for i, d in (st.decode | {i: r.decoders[i] for i in r.kept}).items() if d}
        for i, s in r.kept.items():
            if s.state_version != st.accepted.get(i, 0):
                st.accepted[i] = s.state_version
        for i, value in values.items():
            r.ctx.at(client=i).note("value", value=value)
        for i, amount in paid.items():
            r.ctx.at(client=i).note("pay", amount=amount)

    def _free(self, r: Round) -> None:
        """Free those whose work has ended (all of them after a failure), cancel or keep who is late."""
        st, hub = self.state, self.hub
        ended = (
            r.queue[: r.seen] if self.fed.pace.late == "keep" else [j for j in r.queue if j.id in hub.live]
        )
        st.clock = max([st.clock, *(j.due for j in ended)])
        for job in ended:
            self._note(hub.live[job.id], r.ctx)  # whether it was released in time is chance
            self.site.store.keep(job.id, {job.base, st.accepted.get(job.id, 0)})
            del st.busy[job.id]
            hub.cancel([job.id])
        if self.fed.pace.late == "cancel":
            for i in st.busy:
                r.ctx.at(client=i).note("late")
            hub.cancel(st.busy)
            st.busy.clear()
        alive = {f"{j.round}|{j.terms.shape}" for j in st.busy.values()}
        st.briefs = {k: b for k, b in st.briefs.items() if k in alive}

    def _commit(self, record: dict[str, Any], events: list[Event]) -> dict[str, Any]:
        """Complete the round's record from its facts; commit ledger, metrics and checkpoint, in this order."""
        st = self.state
        total = {
            way: sum(e["total"] for e in events if e["kind"] == "bytes" and e["direction"] == way)
            for way in ("up", "down", "talk")
        }
        cpu = {name: sum(e[name] for e in events if e["kind"] == "seconds") for name in ("work", "encode")}
        losses = [e["loss_last"] for e in events if e["kind"] == "upload" and "loss_last" in e]
        record |= {"cpu": cpu, "bytes": total, "train_loss": sum(losses) / len(losses) if losses else None}
        if "seconds" in record:  # sessions run side by side: their encoding's share of the wall time
            coded = min(cpu["encode"] / self.engine.workers, record["seconds"]["train"])
            record["seconds"] |= {"encode": coded, "train": record["seconds"]["train"] - coded}
        self.ledger.commit(events)
        self.metrics.commit([{"kind": "round", **record}])
        st.ledger, st.metrics = self.ledger.length, self.metrics.length
        st.save(self._checkpoint(st.round))
        for old in self.checkpoints()[:-2]:
            self._checkpoint(old).unlink(missing_ok=True)
        return record

    # ---- scores -----------------------------------------------------------------------------------------------
    def score(self, model: Tensor) -> dict[str, float]:
        """The held-out scores of a model, computed in parts wherever sessions run."""
        parts = self.fed.evaluate.parts
        brief, jobs = (
            Message(model, "weights"),
            [replace(self.job("score", f"score/{k}", k), part=(k, parts)) for k in range(parts)],
        )
        sessions = self.hub.collect(jobs, lambda job: brief)
        if errors := [s.error for s in sessions if s.upload is None]:
            raise FedfmError(f"the model cannot be scored: {errors[0]}")
        return merge([s.upload.info["scores"] for s in sessions if s.upload is not None])

    def game(
        self, messages: Mapping[str, Message], before: State, ctx: Ctx
    ) -> Callable[[frozenset[str]], float]:
        """The round's coalition game: a subset's worth is the score of the model that it alone would have made."""
        ctx = ctx.muted()

        @cache
        def worth(subset: frozenset[str]) -> float:
            state = before
            with suppress(RoundFailed):  # a coalition too small to aggregate moves nothing
                if subset:
                    state = self.fed.server.step(
                        before, self.settle([m for i, m in messages.items() if i in subset], ctx), ctx
                    )
            return self.utility(self.fed.server.model(state))

        return worth

    def utility(self, model: Tensor) -> float:
        """What the coalition game is played for: the primary metric on the first part of the held-out data."""
        self.bound.load(model)
        total, n = self.bound.score(self.site.held_out(0, self.fed.evaluate.utility_parts))[
            self.bound.objective.primary
        ]
        return (total / n if n else 0.0) * (1.0 if self.bound.objective.higher_is_better else -1.0)

    def _checkpoint(self, t: int) -> Path:
        return self.folder / "checkpoints" / f"round-{t:06d}.safetensors"

    def checkpoints(self) -> list[int]:
        """The rounds that have a checkpoint, oldest first."""
        return sorted(
            int(p.stem.split("-")[1]) for p in (self.folder / "checkpoints").glob("round-*.safetensors")
        )


def merge(parts: Sequence[Scores]) -> dict[str, float]:
    """Means from sums and counts."""
    sums = {
        name: [sum(both) for both in zip(*(p[name] for p in parts if name in p), strict=True)]
        for name in sorted({name for p in parts for name in p})
    }
    return {name: s / n for name, (s, n) in sums.items() if n}
