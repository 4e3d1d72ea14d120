"""A party's process: it dials out, opens its own rows and the model once, and does the work that its links ask for."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fedfm.checks.fitted import discreet
from fedfm.checks.place import settled
from fedfm.config.building import from_config
from fedfm.config.record import digest
from fedfm.core.combine import Pipe
from fedfm.core.errors import ClientFailed, ConfigError, DataError, FedfmError, ModelError, Problem, words_of
from fedfm.core.federation import Federation
from fedfm.core.job import UPLOAD, Job, Said
from fedfm.core.message import Message
from fedfm.core.protocols import Client
from fedfm.core.schema import Schema
from fedfm.core.session import Guard
from fedfm.core.spending import guards, planned
from fedfm.core.state import Store
from fedfm.data.splits import opened
from fedfm.deploy.engine import plain
from fedfm.deploy.letters import Letter
from fedfm.deploy.server import facts, unfit
from fedfm.deploy.site.journal import Journal, answered, bind, durable, once
from fedfm.deploy.site.memory import held
from fedfm.deploy.site.memory import opened as reopened
from fedfm.deploy.site.policy import Policy, epsilon, reserve
from fedfm.deploy.site.receipts import FILE, Receipts, mend
from fedfm.deploy.transport import SERVER, Frame, Transport
from fedfm.deploy.views import Own
from fedfm.engines.desk import Desk
from fedfm.running.process import borrowed
from fedfm.tasks.probing import open_task, probe

EARLY = 16  # frames that are heard in the midst of work, and dealt with afterwards


class PolicyRefuses(FedfmError):
    """A federation that the site's policy takes no part in."""


class Withdrawn(FedfmError):
    """The work under way has been given up by the server, or its link is gone."""


class SiteGuard(Guard):
    """The doors of a real party: its policy stands at them. `norms`: of updates before they are encoded, by epoch."""

    def __init__(self, fed: Federation, bound: Any, parties: Any, store: Store, policy: Policy):
        super().__init__(fed, bound, parties, store)
        self.policy, self.norms, self._epoch = policy, dict[int, float](), 0

    def enter(self, job: Job, brief: Message) -> None:
        self._admit(job)
        self._epoch = job.epoch

    def _admit(self, job: Job) -> None:
        """Raises ClientFailed for what this federation, or the site's policy, asks of nobody."""
        self.policy.enter(job)
        if job.kind == "train" and not self.fed.since <= job.round < self.fed.last:
            raise ClientFailed(f"round {job.round} is none of the plan, which ends after {self.fed.last}")
        if job.kind == "alone" and not self.fed.simulated and guards(self.fed):
            raise ClientFailed("a model that it trains alone would leave outside the uplink's protection")

    def run(self, job: Job, brief: Message) -> Generator[Said, Message, None]:
        if job.kind != "train":  # whose session enters by itself
            return self._watched(job, brief)
        return super().run(job, brief)

    def _watched(self, job: Job, brief: Message) -> Generator[Said, Message, None]:
        try:
            self._admit(job)
        except ClientFailed as e:
            yield Said(job.id, job.epoch, "gone", last=True, error=str(e), fault="party", turn=0)
            return
        yield from super().run(job, brief)

    def exit(self, client: Client, m: Message) -> None:
        super().exit(client, m)
        self.norms[self._epoch] = float(torch.linalg.vector_norm(m.x.float()))


WRONG = re.compile("handshake|certificate|ssl", re.I)  # a link that dialling again does not mend, as a rule


class Party:
    """One party, whatever carries its letters: it is told frames and answers with letters, one word of work at a time.

    `folder` keeps states of its own; `data` is its rows as a data spec (None: a rehearsal's own part of the config's);
    `model`: this site's copy of the task's model (None: where the config says).
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        data: Any = None,
        tell: Callable[[str], None] = lambda text: None,
        policy: Policy | None = None,
        rehearsal: bool | None = None,
        model: str | None = None,
    ):
        """`rehearsal`: is the invitation one (None: where there are no `data`)? A server cannot make a run one by saying so."""
        self.name, self.folder, self.data, self.tell, self.model = name, folder, data, tell, model
        self.rehearsal = data is None if rehearsal is None else rehearsal
        with durable(folder):
            mend(folder / FILE)
            self.policy, self.receipts = policy or Policy(), Receipts(folder)
        self.ended = ""  # how the run ended
        self._desk: Desk | None = None
        self._run, self._away = "", ""
        self._ready: dict[str, Any] = {}
        self._journal: Journal | None = None  # where a round may be answered once only
        self._jobs: dict[tuple[str, int], Job] = {}  # under way, by party and epoch
        self._epsilon: float | None = None  # of the run's plan
        self._at: tuple[str, int] | None = None  # the session that is at work
        self._moot = False  # it was given up meanwhile
        self.between: Callable[[], None] = lambda: None  # two steps of local work

    @property
    def busy(self) -> bool:
        """Is there work to do?"""
        return self._desk is not None and bool(self._desk.todo)

    def work(self) -> Letter | None:
        """The next word of whichever session is due."""
        assert self._desk is not None
        self._at, self._moot = self._desk.todo[0][0], False
        said = self._desk.step()
        key, self._at = self._at, None
        if said is None:
            return None
        if self._moot:  # nobody waits for it: it is not said, and the round is not spoken in
            self._desk.talks.pop(key, None)
            self._jobs.pop(key, None)
            return None
        key = said.id, said.epoch
        job = self._jobs.pop(key) if said.last else self._jobs[key]
        if why := self.policy.leaves(said) or self._spoken(job):
            self._desk.told({"do": "cancel", "id": said.id, "epoch": said.epoch}, None)
            self._jobs.pop(key, None)
            return self._gone(job, why)
        with durable(self.folder):
            if self._journal is not None:
                self._journal.speaks(job)
            if said.message.nbytes and said.phase != "gone":
                norm = self._desk.site.norms.pop(key[1], None) if said.phase == UPLOAD else None
                self.receipts.add(self._run, job, said, norm, self._epsilon)
        return Letter(plain(replace(said, error=self.policy.worded(said.error))), said.message)

    def foresee(self, frame: Frame) -> None:
        """Raise Withdrawn, in the midst of work, where a frame that is heard afterwards makes it idle."""
        head = frame.letter.head
        mine = head.get("do") == "cancel" and (head.get("id"), head.get("epoch")) == self._at
        if mine or frame.kind == "lost" or head.get("do") in ("ended", "refused"):
            self._moot = True
            raise Withdrawn("the server has given it up, or its link was lost")

    def _spoken(self, job: Job) -> str:
        """Why its next word may not leave: another session of its round has spoken since it began."""
        return "" if self._journal is None else self._journal.bars(job, begun=True)

    def _gone(self, job: Job, why: str) -> Letter:
        """The word that ends a session which this side will not have."""
        self.tell(f"refused: {why}")
        return Letter(plain(Said(job.id, job.epoch, "gone", last=True, error=why, fault="party")))

    def hear(self, frame: Frame) -> Letter | None:
        """Take in what came from the server; the answer, if it wants one. Raises FedfmError when it will not have us, or
        says what cannot be."""
        try:
            return self._heard(frame)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as e:
            raise FedfmError(f"the server says what cannot be: {type(e).__name__}: {str(e)[:200]}") from e

    def _heard(self, frame: Frame) -> Letter | None:
        head = frame.letter.head
        if frame.kind == "linked":
            self._away = ""
            return None
        if head["do"] == "refused":
            raise FedfmError(f"the server will not have {self.name}: {head.get('why')}")
        if frame.kind == "lost":
            self._lost(str(head.get("why")))
        elif head["do"] == "welcome":
            return Letter(self._greet(head))
        elif head["do"] == "taken":
            self.tell(f"{self.name} takes part")
        elif head["do"] == "ended":
            self.ended = str(head.get("status"))
        elif self._desk is not None and head["do"] in ("start", "send", "cancel", "keep"):
            return self._asked(self._desk, head, frame.letter.message)
        return None

    def _asked(self, desk: Desk, head: dict[str, Any], message: Message | None) -> Letter | None:
        """Take a job, or the next part of one; a round that has been answered is refused."""
        if head["do"] == "start":
            job = Job.of(head["job"])
            if (job.id, job.epoch) in self._jobs:
                raise ValueError(f"session {job.epoch} is under way, and is begun again")
            if self._journal is not None and (why := self._journal.bars(job)):
                return self._gone(job, why)
            self._jobs[job.id, job.epoch] = job
        elif head["do"] == "cancel":
            self._jobs.pop((head["id"], head["epoch"]), None)
        desk.told(head, message)
        return None

    def _lost(self, why: str) -> None:
        """What was under way is begun anew by the server, or given up."""
        if self._desk is not None:
            self._desk.todo.clear()
            for talk in self._desk.talks.values():
                talk.close()
            self._desk.talks.clear()
            self._jobs.clear()
        if why != self._away:
            self._away = why
            ask = "; `fedfm doctor JOINFILE` says what it is" if WRONG.search(why) else ""
            self.tell(f"no link to the server ({why}); it is dialled again{ask}")

    def _greet(self, head: Mapping[str, Any]) -> dict[str, Any]:
        """Open everything, the first time; what the server is told. What is wrong here is told here, in full."""
        if not re.fullmatch(r"[0-9a-f]{16}", str(head.get("run"))):  # it names a folder
            raise FedfmError(
                f"the server names its run {str(head.get('run'))[:60]!r}, which is no name of a run"
            )
        if self._run == head.get("run"):
            return self._ready | self._kept(head)
        try:
            here = self._here(head["config"])
            self._desk, rows, found = self._opened(from_config(here), head, here)
        except PolicyRefuses as e:  # the site's own words, for the server too
            self.tell(f"{self.name} takes no part: {e}")
            return {"do": "unfit", "why": str(e)}
        except (ConfigError, DataError, ModelError) as e:
            copy = "\n    or: --model PATH, this site's own copy of it" * isinstance(e, ModelError)
            self.tell(f"{self.name} cannot take part: {words_of(e)}{copy}")
            return {"do": "unfit", "why": f"its data or settings do not fit ({type(e).__name__})"}
        self._run, self._ready = head["run"], {"do": "ready", "rows": rows, **found}
        return self._ready | self._kept(head)

    def _kept(self, head: Mapping[str, Any]) -> dict[str, Any]:
        """The versions of its state that it has; the server, which names one, decides what follows where that is gone."""
        assert self._desk is not None
        named = int(head.get("state", 0))
        found = held(self._desk.site.store, self.name)
        if named and named not in found:
            where = self.folder / "states" / self._run
            self.tell(f"the server names the state {named} of {self.name}, and {where} has {found or 'none'}")
        return {"states": found}

    def _here(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The config with the model where this site has it; what it holds is compared all the same."""
        if self.model is None:
            return dict(config)
        if not isinstance(task := config.get("task"), Mapping) or not isinstance(task.get("model"), str):
            raise ConfigError(
                [
                    Problem(
                        "--model",
                        "the federation's task names no model",
                        "there is none to take another copy of",
                        "leave it out",
                    )
                ]
            )
        return {**config, "task": {**task, "model": self.model}}

    def _opened(
        self, fed: Federation, head: Mapping[str, Any], here: Mapping[str, Any]
    ) -> tuple[Desk, int, dict[str, Any]]:
        told = head["schema"]
        schema = Schema(
            None if told["labels"] is None else tuple(told["labels"]),
            tuple(told["columns"]),
            {k: tuple(v) for k, v in told["shapes"].items()},
        )
        if self.data is None and not self.rehearsal:
            raise DataError("this party has no rows\n    fix: --data PATH")
        if head["rehearsal"] is not self.rehearsal:
            raise FedfmError(
                f"the server says that this {'is' if head['rehearsal'] else 'is no'} rehearsal, and the invitation is "
                f"{'one' if self.rehearsal else 'of a real run'}\n    why: noise of a rehearsal is drawn from a seed that the "
                "server knows\n    fix: the invitation of this run"
            )
        if problems := unfit(fed, rehearsal=self.rehearsal):
            raise ConfigError(problems)
        count = int(head["parties"])
        fed = planned(fed, count)  # with the noise of the whole plan, as the server has it
        object.__setattr__(fed, "simulated", self.rehearsal)
        parties = opened(self._source(fed), fed.seed, fed.task)
        own = Own(parties, self.name, schema, whole=self.data is not None)
        bound = open_task(fed.task, own, settled(fed))
        if problems := discreet(fed, probe(fed.task, bound, own)):
            raise ConfigError(problems)
        _watched(bound, lambda: self.between())
        folder = self.folder / "states" / str(head["run"])
        self._journal = Journal(folder / "journal.json") if once(fed) else None
        rows = len(own.train(self.name))
        if wrong := self.policy.refuses(fed, head["config"], count, rows):
            raise PolicyRefuses("its policy refuses: " + "; ".join(wrong))
        asked = digest(head["config"])
        masked = Pipe(fed.uplink).hidden is not None
        if masked and (before := answered(folder.parent, folder.name, asked)):
            raise PolicyRefuses(
                f"this config was answered in run {before} already, under secure aggregation: two sums of one update with "
                "other cohorts would show it (another seed, or the server goes on with that run: fedfm resume DIR)"
            )
        with durable(self.folder):
            if self._journal is not None and (
                lost := reopened(self._journal, folder.name, head, self.receipts.lines())
            ):
                self.tell(lost)
            bind(folder / "config", folder.name, asked)
            self._book(str(head["run"]), epsilon(fed, count))
        guard = SiteGuard(fed, bound, own, Store(folder), self.policy)
        guard.data(self.name)  # encoded before it says that it is ready
        return Desk(guard), rows, facts(here, bound)

    def _book(self, run: str, cost: float | None) -> None:
        """What the plan spends is known from here on, and taken from the site's life."""
        self._epsilon = cost
        if (life := self.policy.epsilon.life) is not None and cost is not None:
            reserve(self.folder / "life.json", run, cost, life)

    def _source(self, fed: Federation) -> Any:
        """Its rows; all of them are to train on, unless the federation scores models on a party's own test rows."""
        if self.data is None:
            return fed.data
        scored = fed.evaluate.where == "parties" or getattr(fed.evaluate, "personal", False)
        if scored or not hasattr(self.data, "test_fraction"):
            return self.data
        return replace(self.data, test_fraction=0.0)


def _watched(bound: Any, between: Callable[[], None]) -> None:
    """Look up at every step of local work: each takes a gradient."""
    gradient = bound.gradient

    def looking_up(*args: Any, **more: Any) -> Any:
        between()
        return gradient(*args, **more)

    bound.gradient = looking_up
    if hasattr(bound, "between"):  # a trainer takes its steps itself
        bound.between = between


def join(transport: Transport, party: Party, threads: int = 1) -> str:
    """Take part in a federation until it ends; how it ended. Raises FedfmError when the server will not have us."""
    early = deque[Frame]()  # heard in the midst of work

    def between() -> None:
        while len(early) < EARLY and (frame := transport.receive(0.0)) is not None:
            early.append(frame)
            party.foresee(frame)

    party.between = between
    transport.open()
    try:
        with borrowed(threads):
            while not party.ended:
                frame = early.popleft() if early else transport.receive(0.0 if party.busy else 1.0)
                letter = party.hear(frame) if frame is not None else party.work() if party.busy else None
                if letter is not None:
                    transport.send(SERVER, letter)
        return party.ended
    finally:
        transport.close()
