"""One client-side session, the same for every method: join, work, share, encode, upload, leave.

A session is a generator that yields what the client says and is sent the answers, so the same code runs in one
process, in worker processes and in a party's own process. It does no input or output but the client's state files.
"""

from __future__ import annotations

import itertools
import time
import traceback
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fedfm.core.combine import Pipe
from fedfm.core.context import Ctx, Event, Terms
from fedfm.core.errors import ClientFailed
from fedfm.core.fold import weights_behind
from fedfm.core.message import Message, finite, nothing
from fedfm.core.protocols import Bound, Say, State
from fedfm.core.registry import name_of
from fedfm.core.state import Store

if TYPE_CHECKING:
    from fedfm.core.federation import Federation

UPLOAD = "upload"
POOLED = "<everybody>"  # the id of the one owner of all data, a baseline


@dataclass(frozen=True)
class Job:
    """One session to run. `epoch` is unique in the run: every event carries it, so nothing late is mistaken.

    kind "train": a round's work; "ask": the selector's question; "alone": train and score without the others;
    "score": evaluate the brief on a part of the held-out data.
    """

    kind: str
    id: str
    epoch: int
    round: int = 0  # in which it begins: also the version of its brief
    attempt: int = 0
    base: int = 0  # the client state to start from
    due: float = 0.0  # simulated time of completion
    position: int = 0  # in the plan
    terms: Terms = Terms()
    part: tuple[int, int] = (0, 1)  # score: this part of so many
    malicious: bool = False

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Job:
        """The inverse of `dataclasses.asdict`."""
        return cls(**plain | {"terms": Terms(**plain["terms"]), "part": tuple(plain["part"])})


@dataclass(frozen=True)
class Said:
    """What an engine hands to the hub: one utterance of one session, or its end (`phase` "done" or "gone")."""

    id: str
    epoch: int
    phase: str
    message: Message = field(default_factory=nothing)
    state_version: int = 0
    last: bool = False  # the session ends with this
    events: tuple[Event, ...] = ()
    error: str = ""


class Site:
    """What a worker holds for all the clients it serves: the federation, the bound model, data, client states."""

    def __init__(self, fed: Federation, bound: Bound, parties: Any, store: Store):
        self.fed, self.bound, self.parties, self.store = fed, bound, parties, store
        self.data, self.held_out = cache(self._data), cache(self._held_out)  # encoded once

    def _data(self, client: str) -> Any:
        """A party's training data, or everybody's."""
        return self.bound.encode(self.parties.pooled() if client == POOLED else self.parties.train(client))

    def _held_out(self, part: int, parts: int) -> Any:
        """One of `parts` slices of the common test set."""
        rows = self.parties.test()
        return self.bound.encode(replace(rows, rows=rows.rows[part::parts]))

    def run(self, job: Job, brief: Message) -> Generator[Said, Message, None]:
        """The session of `job` as a stream of `Said`; ends with phase "done", or "gone" with the error."""
        ctx = Ctx(self.fed.seed, job.round, job.attempt, job.id, job.terms, events=[])
        ctx = ctx.at(simulated=self.fed.simulated, horizon=self.fed.rounds)
        talk = {"train": self._train, "ask": self._ask}.get(job.kind, self._score)(job, brief, ctx)
        reply, phase, error = None, "gone", ""

        def word(reply: Message | None) -> Said:
            with torch.enable_grad():
                said = talk.send(reply)  # type: ignore[arg-type]  # None begins
            return Said(
                job.id, job.epoch, said.phase, said.message, said.state_version, said.last, ctx.drain()
            )

        try:
            while True:
                reply = yield word(reply)
        except StopIteration:
            phase = "done"
        except ClientFailed as e:
            error = str(e)
        except Exception as e:  # noqa: BLE001 - a client's own bug must not end the federation; it is an event
            at = traceback.extract_tb(e.__traceback__)[-1]
            error = f"{type(e).__name__}: {e} ({Path(at.filename).name}:{at.lineno}, in {at.name})"
        yield Said(job.id, job.epoch, phase, last=True, events=ctx.drain(), error=error)

    # ---- the kinds of session ---------------------------------------------------------------------------------
    def _train(self, job: Job, brief: Message, ctx: Ctx) -> Generator[Say, Message, None]:
        kept, stack = self.store.load(job.id, job.base), Pipe(self.fed.uplink)
        wire = yield from self._relay(stack.join(kept.get("wire", {}), ctx), ctx)
        reply = yield (
            yield from self._work(job, brief, ctx, kept.get("client", {}), kept.get("down", {}), wire)
        )
        yield from self._relay(stack.leave(wire, reply, ctx), ctx)

    def _work(
        self, job: Job, brief: Message, ctx: Ctx, mine: State, down: State, wire: State
    ) -> Generator[Say, Message, Say]:
        """The upload; no vector of it stays behind while the session waits for its answer. Moves `wire`."""
        fed, stack, bound = self.fed, Pipe(self.fed.uplink), self.bound.narrow(ctx.terms)
        client = fed.adversary.wrap(fed.client) if job.malicious else fed.client
        x, down = fed.downlink.decode(
            brief.x, brief.side, down, ctx.at(layout=fed.server.gives(bound.layout)).within("down")
        )
        brief = replace(brief, x=x, side={})

        start = time.perf_counter()
        with ctx.ambient():
            out = client.work(brief, self.data(job.id), mine, ctx, bound)
        m, mine = out if isinstance(out, tuple) else (yield from self._relay(out, ctx))
        worked = time.perf_counter()
        facts = m.info.get("facts", {})
        m = replace(
            m, sender=job.id, version=job.round, info={k: v for k, v in m.info.items() if k != "facts"}
        )
        if not all(finite(t) for t in (m.x, *m.side.values())):
            raise ClientFailed(
                f"the update of {job.id} is not finite (NaN or Inf); lower the learning rate or look at its data"
            )
        told = {"norm": float(torch.linalg.vector_norm(m.x.float())), **facts} if ctx.simulated else {}
        ctx.note(
            "upload", mass=m.mass, version=m.version, **told
        )  # a real party's norm and losses are its own

        ctx, sizes, side = ctx.at(layout=client.gives(bound.layout)), {"raw": m.x.nbytes}, dict(m.side)
        for i, stage in enumerate(stack.stages):
            if stage.opaque:
                m = _shared(
                    fed, m, ctx.at(layout=client.gives(self.bound.layout))
                )  # the sum is of whole models
            x, extra, wire[str(i)] = stage.encode(m.x, wire.get(str(i), {}), ctx.within(i))
            side |= {f"{i}/{k}": v for k, v in extra.items()}
            m = replace(m, x=x, side=dict(side))
            sizes[name_of(stage)] = sum(t.nbytes for t in (x, *side.values()))
        ctx.note("seconds", work=worked - start, encode=time.perf_counter() - worked)
        self._lost(UPLOAD, ctx)
        version = self.store.save(job.id, job.epoch, {"client": mine, "wire": wire, "down": down})
        ctx.note("bytes", direction="up", total=m.nbytes, stages=sizes)
        return Say(UPLOAD, m, version, last=UPLOAD not in stack.phases)

    def _ask(self, job: Job, brief: Message, ctx: Ctx) -> Generator[Say, Message, None]:
        x, _ = self.fed.downlink.decode(
            brief.x, brief.side, {}, ctx.at(layout=self.fed.server.gives(self.bound.layout)).within("down")
        )
        model = x[: self.bound.layout.size]  # what else a server sends comes behind it
        answer = self.fed.select.answer(replace(brief, x=model, side={}), self.data(job.id), ctx, self.bound)
        ctx.note("bytes", direction="talk", total=answer.nbytes, stages={})
        yield Say("bid", replace(answer, sender=job.id), last=True)

    def _score(self, job: Job, brief: Message, ctx: Ctx) -> Generator[Say, Message, None]:
        """Score the brief; for a baseline, train from it first, without the others."""
        with ctx.ambient():
            if job.kind == "alone":
                out = self.fed.client.alone().work(brief, self.data(job.id), {}, ctx, self.bound)
                assert isinstance(out, tuple), "what a party runs alone does not converse"
            else:
                self.bound.load(brief.x)
            scores = self.bound.score(self.held_out(*job.part))
        yield Say("score", nothing(scores=scores), last=True)

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
            ctx.note("bytes", direction="talk", total=m.nbytes, stages={})
            reply = (yield Say(said.phase, m)).decoded(codec, there.within("down"))

    def _lost(self, phase: str, ctx: Ctx) -> None:
        if self.fed.pace.lost(phase, ctx):
            ctx.note("dropout", phase=phase, reason="simulated")
            raise ClientFailed(f"{ctx.client} dropped out before {phase} (simulated)")


def _shared(fed: Federation, m: Message, ctx: Ctx) -> Message:
    """The client's own lift, with the mass behind the payload, for a stage that hides single messages."""
    lift = fed.aggregate.share(m, ctx)
    mass = (
        torch.as_tensor(lift.mass, dtype=torch.float32)
        .reshape(-1)
        .expand(weights_behind(fed, lift.x.numel()))
    )
    return replace(
        m, x=torch.cat([lift.x.float() * lift.alpha, mass]), mass=1.0, info={**m.info, "masses": mass.numel()}
    )
