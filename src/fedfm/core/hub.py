"""The hub: the one that knows who is alive. It owns conversations, phases, barriers, and the failure path.

A barrier closes when nobody runs any more; if sessions wait at several phases, the earliest phase is served first.
Every utterance carries its session's epoch, so a cancelled session's late upload is dropped here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from fedfm.core.combine import Pipe
from fedfm.core.context import Ctx
from fedfm.core.errors import MachineFault, MessageRefused, MethodFault, RoundFailed, words_of
from fedfm.core.fold import validate
from fedfm.core.job import UPLOAD, Job, Said
from fedfm.core.message import Message, finite, nothing
from fedfm.core.protocols import Bound, Replies, State
from fedfm.core.session import Site
from fedfm.core.spool import Spool
from fedfm.ledger import events
from fedfm.ledger.events import Event, Line, of_server


class Engine(Protocol):
    """Where sessions run. Results must not depend on it: same model and same ledger, bit for bit."""

    workers: int

    @property
    def ahead(self) -> int:
        """Sessions to keep started beyond the one that is consumed."""

    def open(self, site: Site) -> None: ...
    def start(self, job: Job, brief: Message) -> None: ...
    def send(self, id: str, epoch: int, message: Message) -> None: ...
    def next(self) -> Said:
        """The next utterance of any session; blocks until there is one."""

    def cancel(self, id: str, epoch: int) -> None: ...
    def keep(self, id: str, versions: set[int], upto: int) -> None:
        """Of a client's states up to version `upto`, only these can be named again."""

    def close(self) -> None: ...


TURNS = 1_000_000  # of one conversation


@dataclass
class Session:
    """The server's view of one session: "running" (its next word is awaited), "waiting" (for ours), "done", "gone"."""

    job: Job
    status: str = "running"
    phase: str = ""
    asked: Message = field(default_factory=nothing)  # what it waits for an answer to
    upload: Message | None = None  # or its answer or score
    state_version: int = 0
    events: list[Line] = field(default_factory=list)
    error: str = ""
    where: str = ""  # the line of an undeclared failure
    brief: Message | None = None  # until it has been answered: another worker may have to begin anew
    turn: int = 0  # of the word that is awaited
    again: bool = False  # its first worker failed
    told: bool = False  # the ledger knows that it failed

    @property
    def ended(self) -> bool:
        return self.status in ("done", "gone")


class Hub:
    """Sessions by party, across rounds (asynchronous work outlives its round)."""

    def __init__(self, fed: Any, engine: Engine, bound: Bound):
        self.fed, self.engine, self.bound = fed, engine, bound
        self.live: dict[str, Session] = {}  # at work for a round ("train"), by party
        self.aside: dict[int, Session] = {}  # by epoch: a busy party can be asked and scored
        self.epoch: Callable[[], int] = lambda: 0  # a new one
        self.accept: Callable[[Message], None] = lambda m: None
        self.stack, self.spool = Pipe(fed.uplink), Spool()
        self.begin({}, Ctx(0))
        wire = list(self.stack.phases)
        at = wire.index(UPLOAD) if UPLOAD in wire else len(wire)
        self._order = [*wire[:at], *fed.serving.phases, UPLOAD, *wire[at + 1 :]]
        self._barriers: dict[str, str] = {**self.stack.phases, **fed.serving.phases}

    def begin(self, server: State, ctx: Ctx) -> None:
        """A round begins: whose answers the phases get."""
        self.server, self.ctx, self.wire = server, ctx, self.stack.host(ctx)

    # ---- sessions ---------------------------------------------------------------------------------------------
    def start(self, job: Job, brief: Message) -> None:
        s = Session(job, brief=brief)
        if job.kind == "train":
            self.live[job.id] = s
        else:
            self.aside[job.epoch] = s
        self.engine.start(job, brief)

    def cancel(self, ids: Iterable[str]) -> None:
        """End sessions; whatever they still send is stale. The one owner of the failure path."""
        for id in list(ids):
            if (s := self.live.pop(id, None)) is not None:
                self.spool.drop(s.job.epoch)
                if not s.ended:
                    self.engine.cancel(id, s.job.epoch)

    def pump(self) -> None:
        """Take one utterance from the engine and do what it asks for."""
        said = self.engine.next()
        s = self.aside.get(said.epoch) or self.live.get(said.id)
        if s is None or s.ended or (s.job.id, s.job.epoch) != (said.id, said.epoch):
            return
        if said.turn not in (-1, s.turn):
            return  # heard before
        s.turn += 1
        if said.phase == "gone" and said.fault == "machine":
            self._elsewhere(s, said)
            return
        s.events += (e for e in said.events if e.get("client") == said.id and not of_server(e))
        s.phase, s.asked = said.phase, said.message
        if said.phase in ("done", "gone"):
            s.status, s.error, s.where = said.phase, said.error, said.where
            if said.fault == "method":
                raise MethodFault(f"{s.job.kind} of {said.id}", said.error, said.where)
        elif why := self._out_of_order(s, said):
            self._refuse(s, MessageRefused(why))
        elif said.last or said.phase == UPLOAD:
            self._uploaded(s, said)
        elif self._barriers[said.phase] == "each":
            self._serve(said.phase, {said.id: said.message})
        else:
            s.status = "waiting"
        if s.ended or s.phase == UPLOAD:
            s.brief = None
        self._close_barrier()

    def _out_of_order(self, s: Session, said: Said) -> str:
        """Why this word may not be said now; empty: it may."""
        if not said.last and said.phase not in self._barriers:
            return f"'{said.phase}' is no phase of this federation"
        if s.turn > TURNS:
            return f"{said.id} has said {TURNS:,} words in one session"
        return self.stack.admits(self.wire, said.phase, said.id) if s.job.kind == "train" else ""

    def _uploaded(self, s: Session, said: Said) -> None:
        """Take an upload, an answer or a score."""
        s.status = "done" if said.last else "waiting"
        try:
            if s.job.kind == "train":
                self.accept(said.message)
            s.upload, s.state_version = said.message, said.state_version
        except Exception as e:  # noqa: BLE001 - a stranger's bytes
            self._refuse(s, e)

    def _elsewhere(self, s: Session, said: Said) -> None:
        """A worker, its disk or its memory failed: the job is pure, so another worker takes it, once."""
        if s.brief is None or s.again:
            raise MachineFault(
                f"the work of {said.id} failed twice or in mid-conversation: {said.error}"
                + "\n    fix: nothing is lost, `fedfm resume` goes on; use fewer workers if memory ran out"
                * ("fix:" not in said.error)
            )
        job = replace(s.job, epoch=self.epoch())
        fresh = Session(job, brief=s.brief, again=True)
        if job.kind == "train":
            self.live[job.id] = fresh
        else:
            self.aside[job.epoch] = self.aside[s.job.epoch] = fresh
        self.engine.start(job, s.brief)

    def _close_barrier(self) -> None:
        if not self._barriers:
            return  # nobody can be waiting
        cohort = [s for s in self.live.values() if not s.ended]
        if any(s.status == "running" for s in cohort):
            return
        waiting = {s.phase for s in cohort}
        if (phase := next((p for p in self._order if p in waiting), None)) is not None:
            cohort.sort(key=lambda s: s.job.position)
            # an upload that was released is in the fold already: who uploaded is all that is left of it
            self._serve(
                phase,
                {s.job.id: nothing() if phase == UPLOAD else s.asked for s in cohort if s.phase == phase},
            )

    def _serve(self, phase: str, messages: Mapping[str, Message]) -> None:
        """Let the stage or the server that declared `phase` answer, through the `talk` codec; may raise RoundFailed."""
        if phase != UPLOAD:
            messages = {
                i: m for i, m in ((i, self._heard(i, m)) for i, m in messages.items()) if m is not None
            }
        try:
            replies = self._answers(phase, messages)
        except Exception as e:  # noqa: BLE001 - code on what strangers said
            if self._barriers[phase] == "all":
                raise (
                    e if isinstance(e, RoundFailed) else RoundFailed(f"phase '{phase}': {words_of(e)}")
                ) from e
            for i in messages:
                self._refuse(self.live[i], e)
            return
        for id in messages:
            reply = replies.get(id, nothing())
            if phase != UPLOAD:
                reply = reply.coded(self.fed.talk, self._talk(id).within("down"))
            s = self.live[id]
            self._noted(s, events.Bytes("talk", reply.nbytes, {}))
            s.status, s.brief = "running", None
            self.engine.send(id, s.job.epoch, reply)

    def _answers(self, phase: str, messages: Mapping[str, Message]) -> Replies:
        replies: Replies
        if phase in self.stack.phases:
            replies, self.wire = self.stack.serve(self.wire, phase, messages, self.ctx)
            return replies
        replies, server = self.fed.serving.serve(self.server, phase, messages, self.ctx, self.bound)
        if not all(finite(t) for r in replies.values() for t in (r.x, *r.side.values())):
            raise MessageRefused(f"phase '{phase}': what was sent makes an answer that is not finite")
        self.server = server
        return replies

    def _talk(self, id: str) -> Ctx:
        return self.ctx.at(
            client=id, layout=None, terms=self.live[id].job.terms, round=self.live[id].job.round
        ).within("talk")

    def _heard(self, id: str, m: Message) -> Message | None:
        """A message of a conversation, decoded; one that cannot be ends its session."""
        try:
            validate(m := m.decoded(self.fed.talk, self._talk(id).within("up")), -1)
            return m
        except Exception as e:  # noqa: BLE001 - whatever a stranger's bytes do to a decoder, the round goes on
            self._refuse(self.live[id], e)
            return None

    def _noted(self, s: Session, event: Event) -> None:
        """Write a fact of the hub's among those of the session, which the round reads."""
        s.events.append({"round": s.job.round, "kind": event.kind, "client": s.job.id} | event.facts())

    def _refuse(self, s: Session, e: Exception) -> None:
        self._noted(s, events.Refused("hub", words_of(e)))
        s.status, s.error, s.told = "gone", words_of(e), True
        self.engine.cancel(s.job.id, s.job.epoch)

    # ---- a round ----------------------------------------------------------------------------------------------
    def released(
        self,
        queue: list[Job],
        brief: Callable[[Job], Message],
        window: int,
        stop: Callable[[Job], bool],
        lands: Callable[[Job, int], Job] = lambda job, nbytes: job,
    ) -> Iterator[Session]:
        """Sessions in the order of `queue`, each as soon as it has uploaded or is gone; ends where `stop(job)` says so.

        At most `window` sessions are started beyond the one awaited, so one slow party cannot pile up the others'
        messages; with a barrier all start at once, because it waits for all. `lands` says when an upload of so many
        bytes is there: it goes back into the queue, behind whoever may come before it.
        """
        i, together = 0, "all" in self._barriers.values()
        while i < len(queue) and not stop(job := queue[i]):
            for ahead in queue if together and not i else queue[i : i + window]:
                if ahead.id not in self.live:  # asynchronous work may be under way already
                    self.start(ahead, brief(ahead))
            while (s := self.live[job.id]).upload is None and not s.ended and s.job.epoch not in self.spool:
                self.pump()
            if s.upload is not None and (then := lands(job, s.upload.nbytes)) != job:
                queue[i] = then
                queue[i:] = sorted(queue[i:], key=Job.order)
                if queue[i] != then:  # others come first
                    self.spool.put(s.job.epoch, s.upload)
                    s.upload = None
                continue
            if s.job.epoch in self.spool:
                s.upload = self.spool.take(s.job.epoch)
            i += 1
            yield s

    def finish(self, ids: Collection[str]) -> None:
        """Pump until these sessions have said their last word (the phases after the upload)."""
        self._close_barrier()  # those it waited for may have been cancelled
        while any(not self.live[i].ended for i in ids if i in self.live):
            self.pump()

    def collect(
        self,
        jobs: list[Job],
        brief: Callable[[Job], Message],
        tick: Callable[[int], None] = lambda done: None,
    ) -> list[Session]:
        """Run independent jobs (questions, scores, baselines) side by side; in the order of `jobs`."""
        started = [job.epoch for job in jobs]
        for job in jobs:
            self.start(job, brief(job))
        while (ended := sum(self.aside[e].ended for e in started)) < len(jobs):
            tick(ended)
            self.pump()
        # by the session's own epoch: one that had to begin anew stands under two
        found = {s.job.epoch: s for s in (self.aside[e] for e in started)}
        self.aside = {e: s for e, s in self.aside.items() if s.job.epoch not in found}
        return list(found.values())
