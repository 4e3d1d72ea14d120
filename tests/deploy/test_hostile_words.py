"""What a hostile party says costs that party; what a hostile server says ends the party, in words. Nothing is a traceback."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import golden
from federations import digits
from fedfm.core.errors import FedfmError, MachineFault
from fedfm.core.message import Message
from fedfm.deploy.letters import Letter
from fedfm.deploy.server import Service, serve
from fedfm.deploy.site.party import Party
from fedfm.deploy.transport import SERVER, Frame
from loopback import Loopback

ODD: list[Any] = [
    None,
    True,
    -1,
    1 << 70,
    1e300,
    "",
    "x" * 5000,
    [],
    {},
    [[]],
    {"a": [1]},
    "\x1b[31m",
    "party-0",
    "../x",
]


def bent(head: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """A head with something odd in it, at any depth."""
    made = copy.deepcopy(head)
    node: Any = made
    while True:
        key = draw.choice(list(node)) if isinstance(node, dict) and node else None
        if key is None:
            return made
        if isinstance(node[key], dict) and node[key] and draw.random() < 0.6:
            node = node[key]
            continue
        what = draw.choice(["change", "drop", "add"])
        if what == "change":
            node[key] = draw.choice(ODD)
        elif what == "drop":
            del node[key]
        else:
            node[str(draw.choice(ODD))[:20]] = draw.choice(ODD)
        return made


class Liar(Loopback):
    """party-1 says odd things, with a chance of one in two."""

    def __init__(self, folder: Path, seed: int):
        super().__init__(folder)
        self.draw, self.first = random.Random(seed), True

    def _wire(self, letter: Letter, way: str) -> Letter:
        found = super()._wire(letter, way)
        if way == "sent" or found.head.get("id", "party-1") != "party-1" or self.draw.random() < 0.5:
            return found
        if found.head["do"] == "ready":
            return found
        message = self.draw.choice(
            [found.message, None, Message(torch.full((3,), float("nan"))), Message(torch.ones(2, 2))]
        )
        return Letter(bent(found.head, self.draw), message)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["fedavg", "secure"])
def test_a_hostile_party_costs_itself(name: str, seed: int, tmp_path: Path) -> None:
    carrier = Liar(tmp_path / "run", seed)
    service = Service(listen=carrier.listen, clock=carrier.clock, wait_s=60.0)
    try:
        result = serve(digits(**golden.ALL[name]), tmp_path / "run", service)
    except FedfmError as e:
        assert name == "secure" and "every round failed" in str(e)  # under masks at most its round
        return
    assert result.status.startswith("finished")
    assert not any("party-0" in r or "party-2" in r for r in result.reasons) or name == "secure"


@pytest.mark.parametrize("epoch", [[], {}, "1", 1.5, True, None])
def test_a_word_of_no_session_ends_its_party_and_not_the_run(epoch: Any, tmp_path: Path) -> None:
    class Astray(Loopback):
        def _wire(self, letter: Letter, way: str) -> Letter:
            found = super()._wire(letter, way)
            if way == "sent" or found.head.get("id") != "party-1":
                return found
            return Letter(found.head | {"epoch": epoch}, found.message)

    carrier = Astray(tmp_path / "run")
    service = Service(listen=carrier.listen, clock=carrier.clock, wait_s=60.0)
    result = serve(digits(**golden.ALL["fedavg"]), tmp_path / "run", service)
    assert (
        result.status == "finished with findings" and "its word is of no session" in carrier.left["party-1"]
    )
    assert not any("party-0" in r or "party-2" in r for r in result.reasons)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "change",
    [{"turn": 99}, {"turn": -5}, {"turn": 1 << 70}, {"phase": ""}, {"phase": "x" * 5000}, {"phase": "gone"}],
)
@pytest.mark.parametrize("name", ["fedavg", "secure"])
def test_nobody_waits_for_a_word_that_was_called_otherwise(
    name: str, change: dict[str, Any], tmp_path: Path
) -> None:
    class Renamed(Loopback):
        def _wire(self, letter: Letter, way: str) -> Letter:
            found = super()._wire(letter, way)
            if way == "sent" or found.head.get("id") != "party-1":
                return found
            return Letter(found.head | change, found.message)

    carrier = Renamed(tmp_path / "run")
    service = Service(listen=carrier.listen, clock=carrier.clock, wait_s=60.0)
    try:
        result = serve(digits(**golden.ALL[name]), tmp_path / "run", service)
    except FedfmError as e:
        assert name == "secure" and "every round failed" in str(e)
        return
    assert result.status.startswith("finished")
    assert not any("party-0" in r or "party-2" in r for r in result.reasons) or name == "secure"


GREETING = {
    "do": "ready",
    "rows": 5,
    "protocol": 1,
    "fedfm": "x",
    "torch": "x",
    "base": {"a": "b"},
    "layout": "x",
}


@pytest.mark.parametrize("seed", range(4))
def test_a_greeting_that_is_none_is_refused(seed: int, tmp_path: Path) -> None:
    class Rude(Loopback):
        def _wire(self, letter: Letter, way: str) -> Letter:
            found = super()._wire(letter, way)
            if way == "received" and found.head["do"] == "ready" and found.head["rows"] % 2:
                return Letter(bent({**found.head, "rows": draw.choice(ODD)}, draw))
            return found

    draw = random.Random(seed)
    carrier = Rude(tmp_path / "run")
    service = Service(listen=carrier.listen, clock=carrier.clock, wait_s=10.0)
    try:
        assert serve(digits(**golden.ALL["fedavg"]), tmp_path / "run", service).status.startswith("finished")
    except MachineFault as e:
        assert "are not here" in str(e)


def test_a_hostile_server_ends_a_party_in_words(tmp_path: Path) -> None:
    """Whatever it says, before the greeting and after it."""
    told: list[dict[str, Any]] = []

    class Heard(Loopback):
        def _wire(self, letter: Letter, way: str) -> Letter:
            if way == "sent":
                told.append(copy.deepcopy(letter.head))
            return super()._wire(letter, way)

    carrier = Heard(tmp_path / "run")
    serve(
        digits(**golden.ALL["fedavg"]), tmp_path / "run", Service(listen=carrier.listen, clock=carrier.clock)
    )
    welcome = next(h for h in told if h["do"] == "welcome")
    rest = [h for h in told if h["do"] not in ("welcome", "refused")]
    for seed in range(30):
        draw = random.Random(seed)
        party = Party("party-1", tmp_path / "sites" / str(seed))
        try:
            hello = welcome if draw.random() < 0.7 else bent(welcome, draw)
            party.hear(Frame(SERVER, 1, "letter", Letter(hello)))
            for _ in range(3):
                letter = Letter(bent(draw.choice(rest), draw), draw.choice([None, Message(torch.ones(5))]))
                party.hear(Frame(SERVER, 1, "letter", letter))
                while party.busy:
                    party.work()
        except FedfmError:
            pass
