"""Who is here: the server's side of the greeting. What both sides must have alike is compared, and a mismatch is told with both values."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from fedfm.deploy.letters import Letter
from fedfm.deploy.transport import Frame, Transport

PROTOCOL = 1
ALIKE = ("protocol", "fedfm", "torch", "base", "layout")  # what a party tells of these is what the server has


def versions() -> dict[str, Any]:
    """What of `ALIKE` is known before anything is opened: protocol, fedfm, torch."""
    return {
        "protocol": PROTOCOL,
        "fedfm": importlib.metadata.version("fedfm"),
        "torch": torch.__version__.split("+")[0],
    }


@dataclass(frozen=True)
class News:
    """What a frame means for the run: a party is ready, is lost, or has said something."""

    kind: Literal["ready", "lost", "letter"]
    peer: str
    letter: Letter = field(default_factory=lambda: Letter({"do": ""}))


class Reception:
    """Greets whoever links, and knows who is ready. `rows`: how many training rows each party has told."""

    def __init__(
        self,
        transport: Transport,
        welcome: Mapping[str, Any],
        facts: Mapping[str, Any],
        roster: Collection[str],
        rows: Mapping[str, int] | None = None,
    ):
        """`welcome` is what a party is told, `facts` what it must have alike; `rows`: what was told before this process."""
        self.transport, self.welcome, self.facts = transport, dict(welcome), dict(facts)
        self.roster, self.rows = frozenset(roster), dict(rows or {})
        self.present: dict[str, int] = {}  # party -> its link
        self.refused: dict[str, str] = {}
        self._greeted: dict[str, int] = {}
        self.about: Callable[[str], Mapping[str, Any]] = (
            lambda peer: {}
        )  # what this party is told beside the welcome
        self.admits: Callable[[str, Sequence[int]], str] = lambda peer, states: (
            ""
        )  # why its states do not fit

    def take(self, frame: Frame) -> News | None:
        """What a frame means; None where the greeting has dealt with it."""
        peer = frame.peer
        if frame.kind == "linked":
            self._greeted[peer] = frame.link
            lost = self.present.pop(peer, None)
            self.transport.send(peer, Letter({"do": "welcome", **self.welcome, **self.about(peer)}))
            return News("lost", peer, Letter({"do": "lost", "why": "it has dialled anew"})) if lost else None
        if frame.link != self._greeted.get(peer):
            return None  # of an earlier link
        if frame.kind == "lost":
            self._greeted.pop(peer)
            return News("lost", peer, frame.letter) if self.present.pop(peer, None) else None
        if peer in self.present:
            return News("letter", peer, frame.letter)
        if why := self._unlike(peer, frame.letter.head):
            self.refused[peer] = why
            self.transport.drop(peer, why)
            return None
        self.refused.pop(peer, None)
        self.rows.setdefault(peer, frame.letter.head["rows"])
        self.present[peer] = frame.link
        self.transport.send(peer, Letter({"do": "taken"}))
        return News("ready", peer)

    def _unlike(self, peer: str, told: Mapping[str, Any]) -> str:
        """Why a party cannot take part as it is; empty: it can."""
        if peer not in self.roster:
            return "it was not on the roster when this run began, and the run's plan counts those that were"
        if told.get("do") == "unfit":
            return str(told.get("why", ""))[:500] or "it cannot take part"
        if told.get("do") != "ready" or type(told.get("rows")) is not int or not 0 < told["rows"] < 1 << 53:
            return "its greeting is none"
        if self.rows.get(peer, told["rows"]) != told["rows"]:
            return f"it has {told['rows']} rows, and had {self.rows[peer]} when the run began"
        for what in ALIKE:
            if told.get(what) != self.facts[what]:
                return f"{what}: the server has {self.facts[what]}, the party {told.get(what)}"
        states = told.get("states", [])
        if not isinstance(states, list) or not all(type(v) is int for v in states):
            return "its greeting is none"
        return self.admits(peer, states)
