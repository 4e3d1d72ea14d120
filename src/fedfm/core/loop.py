"""The one loop: Algorithm 1 over the slots of a federation, with its checkpoints and its ledger."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedfm.core import fold as folding
from fedfm.core.bound import Bound, Scores
from fedfm.core.combine import stages_of
from fedfm.core.context import Ctx, Terms
from fedfm.core.errors import MessageRefused, RoundFailed
from fedfm.core.federation import Federation
from fedfm.core.hub import Engine, Hub, Session
from fedfm.core.ledger import Ledger
from fedfm.core.message import Message
from fedfm.core.protocols import Plan, State
from fedfm.core.registry import name_of
from fedfm.core.session import Job, Site
from fedfm.core.state import Store, freeze, thaw, write
from fedfm.core.tree import cut


@dataclass
class RunState:
    """All that the server must remember between rounds; one file a round."""

    round: int = 0
    attempt: int = 0
    clock: float = 0.0  # simulated seconds
    epoch: int = 0  # sessions begun so far
    server: State = field(default_factory=dict)
    select: State = field(default_factory=dict)
    reward: State = field(default_factory=dict)
    down: State = field(default_factory=dict)  # the downlink's, at the server
    decode: dict[str, State] = field(default_factory=dict)  # the uplink's memory of each sender
    accepted: dict[str, int] = field(default_factory=dict)  # client -> version of its state
    busy: dict[str, Job] = field(default_factory=dict)  # sessions under way
    briefs: dict[str, State] = field(default_factory=dict)  # what they started from, by version and shape
    ledger: int = 0  # committed bytes
    metrics: int = 0

    def save(self, path: Path) -> None:
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        write(path, freeze(plain | {"busy": {i: j.dumps() for i, j in self.busy.items()}}))

    @classmethod
    def load(cls, path: Path) -> RunState:
        plain = thaw(path)
        return cls(**plain | {"busy": {i: Job.loads(j) for i, j in plain["busy"].items()}})


class Game:
    """The round's coalition game: `game(subset)` scores the model that this subset alone would have made; cached."""

    def __init__(self, run: Run, kept: dict[str, Message], before: State, ctx: Ctx):
        self.run, self.kept, self.before, self.ctx = run, kept, before, ctx.muted()
        self.known: dict[frozenset[str], float] = {}

    def __call__(self, subset: frozenset[str]) -> float:
        if subset not in self.known:
            state = self.before
            if subset:
                messages = [m for i, m in self.kept.items() if i in subset]
                try:
                    state = self.run.fed.server.step(state, self.run.settle(messages, self.ctx), self.ctx)
                except RoundFailed:
                    pass  # a coalition too small to aggregate moves nothing
            self.known[subset] = self.run.utility(self.run.fed.server.model(state))
        return self.known[subset]


class Run:
    """A federation in motion: the loop, its checkpoints and its ledger, under `folder`."""

    def __init__(self, fed: Federation, folder: Path, site: Site, engine: Engine, resume: bool = False):
        self.fed, self.folder, self.site, self.engine = fed, folder, site, engine
        self.bound: Bound = site.bound
        self.parties: dict[str, int] = {i: len(site.parties.train(i)) for i in site.parties.ids}
        self.ctx0 = Ctx(fed.seed, simulated=fed.simulated)
        self.malicious = fed.adversary.members(tuple(self.parties), self.ctx0)
        self.layout = fed.client.gives(self.bound.layout)
        last = max(self.checkpoints(), default=None) if resume else None
        if last is None:
            self.state = RunState(server=fed.server.init(self.bound, self.ctx0), select=fed.select.init(self.parties, self.ctx0))
        else:
            self.state = RunState.load(self._checkpoint(last))
            self.state.attempt += 1
            self.state.save(self._checkpoint(last))  # an attempt counts even if it commits nothing
        self.ledger = Ledger(folder / "events.jsonl", self.state.ledger)
        self.metrics = Ledger(folder / "metrics.jsonl", self.state.metrics)
        self.hub = Hub(fed, engine, self.bound)
        self.hub.accept = self._check_upload
        self.tick: Callable[[int, int], None] = lambda done, planned: None  # progress inside a round
        self.reads_each = (fed.aggregate.form == "all" or fed.value.reads or fed.detect.reads or fed.adversary.forges)

    # ---- the loop ---------------------------------------------------------------------------------------------
    def rounds(self) -> Iterator[dict[str, Any]]:
        """Algorithm 1. Yields one record a round; stopping between two of them loses nothing."""
        fed, st, hub = self.fed, self.state, self.hub
        if st.round == 0 and not self.metrics.length:
            yield self._close({"round": 0, "metrics": self.score(fed.server.model(st.server))}, [])
        while st.round < fed.rounds:
            clock, fold, kept = _Clock(), folding.Fold(fed.fold), dict[str, Session]()
            ctx = Ctx(fed.seed, st.round, st.attempt, layout=self.layout, simulated=fed.simulated, events=[])
            plan, select = self._plan(ctx)
            hub.ctx, hub.wire, hub.server = ctx, folding.hosts(fed.uplink, ctx), st.server
            start, began, seen, failed = st.clock, self._begin(plan, ctx), 0, ""
            queue = sorted(st.busy.values(), key=lambda j: (j.due, j.epoch))
            messages, decoders = dict[str, Message](), dict[str, State]()
            clock.lap("other")
            try:
                def stop(job: Job, kept=kept, began=began, start=start) -> bool:  # type: ignore[no-untyped-def]
                    return fed.pace.enough(len(kept), len(began), job.due - start)

                for s in hub.released(queue, self._brief, self.engine.ahead, stop):
                    clock.lap("train")
                    st.clock, seen = max(st.clock, s.job.due), seen + 1
                    self.tick(seen, len(queue))
                    m = self._open(s, ctx, decoders)
                    if m is not None and self.reads_each:
                        messages[s.job.id] = m
                    elif m is not None:
                        m = self._gather(m, fold, ctx.at(client=m.sender, terms=s.job.terms))
                    if m is not None:
                        kept[s.job.id] = s
                    s.upload, s.asked = None, s.asked and light(s.asked)  # O(1) memory: the fold has it
                    clock.lap("aggregate")
                if seen < len(queue) and (wait_s := getattr(fed.pace, "deadline_s", None)) is not None and queue[seen].due > start + wait_s:
                    st.clock = max(st.clock, start + wait_s)  # the round was closed by its deadline
                if fed.pace.late == "cancel":
                    hub.cancel(j.id for j in queue[seen:])
                hub.finish(kept)
                messages = fed.adversary.forge(messages, self.malicious, ctx)
                for i, reason in fed.detect.flag(messages, ctx).items():
                    ctx.at(client=i).note("refused", by=name_of(fed.detect), reason=reason)
                    del messages[i], kept[i]
                if len(kept) < fed.pace.quorum(len(began)):
                    raise RoundFailed(f"{len(kept)} of {len(began)} parties contributed, "
                                      f"{fed.pace.quorum(len(began))} are needed")
                agg = self.settle(list(messages.values()) if self.reads_each else fold, ctx)
                before, st.server = hub.server, fed.server.step(hub.server, agg, ctx)
                values = fed.value.value(agg.ids, Game(self, messages, before, ctx), ctx)
                paid, st.reward = fed.reward.pay(plan, agg.ids, values, st.reward, ctx)
                for kind, table in (("value", values), ("pay", paid)):
                    for i, number in table.items():
                        ctx.at(client=i).note(kind, **{"value" if kind == "value" else "amount": number})
                st.decode |= {i: d for i, d in decoders.items() if i in kept and d}
                st.select = select
            except RoundFailed as e:  # nobody's state moves
                failed, kept = str(e), {}
                ctx.note("round_failed", reason=failed)
            self._accept(kept, queue if failed else queue[:seen], ctx)
            clock.lap("aggregate")
            st.round += 1
            record = {"round": st.round, "clients": len(kept), "planned": len(began), "clock": st.clock, "failed": failed}
            if st.round % fed.evaluate.every == 0 or st.round == fed.rounds:
                record["metrics"] = self.score(fed.server.model(st.server))
            clock.lap("evaluate")
            yield self._close(record | {"seconds": clock.laps}, ctx.events or [])

    # ---- its steps --------------------------------------------------------------------------------------------
    def _plan(self, ctx: Ctx) -> tuple[Plan, State]:
        """Whom to ask to work: the selector's plan, after its questions, cut to the pace's room."""
        fed, st = self.fed, self.state
        pool = {i: n for i, n in self.parties.items() if i not in st.busy}
        answers: dict[str, Message] = {}
        if fed.select.asks:
            ask = [self.job("ask", i, k) for k, i in enumerate(fed.select.candidates(pool, st.select, ctx))]
            if ask:
                brief = self._brief(ask[0])
                for s in self.hub.collect(ask, brief):
                    self._record(s, ctx)
                    ctx.at(client=s.job.id).note("bytes", direction="down", total=brief.nbytes, stages={})
                    if s.upload is not None:
                        answers[s.job.id] = s.upload
                    else:
                        ctx.at(client=s.job.id).note("failed", error=s.error)
        plan, select = fed.select.select(pool, st.select, ctx, answers)
        room = max(0, fed.pace.room(len(st.busy), len(plan.jobs)))
        if room < len(plan.jobs):  # what was drawn is no longer what takes part, and the accountant must know
            plan = dataclasses.replace(plan, jobs=plan.jobs[:room], sampling={"kind": "cut", "drawn": dict(plan.sampling)})
        ctx.note("plan", clients=[i for i, _ in plan.jobs], sampling=dict(plan.sampling))
        return plan, select

    def _begin(self, plan: Plan, ctx: Ctx) -> list[Job]:
        """Jobs for the plan; the hub starts them when their turn comes."""
        st, jobs = self.state, []
        for position, (i, terms) in enumerate(plan.jobs):
            due = self.fed.pace.due(st.clock, ctx.at(client=i, terms=terms))
            job = dataclasses.replace(self.job("train", i, position, terms), due=due)
            st.busy[i] = job
            jobs.append(job)
            ctx.at(client=i).note("bytes", direction="down", total=self._brief(job).nbytes, stages={})
        return jobs

    def job(self, kind: str, id: str, position: int, terms: Terms | None = None) -> Job:
        st = self.state
        st.epoch += 1
        return Job(kind, id, st.epoch, st.round, st.attempt, st.round, st.accepted.get(id, 0), st.clock, position,
                   terms or Terms(), malicious=id in self.malicious)

    def _brief(self, job: Job) -> Message:
        """What the job starts from, made once per version and shape of terms."""
        fed, st, key = self.fed, self.state, f"{job.version}|{job.terms.shape}"
        if key not in st.briefs:
            m = fed.server.brief(st.server, job.terms)
            layout = fed.server.gives(self.bound.layout)
            if (c := cut(layout, *job.terms.shape)) is not None:
                m, layout = dataclasses.replace(m, x=c.narrow(m.x)), c.layout
            ctx = Ctx(fed.seed, job.version, layout=layout, simulated=fed.simulated).within("down")
            x, side, st.down = fed.downlink.encode(m.x, st.down, ctx)
            st.briefs[key] = {"x": x, "side": {**m.side, **side}, "kind": m.kind, "info": dict(m.info)}
        return Message(version=job.version, sender="server", **st.briefs[key])

    def _open(self, s: Session, ctx: Ctx, decoders: dict[str, State]) -> Message | None:
        """Decode and validate a released session's upload; None when there is nothing to use."""
        job, there = s.job, ctx.at(client=s.job.id, terms=s.job.terms)
        self._record(s, ctx)
        if s.upload is None:
            there.note("failed", error=s.error)
            return None
        c = cut(self.bound.layout, *job.terms.shape)
        layout = self.fed.client.gives(c.layout) if c else self.layout
        try:
            state = self.state.decode.get(job.id, {})
            m, decoders[job.id] = folding.decode(self.fed.uplink, s.upload, state, there.at(round=job.round, layout=layout))
            if folding.opaque_at(self.fed.uplink) is None:
                folding.validate(m, layout.size)
            return m
        except Exception as e:  # noqa: BLE001 - whatever a stranger's bytes do to a decoder, the round goes on
            there.note("refused", by="hub", reason=str(e) if isinstance(e, MessageRefused) else f"{type(e).__name__}: {e}")
            return None

    def _gather(self, m: Message, fold: folding.Fold, there: Ctx) -> Message | None:
        """Put an opened message into the fold; None when the fold refuses it."""
        try:
            folding.gather(self.fed, m, fold, there)
            return m
        except MessageRefused as e:
            there.note("refused", by="fold", reason=str(e))
            return None

    def _check_upload(self, m: Message) -> None:
        """Under an opaque stage a wrong length must be caught before the barrier names the survivors."""
        if (at := folding.opaque_at(self.fed.uplink)) is not None:
            x, ctx = torch.zeros(self.fed.aggregate.lifted(self.layout)), self.hub.ctx.muted().at(client=m.sender)
            for i, stage in enumerate(stages_of(self.fed.uplink)[:at]):  # linear ones: the length says nothing of the data
                x, _, _ = stage.encode(x, {}, ctx.within(i))
            n = x.numel()
            masses = folding.weights_behind(self.fed, n)
            last = at == len(stages_of(self.fed.uplink)) - 1  # a lossless stage behind the mask may change the length
            if m.info.get("masses") != masses or (last and m.x.numel() != n + masses):
                raise MessageRefused(f"{m.sender} sent {m.x.numel()} masked values; {n} and {masses} of mass were agreed")

    def settle(self, kept: Sequence[Message] | folding.Fold, ctx: Ctx) -> Any:
        return folding.settle(self.fed, kept, self.hub.wire, ctx, len(self.parties))

    def _record(self, s: Session, ctx: Ctx) -> None:
        """Move a session's facts to the round's ledger."""
        if ctx.events is not None:
            ctx.events.extend(s.events)
        s.events.clear()

    def _accept(self, kept: Mapping[str, Session], ended: list[Job], ctx: Ctx) -> None:
        """Commit the contributors' states, free those who have `ended`, cancel or keep who is late."""
        st, hub = self.state, self.hub
        for i, s in kept.items():
            if s.state_version:
                self.site.store.keep(i, {st.accepted.get(i, 0), s.state_version})
                st.accepted[i] = s.state_version
        for job in ended:
            if job.id in hub.live:
                self._record(hub.live[job.id], ctx)
            del st.busy[job.id]
        hub.cancel(j.id for j in ended)
        if self.fed.pace.late == "cancel":
            for i in st.busy:
                ctx.at(client=i).note("late")
            hub.cancel(st.busy)
            st.busy.clear()
        alive = {f"{j.version}|{j.terms.shape}" for j in st.busy.values()}
        st.briefs = {k: b for k, b in st.briefs.items() if k in alive}

    def _close(self, record: dict[str, Any], events: list[dict[str, Any]]) -> dict[str, Any]:
        """Complete the round's record from its facts; commit ledger, metrics and checkpoint, in this order."""
        st = self.state
        total = {"up": 0, "down": 0, "talk": 0}
        for e in events:
            if e["kind"] == "bytes":
                total[e["direction"]] += e["total"]
        for name in ("work", "encode"):
            spent = sum(e[name] for e in events if e["kind"] == "seconds")
            record.setdefault("cpu", {})[name] = spent
        if "seconds" in record:  # sessions run side by side: their encoding's share of the wall time
            coded = min(record["cpu"]["encode"] / self.engine.workers, record["seconds"]["train"])
            record["seconds"] |= {"encode": coded, "train": record["seconds"]["train"] - coded}
        losses = [e["loss_last"] for e in events if e["kind"] == "upload" and "loss_last" in e]
        record |= {"bytes": total, "train_loss": sum(losses) / len(losses) if losses else None}
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
        jobs = [dataclasses.replace(self.job("score", f"score/{k}", k), part=(k, parts)) for k in range(parts)]
        return merge([dict(s.upload.info["scores"]) for s in self.hub.collect(jobs, Message(model, kind="weights"))
                      if s.upload is not None])

    def utility(self, model: Tensor) -> float:
        """What the coalition game is played for: the primary metric on the first part of the held-out data."""
        self.bound.load(model)
        total, n = self.bound.score(self.site.held_out(0, self.fed.evaluate.utility_parts))[self.bound.objective.primary]
        return (total / n if n else 0.0) * (1.0 if self.bound.objective.higher_is_better else -1.0)

    def _checkpoint(self, t: int) -> Path:
        return self.folder / "checkpoints" / f"round-{t:06d}.safetensors"

    def checkpoints(self) -> list[int]:
        """The rounds that have a checkpoint, oldest first."""
        return sorted(int(p.stem.split("-")[1]) for p in (self.folder / "checkpoints").glob("round-*.safetensors"))


def light(m: Message) -> Message:
    """The message with as many values, that take no memory: what a barrier after the upload still needs to know."""
    return dataclasses.replace(m, x=m.x.new_zeros(1).expand(m.x.shape) if m.x.numel() else m.x)


def merge(parts: Sequence[Scores]) -> dict[str, float]:
    """Means from sums and counts."""
    sums: dict[str, tuple[float, int]] = {}
    for part in parts:
        for name, (s, n) in part.items():
            a, b = sums.get(name, (0.0, 0))
            sums[name] = (a + s, b + n)
    return {name: s / n for name, (s, n) in sorted(sums.items()) if n}


class _Clock:
    """Wall seconds by what they were spent on."""

    def __init__(self) -> None:
        self.last, self.laps = time.perf_counter(), {"train": 0.0, "aggregate": 0.0, "evaluate": 0.0, "other": 0.0}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] += now - self.last
        self.last = now


def make_store(folder: Path) -> Store:
    """Where the simulated parties keep their states."""
    return Store(folder / "clients")

