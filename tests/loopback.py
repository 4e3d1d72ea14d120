"""Real server and party code in one process and one thread, over a carrier of queues: deterministic, faults and all.

Every letter goes through shards and a reader, as on a wire. A `Fate` decides from a seed what happens between two steps:
a link is cut, a party's process dies and starts anew, and how long nothing happens.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedfm.core.errors import FedfmError
from fedfm.core.federation import Federation
from fedfm.deploy.authority import Authority
from fedfm.deploy.letters import Letter, Reader, shards
from fedfm.deploy.server import Service, serve
from fedfm.deploy.site.party import Party
from fedfm.deploy.site.policy import Policy
from fedfm.deploy.transport import SERVER, Frame
from fedfm.running.verdict import Result


@dataclass
class Fate:
    """What goes wrong: chances a step. `most`: faults in all, so that every run ends."""

    seed: int = 0
    cut: float = 0.0  # a link is lost, and what was on its way with it
    kill: float = 0.0  # a party's process dies; its folder stays
    most: int = 0
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def strikes(self, name: str) -> str:
        """What happens to a party now, if anything does."""
        draw = self.random.random()
        what = "kill" if draw < self.kill else "cut" if draw < self.kill + self.cut else ""
        if not what or len(self.told) >= self.most:
            return ""
        self.told.append(f"{what} {name}")
        return what


class Killed(BaseException):
    """The server's process ends here."""


class Loopback:
    """A transport whose other ends are parties in this thread: they work when the server waits."""

    def __init__(
        self,
        folder: Path,
        fate: Fate | None = None,
        only: tuple[str, ...] | None = None,
        policies: Mapping[str, Policy] | None = None,
        sources: Mapping[str, Any] | None = None,
    ):
        """`only`: of a rehearsal, who comes. `sources`: of a real run, who is invited, with rows of its own."""
        self.folder, self.fate, self.only, self.policies = folder, fate or Fate(), only, policies or {}
        self.sources, self.homes = sources, folder / "sites"
        self.models: dict[str, str] = {}  # copies of the model that parties have
        self.address, self.now_s = "loopback:1", 0.0
        self._frames: deque[Frame] = deque()
        self._parties: dict[str, Party] = {}
        self._inboxes: dict[str, deque[Frame]] = {}
        self._readers: dict[str, Reader] = {}
        self._links, self._number = dict[str, int](), 0
        self._totals = {"sent": 0, "received": 0}
        self.left: dict[str, str] = {}  # parties that have ended, and why
        self._away: dict[str, float] = {}  # until when a party has no link
        self.dies_at, self.heard = -1, 0  # letters of parties, after which the server is killed
        self.said: list[tuple[str, dict[str, Any]]] = []  # heads of all letters of parties

    def listen(self, address: str, ca: Authority, most: int) -> Loopback:
        """As `Service.listen`: parties are those that join files are written for."""
        self._most = most
        return self

    @property
    def totals(self) -> Mapping[str, int]:
        return self._totals

    def open(self) -> None:
        """A server that starts anew knows of no link."""
        for name, number in self._links.items():
            self._parties[name].hear(Frame(SERVER, number, "lost", Letter({"do": "lost", "why": "killed"})))
        self._links.clear()
        self._frames.clear()

    def clock(self) -> float:
        return self.now_s

    def send(self, peer: str, letter: Letter) -> None:
        if peer in self._links:
            self._inboxes[peer].append(Frame(SERVER, self._links[peer], "letter", self._wire(letter, "sent")))

    def receive(self, timeout_s: float | None = None) -> Frame | None:
        """Let parties work until there is a frame; where nobody has work, time passes."""
        for _ in range(10_000):
            if self._frames:
                self.heard += self._frames[0].kind == "letter"
                if self.heard == self.dies_at:
                    self.dies_at = -1
                    raise Killed
                return self._frames.popleft()
            if not self._step():
                self.now_s += timeout_s or 1.0
                return self._frames.popleft() if self._frames else None
        raise AssertionError("parties work without end and say nothing")

    def drop(self, peer: str, why: str) -> None:
        self.send(peer, Letter({"do": "refused", "why": why}))

    def close(self) -> None:
        while self._links and self._step():
            pass

    # ---- what the parties do ----------------------------------------------------------------------------------
    def _step(self) -> bool:
        """One step of one party, drawn from the fate; was there any?"""
        for name in self._names():
            if name not in self._links and self._away.get(name, 0.0) <= self.now_s:
                self._link(name)
        able = [n for n, p in self._parties.items() if n in self._links and (self._inboxes[n] or p.busy)]
        if not able:
            return False
        name = self.fate.random.choice(able)
        if what := self.fate.strikes(name):
            self._strike(name, what)
            return True
        party, inbox = self._parties[name], self._inboxes[name]
        try:
            letter = party.hear(inbox.popleft()) if inbox else party.work()
        except FedfmError as e:  # its process ends
            self.left[name] = str(e)
            self._strike(name, "kill")
            self._away[name] = float("inf")
            return True
        if letter is not None:
            said = self._wire(letter, "received")
            self.said.append((name, said.head))
            self._frames.append(Frame(name, self._links[name], "letter", said))
        return True

    def _names(self) -> list[str]:
        if self.sources is not None:
            return list(self.sources)
        found = sorted(p.stem for p in (self.folder / "join").glob("*.json"))
        return found if self.only is None else [n for n in found if n in self.only]

    def _link(self, name: str) -> None:
        self._number += 1
        self._links[name] = self._number
        if name not in self._parties:
            home, policy = self.homes / name, self.policies.get(name)
            self._parties[name] = Party(
                name, home, (self.sources or {}).get(name), policy=policy, model=self.models.get(name)
            )
        self._inboxes[name] = deque([Frame(SERVER, self._number, "linked")])
        self._frames.append(Frame(name, self._number, "linked"))

    def _strike(self, name: str, what: str) -> None:
        why = Letter({"do": "lost", "why": what})
        number = self._links.pop(name)
        self._frames = deque(f for f in self._frames if f.peer != name or f.kind != "letter")
        self._frames.append(Frame(name, number, "lost", why))
        if what == "kill":
            del self._parties[name]
        else:
            self._parties[name].hear(Frame(SERVER, number, "lost", why))
        self._away[name] = self.now_s + self.fate.random.choice([0.0, 1.0, 100.0])

    def _wire(self, letter: Letter, way: str) -> Letter:
        reader, found = Reader(self._most, size=1 << 12), None
        for shard in shards(letter, size=1 << 12):
            assert found is None
            found = reader.feed(shard)
            self._totals[way] += len(shard)
        assert found is not None
        return found


def played(fed: Federation | Any, folder: Path, fate: Fate | None = None, **more: Any) -> Result:
    """Serve a federation to its own parties in this thread."""
    carrier = Loopback(folder, fate)
    service = Service(listen=carrier.listen, clock=carrier.clock, wait_s=1000.0, **more)
    return serve(fed, folder, service)
