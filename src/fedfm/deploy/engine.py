"""The engine whose sessions live with real parties. Scores of the common test rows are taken at the server.

A session that has said nothing yet is begun anew when its party comes back within `grace_s`; one that has is gone, as
what the party said may not be said twice. One whose next word does not come within `answer_s` is given up, and its party told.
One of a party that has not joined yet ends at once. How sessions end before their end is recorded (`course/arrivals.py`).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast, get_args

from fedfm.core.errors import MessageRefused
from fedfm.core.job import UPLOAD, Fault, Job, Said
from fedfm.core.loop import Run
from fedfm.core.message import Message, nothing
from fedfm.deploy.course.arrivals import Arrivals, End, Key
from fedfm.deploy.letters import Letter
from fedfm.deploy.reception import News, Reception
from fedfm.engines.inprocess import InProcessEngine

BEAT_S = 0.2  # how often a wait looks at the clock
PATIENCE_S = 60.0  # of silence, before it is told who is waited for
LONGEST, LONGEST_PHASE = 2000, 100  # characters of an error, and of a phase's name, from a party


@dataclass(frozen=True)
class RealParties:
    """The engine slot of a run whose parties are elsewhere; `fedfm serve` fills it, no config can."""

    reception: Reception
    arrivals: Arrivals
    grace_s: float = 15.0
    answer_s: float | None = None
    clock: Callable[[], float] = time.monotonic  # seconds
    tell: Callable[[str], None] = lambda text: None
    stop: Callable[[], bool] = lambda: False  # has somebody asked for the end?
    lead: Callable[[Run], None] = lambda run: None  # told of the run that it serves
    landed: Callable[[Key, int], None] | None = None  # told of a session whose work is there, and its epoch
    lost: Mapping[str, Collection[int]] = field(
        default_factory=dict
    )  # party -> versions of its state that are gone

    def make(self) -> RealEngine:
        return RealEngine(self)


@dataclass
class _Session:
    """One session at a party: its brief until it has spoken, and since when its party is not here."""

    job: Job
    brief: Message | None
    name: Key
    away_s: float | None = None
    why: str = ""
    asked_s: float | None = None  # since when its next word is awaited
    turn: int = (
        0  # words heard: counted here, as one that is numbered otherwise would be waited for without end
    )

    told: int = 0  # answers to them
    landed: bool = False  # its upload is there, or it has ended

    @property
    def waits(self) -> bool:
        """Has it spoken, and not been answered since?"""
        return self.told < self.turn


class RealEngine:
    """Starts sessions at parties that are here, waits for those that are away, and hears them all."""

    workers = 1

    def __init__(self, spec: RealParties):
        self._spec, self._reception, self._clock = spec, spec.reception, spec.clock
        self._arrivals = spec.arrivals
        self.ahead = 1
        self._heard_s = self._told_s = spec.clock()
        self._gone_s: dict[str, float] = {}  # since when a party is away: nobody is waited for a second time
        self._scores = InProcessEngine()
        self._at_home: dict[int, None] = {}
        self._sessions: dict[tuple[str, int], _Session] = {}
        self._heard: deque[Said] = deque()
        self._kept: dict[str, dict[str, Any]] = {}  # the last word on which states of a party can be named

    def open(self, site: Any) -> None:
        self._scores.open(site.home)
        self.ahead = len(site.home.parties)  # nobody waits for another

    def start(self, job: Job, brief: Message) -> None:
        if job.kind == "score":
            self._at_home[job.epoch] = None
            self._scores.start(job, brief)
            return
        session = self._sessions[job.id, job.epoch] = _Session(job, brief, self._arrivals.begin(job))
        if job.id not in self._arrivals.rows:
            self._given_up((job.id, job.epoch), "it has not joined yet")
        elif job.id in self._reception.present:
            self._begin(session)
        else:
            session.away_s, session.why = self._away(job.id), "it is not here"

    def _away(self, id: str) -> float:
        """Since when to wait for a party that is not here: most being here, nobody is waited for in every round anew."""
        most = 2 * len(self._reception.present) > len(self._arrivals.rows)
        return self._gone_s.setdefault(id, self._clock()) if most else self._clock()

    def send(self, id: str, epoch: int, message: Message) -> None:
        if (s := self._sessions.get((id, epoch))) is not None:
            s.asked_s, s.told = self._clock(), s.told + 1
            self._tell(id, {"do": "send", "id": id, "epoch": epoch}, message)

    def cancel(self, id: str, epoch: int) -> None:
        if epoch in self._at_home:
            del self._at_home[epoch]
            self._scores.cancel(id, epoch)
        elif self._sessions.pop((id, epoch), None) is not None:
            self._tell(id, {"do": "cancel", "id": id, "epoch": epoch})

    def keep(self, id: str, versions: set[int], upto: int) -> None:
        self._kept[id] = {"do": "keep", "id": id, "epoch": 0, "versions": sorted(versions), "upto": upto}
        self._tell(id, self._kept[id])

    @property
    def heard(self) -> bool:
        """Is there a word for the hub?"""
        return bool(self._heard or self._at_home)

    def next(self) -> Said:
        while True:
            if self._heard:
                return self._heard.popleft()
            if self._at_home:
                said = self._scores.next()
                if said.last:
                    self._at_home.pop(said.epoch, None)
                return said
            self.listen()

    def listen(self) -> None:
        """Wait for the next frame, not long; give up on whom nobody waits for any more. Raises KeyboardInterrupt at `stop`."""
        if self._spec.stop():
            raise KeyboardInterrupt
        frame = self._reception.transport.receive(BEAT_S)
        now = self._clock()
        if frame is not None and (news := self._reception.take(frame)) is not None:
            self._hear(news)
            self._heard_s = now
        for key, s in list(self._sessions.items()):
            if s.away_s is not None and (s.brief is None or now - s.away_s > self._spec.grace_s):
                self._given_up(key, s.why)
            elif self._late(s, now):
                self._given_up(key, f"it has not answered within {self._spec.answer_s:g} s")
                self._tell(key[0], {"do": "cancel", "id": key[0], "epoch": key[1]})
        if self._sessions and now - max(self._heard_s, self._told_s) > PATIENCE_S:
            self._told_s = now
            names = ", ".join(dict.fromkeys(id for id, _ in self._sessions))
            self._spec.tell(f"nothing has been heard for {now - self._heard_s:.0f} s; waiting for {names}")

    def _late(self, s: _Session, now: float) -> bool:
        return s.asked_s is not None and now - s.asked_s > (self._spec.answer_s or math.inf)

    def _given_up(self, key: tuple[str, int], why: str) -> None:
        s = self._sessions.pop(key)
        self._ended(s, End(s.turn, s.waits, f"{key[0]}: {why}"))

    def _ended(self, s: _Session, end: End) -> None:
        """Its end is heard once it is recorded."""
        self._arrivals.end(s.name, end)
        self._lands(s)
        self._heard.append(end.said(s.job.id, s.job.epoch))

    def close(self) -> None:
        self._scores.close()
        self._sessions.clear()

    # ---- plumbing ---------------------------------------------------------------------------------------------
    def _hear(self, news: News) -> None:
        mine = [s for (id, _), s in self._sessions.items() if id == news.peer]
        if news.kind == "lost":
            self._gone_s[news.peer] = self._clock()
            why = str(news.letter.head.get("why"))[:LONGEST_PHASE]
            waits = f"; its round waits {self._spec.grace_s:g} s for it" if mine else ""
            self._spec.tell(f"{news.peer} is gone ({why}){waits}")
            for s in mine:
                s.away_s, s.why = self._clock(), f"its link was lost: {news.letter.head.get('why')}"
                s.asked_s = None
        elif news.kind == "ready":
            if self._gone_s.pop(news.peer, None) is not None:
                self._spec.tell(f"{news.peer} is back")
            if news.peer in self._kept:
                self._tell(news.peer, self._kept[news.peer])
            for s in mine:
                if s.brief is not None:
                    s.away_s = None
                    self._begin(s)
        else:
            self._word(news)

    def _word(self, news: News) -> None:
        """One word of a session of this party; anything else that it sends is left unread."""
        head = news.letter.head
        if head["do"] != "said":
            return
        epoch = head.get("epoch")  # a word of no session is not just left unread: somebody waits for one
        if not isinstance(epoch, int) or isinstance(epoch, bool):
            self._reception.transport.drop(news.peer, "its word is of no session")
            return
        if (s := self._sessions.get((news.peer, epoch))) is None:
            return
        try:
            said = replace(_said(news.peer, head, news.letter.message), turn=s.turn)
        except MessageRefused as e:
            said = End(s.turn, False, str(e)).said(news.peer, s.job.epoch)
        s.brief = s.asked_s = None
        if said.last or said.phase == "gone":
            del self._sessions[news.peer, s.job.epoch]
        if said.phase == "gone":
            self._ended(s, End(s.turn, False, said.error, said.fault, said.where, said.events))
            return
        if said.phase == UPLOAD:
            self._lands(s)
        s.turn += 1
        self._heard.append(said)

    def _lands(self, s: _Session) -> None:
        """A party's work of a round is there, or will not be: the pace may want to know when."""
        if self._spec.landed is not None and s.job.kind == "train" and not s.landed:
            s.landed = True
            self._spec.landed(s.name, s.job.epoch)

    def lead(self, run: Run) -> None:
        """The run that this engine serves."""
        self._spec.lead(run)

    def _begin(self, s: _Session) -> None:
        job = s.job
        if job.base in self._spec.lost.get(job.id, ()):
            self._arrivals.blank(s.name)
            job = replace(job, base=0)
        head = {"do": "start", "job": asdict(job), "brief": s.job.epoch, "keep": [s.job.epoch]}
        s.asked_s = self._clock()
        self._tell(s.job.id, head, s.brief)

    def _tell(self, id: str, head: Mapping[str, Any], message: Message | None = None) -> None:
        if id in self._reception.present:
            self._reception.transport.send(id, Letter(dict(head), message))


def plain(said: Said) -> dict[str, Any]:
    """A word without its message, as a letter's head."""
    return {"do": "said"} | {k: v for k, v in vars(said).items() if k != "message"}


_TYPES = {"id": str, "epoch": int, "phase": str, "state_version": int, "last": bool, "events": list,
          "error": str, "fault": str, "where": str, "turn": int}  # fmt: skip


def _said(peer: str, head: Mapping[str, Any], message: Message | None) -> Said:
    """A stranger's word. Raises MessageRefused for what is none, or is said in another's name."""
    told = {k: head[k] for k in _TYPES if k in head}
    if wrong := [k for k, kind in _TYPES.items() if type(told.get(k)) is not kind]:
        raise MessageRefused(f"its word has no {', '.join(wrong)} as agreed")
    if not 0 < len(told["phase"]) <= LONGEST_PHASE:
        raise MessageRefused("its word is of no phase")
    if told["id"] != peer:
        raise MessageRefused("it speaks in another's name")
    events: Iterable[Any] = told["events"]
    if not all(isinstance(e, dict) and isinstance(e.get("kind"), str) for e in events):
        raise MessageRefused("its events are none")
    fault = told["fault"] if told["fault"] in get_args(Fault) else "party"
    if fault in ("method", "machine"):
        fault = "party"  # a real party ends no run, and no other party can do its work
    told |= {"events": tuple(events), "fault": cast(Fault, fault), "error": told["error"][:LONGEST]}
    return Said(**told, message=message if message is not None else nothing())
