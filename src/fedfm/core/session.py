"""One client-side session, the same for every method: join, work, encode, upload, leave.

A session is a generator that yields what the client says and is sent the answers, so the same code runs in one
process, in worker processes and in a party's own process. It does no input or output but the client's state files.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Generator
from dataclasses import replace
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any

import torch

from fedfm.cards.registry import name_of
from fedfm.core import blame, scoring
from fedfm.core.combine import Pipe
from fedfm.core.context import Ctx, Terms
from fedfm.core.errors import ClientFailed, MethodFault
from fedfm.core.fold import weights_behind
from fedfm.core.home import Home
from fedfm.core.job import POOLED, UPLOAD, VALIDATION, Job, Said
from fedfm.core.message import Message, finite, pack
from fedfm.core.protocols import Bound, Client, Say, State
from fedfm.core.spending import SERVER, guards
from fedfm.core.state import Store
from fedfm.core.talk import Talk, words
from fedfm.ledger import events

if TYPE_CHECKING:
    from fedfm.core.federation import Federation

OURS = frozenset({"facts"})  # keys of `info` that the session itself takes out


class Guard:
    """A party's side: its rows, its states, its sessions; in a simulation, of all the parties that a worker serves.

    `enter` and `exit` are the doors: what a brief may ask, and what may leave.
    """

    def __init__(self, fed: Federation, bound: Bound, parties: Any, store: Store):
        self.fed, self.bound, self.parties, self.store = fed, bound, parties, store
        self.data, self.tests = cache(self._data), cache(self._tests)  # encoded once
        self.public: Any = cache(self._public)  # once an architecture
        self.checks = cache(self._checks)

    def _data(self, client: str) -> Any:
        """A party's training data, or everybody's."""
        rows = self.parties.pooled() if client == POOLED else self.parties.train(client)
        return self.bound.at(client, Terms()).encode(rows)

    def _tests(self, client: str) -> Any:
        """A party's own test rows."""
        return self.bound.at(client, Terms()).encode(self.parties.test(client))

    def _public(self, bound: Any) -> Any:
        """The rows that everybody sees."""
        return bound.encode(self.parties.public())

    def _checks(self, client: str) -> Any:
        """Rows that a party keeps to find the best round by."""
        return self.bound.at(client, Terms()).encode(self.parties.validation(client))

    def run(self, job: Job, brief: Message) -> Generator[Said, Message, None]:
        """The session of `job`."""
        ctx = self.context(job)
        kinds = {
            "train": self._train,
            "ask": self._ask,
            "alone": self._alone,
            "own": self._own,
            "visit": self._visit,
        }
        return words(job, kinds[job.kind](job, brief, ctx), ctx)

    def context(self, job: Job) -> Ctx:
        """What a session of `job` knows."""
        fed = self.fed
        ctx = Ctx(fed.seed, job.round, job.attempt, job.id, job.terms, simulated=fed.simulated, events=[])
        bound = self.bound.at(job.id, Terms())
        return ctx.at(horizon=fed.span, since=fed.since, public=partial(self.public, bound))

    @cached_property
    def weighed(self) -> bool:
        """Is protection asked for from the server, which gets the weights in clear?"""
        walls = guards(self.fed, SERVER)
        return bool(walls) and not any("mass" in s.covers for s in walls)

    def enter(self, job: Job, brief: Message) -> None:
        """Before anything is done with a brief: a real party's policy refuses here."""

    def exit(self, client: Client, m: Message) -> None:
        """Before a message is encoded: its kind and what it tells beside the payload are as declared."""
        if m.kind != client.makes:
            raise MethodFault(
                "client", f"{name_of(client)} sent '{m.kind}' and declares makes='{client.makes}'"
            )
        if m.side:
            raise MethodFault(
                "client",
                f"{name_of(client)} puts {sorted(m.side)} beside its payload, where only wire stages write; let "
                "`gives` declare a layout of several parts",
            )
        if undeclared := set(m.info) - client.info - OURS:
            raise MethodFault(
                "client",
                f"{name_of(client)} tells {sorted(undeclared)} beside its message; declare it: "
                f"info = frozenset({sorted(undeclared)})",
            )

    # ---- the kinds of session ---------------------------------------------------------------------------------
    def _train(self, job: Job, brief: Message, ctx: Ctx) -> Talk:
        self.enter(job, brief)
        kept, stack = self.store.load(job.id, job.base), Pipe(self.fed.uplink)
        if stack.hidden is not None and not (self.fed.select.cuts or self.fed.downlink.remembers):
            # unequal models are by agreement otherwise
            ctx = ctx.at(brief=hashlib.sha256(pack(brief)).hexdigest())
        wire = yield from self._relay(stack.join(kept.get("wire", {}), ctx), ctx)
        reply = yield (
            yield from self._work(job, brief, ctx, kept.get("client", {}), kept.get("down", {}), wire)
        )
        yield from self._relay(stack.leave(wire, reply, ctx), ctx)

    def _work(
        self, job: Job, brief: Message, ctx: Ctx, mine: State, down: State, wire: State
    ) -> Generator[Say, Message, Say]:
        """The upload; no vector of it stays behind while the session waits for its answer. Moves `wire`."""
        fed, stack, bound = self.fed, Pipe(self.fed.uplink), self.bound.at(job.id, ctx.terms)
        client = fed.adversary.wrap(fed.client) if job.malicious else fed.client
        brief, down = self._opened(brief, down, ctx, bound)

        start = time.perf_counter()
        with blame.untouched("client", client, brief.x):
            with ctx.ambient():
                out = client.work(brief, self.data(job.id), mine, ctx, bound)
            if isinstance(out, Generator):
                out = yield from self._relay(out, ctx)
        m, mine = _ended(client, out)
        blame.intact("client", client, bound)
        worked = time.perf_counter()
        self.exit(client, m)
        if m.mass not in (1.0, rows := float(len(self.data(job.id)))) and not job.malicious and self.weighed:
            raise MethodFault(
                "client",
                f"{name_of(client)} weighs a message by {m.mass:g}, a party with {rows:g} rows: weights leave "
                "in clear here, and row counts alone are public",
            )
        facts = m.info.get("facts", {})
        m = replace(
            m, sender=job.id, version=job.round, info={k: v for k, v in m.info.items() if k not in OURS}
        )
        if not finite(m.x):
            raise ClientFailed(
                f"the update of {job.id} is not finite (NaN or Inf); lower the learning rate or look at its data"
            )
        told = {"norm": (n := _norm(m.x))} | facts | {"norm": n} if ctx.simulated else {}  # else its own
        ctx.note(events.Upload(m.mass, m.version, told))

        sizes, side = {"raw": m.x.nbytes}, dict[str, torch.Tensor]()
        layout = client.gives((self.bound if client.mixed else bound).layout)  # unlike models: what all share
        if stack.stages and layout.mixed and stack.hidden is None:  # stages see weights only
            side["buffers"] = layout.buffers(m.x)
            m, layout = replace(m, x=layout.weights(m.x)), layout.trained
        layouts = stack.layouts(layout)
        for i, stage in enumerate(stack.stages):
            if stage.opaque:  # the sum is of whole models
                m = _shared(fed, m, ctx.at(layout=(whole := client.gives(self.bound.layout))))
                layouts = stack.layouts(whole)
            there = ctx.at(layout=layouts[i]).within(i)
            x, extra, wire[str(i)] = stage.encode(m.x, wire.get(str(i), {}), there)
            side |= {f"{i}/{k}": v for k, v in extra.items()}
            m = replace(m, x=x, side=dict(side))
            sizes[name_of(stage)] = sum(t.nbytes for t in (x, *side.values()))
        ctx.note(events.Seconds(worked - start, time.perf_counter() - worked))
        self._lost(UPLOAD, ctx)
        version = self.store.save(job.id, job.epoch, {"client": mine, "wire": wire, "down": down})
        ctx.note(events.Bytes("up", m.nbytes, sizes))
        return Say(UPLOAD, m, version, last=UPLOAD not in stack.phases)

    def _ask(self, job: Job, brief: Message, ctx: Ctx) -> Talk:
        slot: Any = {"select": self.fed.select, "aggregate": self.fed.aggregate, "value": self.fed.value,
                     "server": self.fed.serving, "detect": self.fed.detect, "reward": self.fed.reward}[job.case]  # fmt: skip
        bound = self.bound.at(job.id, Terms())
        answer = replace(slot.answer(brief, self.data(job.id), ctx, bound), sender=job.id)
        ctx.note(events.Bytes("talk", answer.nbytes, {}))
        yield Say("answer", answer, last=True)

    def _alone(self, job: Job, brief: Message, ctx: Ctx) -> Talk:
        """A baseline: train without the others; the message is the model, or its score where each party has its own."""
        bound, fed = self.bound.at(job.id, Terms()), self.fed
        brief = brief if fed.task.whole else replace(brief, x=bound.init)
        with ctx.ambient():
            out = fed.client.alone().work(brief, self.data(job.id), {}, ctx, bound)
            assert isinstance(out, tuple), "what a party runs alone does not converse"
            ctx.drain()
            m = Message(bound.read(), "weights", sender=job.id)
            if not fed.serving.whole and job.id != POOLED:
                m = scoring.tell(fed.evaluate.measure(self.tests(job.id), bound))
        yield Say("model", m, last=True)

    def _own(self, job: Job, brief: Message, ctx: Ctx) -> Talk:
        """Score what this party would use, on its own test or validation rows."""
        bound = self.own(job, brief, ctx)
        with ctx.ambient():
            rows = self.checks(job.id) if job.case == VALIDATION else self.tests(job.id)
            told = scoring.tell(self.fed.evaluate.measure(rows, bound))
        ctx.note(events.Bytes("talk", told.nbytes, {}))
        yield Say("score", told, last=True)

    def own(self, job: Job, brief: Message, ctx: Ctx) -> Bound:
        """The model that this party would use, loaded."""
        kept, bound = self.store.load(job.id, job.base), self.bound.at(job.id, Terms())
        brief, _ = self._opened(brief, kept.get("down", {}), ctx, self.bound)
        with ctx.ambient():
            bound.load(self.fed.client.own(brief, kept.get("client", {}), ctx, bound))
        return bound

    def _visit(self, job: Job, brief: Message, ctx: Ctx) -> Talk:
        """Score the model that is given on this party's own test rows: its sums leave, its rows do not."""
        with ctx.ambient():
            self.bound.load(brief.x)
            told = scoring.tell(self.fed.evaluate.measure(self.tests(job.id), self.bound))
        ctx.note(events.Bytes("talk", told.nbytes, {}))
        yield Say("score", told, last=True)

    # ---- their parts ------------------------------------------------------------------------------------------
    def _opened(self, brief: Message, down: State, ctx: Ctx, bound: Bound) -> tuple[Message, State]:
        """The brief, decoded under the name that it was encoded under."""
        fed = self.fed
        name = ctx.client if fed.downlink.remembers else ""
        layout = fed.serving.gives((self.bound if fed.client.mixed else bound).layout)
        there = ctx.at(client=name, layout=layout).within("down")
        x, down = fed.downlink.decode(brief.x, brief.side, down, there)
        return replace(brief, x=x, side={}), down

    def _relay(self, talk: Generator[Say, Message, Any], ctx: Ctx) -> Generator[Say, Message, Any]:
        """Pass a method's own conversation on, through the `talk` codec, counting its bytes."""
        codec, there, reply = self.fed.talk, ctx.at(layout=None).within("talk"), None
        for turn in itertools.count():
            try:
                with ctx.ambient(f"turn {turn}"):
                    said = talk.send(reply)  # type: ignore[arg-type]  # None begins
            except StopIteration as end:
                return end.value
            self._lost(said.phase, ctx)
            m = replace(said.message.coded(codec, there.within("up")), sender=ctx.client)
            ctx.note(events.Bytes("talk", m.nbytes, {}))
            reply = (yield Say(said.phase, m)).decoded(codec, there.within("down"))

    def _lost(self, phase: str, ctx: Ctx) -> None:
        if self.fed.pace.lost(phase, ctx):
            ctx.note(events.Dropout(phase, "simulated"))
            raise ClientFailed(f"{ctx.client} dropped out before {phase} (simulated)")


class Site:
    """One process that holds everything: the server's `home` and all parties behind one `guard` (a simulation)."""

    def __init__(self, fed: Federation, bound: Bound, parties: Any, store: Store):
        self.fed, self.bound, self.parties, self.store = fed, bound, parties, store
        self.home = Home(fed, bound, {i: len(parties.train(i)) for i in parties.ids}, parties)
        self.guard = Guard(fed, bound, parties, store)
        whole, evaluate = fed.serving.whole, fed.evaluate
        for i in parties.ids:  # DataError, with the knob that gives them, before any work
            if evaluate.personal or evaluate.where == "parties" or not whole:
                parties.test(i)
            if evaluate.validates and not whole:
                parties.validation(i)
        self.data = self.guard.data

    def run(self, job: Job, brief: Message) -> Generator[Said, Message, None]:
        """The session of `job`, on whichever side it belongs."""
        return (self.home if job.kind == "score" else self.guard).run(job, brief)


def _ended(client: Client, out: Any) -> tuple[Message, State]:
    """What `work` ended with; MethodFault where that is not what every client gives."""
    if isinstance(out, tuple) and [*map(type, out)] == [Message, dict]:
        x, mass = out[0].x, out[0].mass
        if not isinstance(x, torch.Tensor) or x.layout is not torch.strided or x.is_meta or x.is_quantized:
            what = f"a {type(x).__name__} of {getattr(x, 'layout', 'no tensor')}"
            raise MethodFault("client", f"{name_of(client)} sends {what}; a dense tensor of numbers is sent")
        if x.is_complex() or isinstance(mass, bool) or not isinstance(mass, int | float):
            raise MethodFault(
                "client", f"{name_of(client)} sends {x.dtype} and the weight {mass!r}; real numbers are sent"
            )
        return out
    raise MethodFault(
        "client",
        f"the work of {name_of(client)} gives {type(out).__name__}, not (Message, dict of its state), nor a "
        "generator that returns them",
    )


def _shared(fed: Federation, m: Message, ctx: Ctx) -> Message:
    """The client's own lift, with the mass behind the payload, for a stage that hides single messages."""
    lift = fed.aggregate.share(m, ctx)
    mass = torch.as_tensor(lift.mass, dtype=torch.float32).reshape(-1)
    mass = mass.expand(weights_behind(fed, lift.x.numel()))
    return replace(
        m,
        x=torch.cat([lift.x.float() * lift.alpha, mass]),
        mass=1.0,
        info={**m.info, "masses": mass.numel()},
    )


def _norm(x: torch.Tensor) -> float:
    """The Euclidean norm; in fp64 only where fp32 overflows (it takes several times as long)."""
    norm = float(torch.linalg.vector_norm(x.float()))
    return norm if norm < float("inf") else float(torch.linalg.vector_norm(x, dtype=torch.float64))
