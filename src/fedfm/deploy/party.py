"""A party's process: it dials out, opens its own rows and the model once, and does the work that its links ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfm.checks.place import settled
from fedfm.config.plain import from_config
from fedfm.core.errors import ConfigError, DataError, FedfmError, words_of
from fedfm.core.federation import Federation
from fedfm.core.schema import Schema
from fedfm.core.session import Guard
from fedfm.core.state import Store
from fedfm.data.splits import opened
from fedfm.deploy.engine import plain
from fedfm.deploy.letters import Letter
from fedfm.deploy.server import facts
from fedfm.deploy.transport import SERVER, Transport
from fedfm.deploy.views import Own
from fedfm.engines.desk import Desk
from fedfm.running.process import borrowed
from fedfm.tasks.probing import open_task, probe


@dataclass
class Party:
    """One party: its name, its folder (states of its own), its rows as a data spec (None: a rehearsal's)."""

    name: str
    folder: Path
    data: Any = None
    tell: Callable[[str], None] = lambda text: None

    def join(self, transport: Transport) -> str:
        """Take part until the run ends; how it ended. Raises FedfmError when the server will not have it."""
        transport.open()
        self._desk: Desk | None = None
        self._run, self._away = "", ""
        try:
            while True:
                busy = self._desk is not None and bool(self._desk.todo)
                frame = transport.receive(0.0 if busy else 1.0)
                if frame is None:
                    if busy:
                        self._work(transport)
                    continue
                head = frame.letter.head
                if frame.kind == "linked":
                    self._away = ""
                elif frame.kind == "lost":
                    self._lost(head)
                elif (ended := self._told(transport, frame.letter)) is not None:
                    return ended
        finally:
            transport.close()

    def _lost(self, head: Mapping[str, Any]) -> None:
        if head["do"] == "refused":
            raise FedfmError(f"the server will not have {self.name}: {head['why']}")
        if self._desk is not None:  # what was under way is begun anew, or given up
            self._desk.todo.clear()
            for talk in self._desk.talks.values():
                talk.close()
            self._desk.talks.clear()
        if head["why"] != self._away:
            self._away = str(head["why"])
            self.tell(f"no link to the server ({self._away}); it is dialled again")

    def _told(self, transport: Transport, letter: Letter) -> str | None:
        """Do what a letter of the server says; how the run ended, where it says so."""
        head = letter.head
        if head["do"] == "welcome":
            transport.send(SERVER, Letter(self._greet(head)))
        elif head["do"] == "taken":
            self.tell(f"{self.name} takes part")
        elif head["do"] == "refused":
            raise FedfmError(f"the server will not have {self.name}: {head.get('why')}")
        elif head["do"] == "ended":
            return str(head.get("status"))
        elif self._desk is not None and head["do"] in ("start", "send", "cancel", "keep"):
            self._desk.told(head, letter.message)
        return None

    def _work(self, transport: Transport) -> None:
        assert self._desk is not None
        if (said := self._desk.step()) is not None:
            transport.send(SERVER, Letter(plain(said), said.message))

    def _greet(self, head: Mapping[str, Any]) -> dict[str, Any]:
        """Open everything, the first time; what the server is told. What is wrong here is told here, in full."""
        if self._run == head["run"]:
            return self._ready
        try:
            fed = from_config(head["config"])
            self._desk, rows, found = self._opened(fed, head)
        except (ConfigError, DataError) as e:
            self.tell(f"{self.name} cannot take part: {words_of(e)}")
            return {"do": "unfit", "why": f"its data or settings do not fit ({type(e).__name__})"}
        self._run, self._ready = head["run"], {"do": "ready", "rows": rows, **found}
        return self._ready

    def _opened(self, fed: Federation, head: Mapping[str, Any]) -> tuple[Desk, int, dict[str, Any]]:
        told = head["schema"]
        schema = Schema(
            None if told["labels"] is None else tuple(told["labels"]),
            tuple(told["columns"]),
            {k: tuple(v) for k, v in told["shapes"].items()},
        )
        if self.data is None and not head["rehearsal"]:
            raise DataError("this party has no rows\n    fix: --data PATH")
        object.__setattr__(fed, "simulated", bool(head["rehearsal"]))
        parties = opened(fed.data if self.data is None else self.data, fed.seed, fed.task)
        own = Own(parties, self.name, schema, whole=self.data is not None)
        bound = open_task(fed.task, own, settled(fed))
        if problems := probe(fed.task, bound, own):
            raise ConfigError(problems)
        guard = Guard(fed, bound, own, Store(self.folder / "states" / str(head["run"])))
        rows = len(own.train(self.name))
        guard.data(self.name)  # encoded before it says that it is ready
        return Desk(guard), rows, facts(head["config"], bound)


def join(
    transport: Transport,
    name: str,
    folder: Path,
    data: Any = None,
    threads: int = 1,
    tell: Callable[[str], None] = lambda text: None,
) -> str:
    """Take part in a federation as `name` until it ends; how it ended."""
    with borrowed(threads):
        return Party(name, folder, data, tell).join(transport)
