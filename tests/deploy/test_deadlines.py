"""Wall-clock deadlines of real parties, and the end that somebody asks for: in the midst of work, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import fedfm
from federations import digits
from fedfm.core.errors import ResumeError
from fedfm.core.message import Message
from fedfm.deploy import server
from fedfm.deploy.letters import Letter
from fedfm.deploy.server import Service, again, serve
from fedfm.deploy.site.party import Party, Withdrawn
from fedfm.deploy.transport import SERVER, Frame
from fedfm.ledger.file import read
from fedfm.running.verdict import Result
from loopback import Loopback


class Stuck(Loopback):
    """A party that never gets to work on its second round: its process is busy, and its link stands."""

    def send(self, peer: str, letter: Letter) -> None:
        if letter.head["do"] == "start" and peer == "party-1" and letter.head["job"]["round"] == 1:
            return
        super().send(peer, letter)


def ran(carrier: Loopback, folder: Path, **more: Any) -> Result:
    fed = digits(rounds=3)
    return serve(fed, folder, Service(listen=carrier.listen, clock=carrier.clock, wait_s=100.0, **more))


def test_a_party_that_does_not_answer_is_out_of_that_round_alone(tmp_path: Path) -> None:
    carrier, told = Stuck(tmp_path / "run"), list[str]()
    result = ran(carrier, tmp_path / "run", answer_s=90.0, tell=told.append)
    lost = [e for e in read(tmp_path / "run" / "events.jsonl") if e["kind"] == "failed"]
    assert [(e["client"], e["round"]) for e in lost] == [("party-1", 1)]
    assert "has not answered within 90 s" in lost[0]["error"]
    assert result.history["clients"].tolist()[-3:] == [6, 5, 6]
    assert any("nothing has been heard for" in t and "waiting for party-1" in t for t in told)


def test_who_works_in_time_is_heard(tmp_path: Path) -> None:
    alone = fedfm.run(digits(rounds=3), out=tmp_path / "alone").summary
    found = ran(Loopback(tmp_path / "run"), tmp_path / "run", answer_s=90.0).summary
    assert found["model_digest"] == alone["model_digest"]


class Asked(Loopback):
    """Somebody cancels the run when the first upload of round 1 has been said."""

    def receive(self, timeout_s: float | None = None) -> Frame | None:
        frame = super().receive(timeout_s)
        if frame is not None and frame.letter.head.get("do") == "said" and len(self.said) == 16:
            server.cancel(self.folder)
        return frame


def test_a_run_that_is_cancelled_tells_its_parties_and_goes_on_where_it_was(tmp_path: Path) -> None:
    folder, carrier = tmp_path / "run", Asked(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt) as e:
        ran(carrier, folder)
    assert any("cancelled" in note for note in e.value.__notes__)
    assert {p.ended for p in carrier._parties.values()} == {"cancelled"}
    assert Result.read(folder).status == "interrupted"
    with pytest.raises(ResumeError, match="not under way"):
        server.cancel(folder)
    fresh = Loopback(folder)
    result = again(folder, Service(listen=fresh.listen, clock=fresh.clock, wait_s=100.0))
    alone = fedfm.run(digits(rounds=3), out=tmp_path / "alone").summary
    assert result.status == "finished" and result.summary["model_digest"] == alone["model_digest"]


def test_a_simulation_is_not_cancelled_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fedfm.run(digits(rounds=1), out=tmp_path / "run")
    monkeypatch.setattr(server, "holder", lambda folder: "process 1 on here")
    with pytest.raises(ResumeError, match=r"no parties elsewhere(?s:.*)Ctrl-C"):
        server.cancel(tmp_path / "run")


class Slow(Loopback):
    """Parties look up between two steps, and what they then hear is that their first round is given up."""

    def _link(self, name: str) -> None:
        super()._link(name)
        party = self._parties[name]

        def between(party: Party = party) -> None:
            at = party._at
            if at is not None and at[1] not in self.given_up and len(self.given_up) < 1:
                self.given_up.append(at[1])
                head = {"do": "cancel", "id": at[0], "epoch": at[1]}
                party.foresee(Frame(SERVER, 1, "letter", Letter(head)))

        party.between = between

    given_up: list[int]


def test_work_that_is_given_up_stops_at_the_next_step_and_is_not_said(tmp_path: Path) -> None:
    carrier = Slow(tmp_path / "run")
    carrier.given_up = []
    result = ran(carrier, tmp_path / "run", answer_s=50.0)
    epochs = [head["epoch"] for _, head in carrier.said if head["do"] == "said"]
    assert len(carrier.given_up) == 1 and carrier.given_up[0] not in epochs
    assert result.status.startswith("finished") and result.history["clients"].tolist()[-2:] == [6, 6]


@pytest.mark.parametrize(
    ("kind", "head", "moot"),
    [
        ("letter", {"do": "cancel", "id": "a", "epoch": 7}, True),
        ("letter", {"do": "cancel", "id": "a", "epoch": 8}, False),
        ("letter", {"do": "keep", "id": "a", "epoch": 0, "versions": [], "upto": 1}, False),
        ("letter", {"do": "ended", "status": "finished"}, True),
        ("lost", {"do": "lost", "why": "cut"}, True),
    ],
)
def test_what_makes_work_idle(kind: Any, head: dict[str, Any], moot: bool, tmp_path: Path) -> None:
    party = Party("a", tmp_path)
    party._at = ("a", 7)
    frame = Frame(SERVER, 1, kind, Letter(head, Message(torch.zeros(1))))
    if moot:
        with pytest.raises(Withdrawn):
            party.foresee(frame)
    else:
        party.foresee(frame)


class Leaving(Loopback):
    """A party that is gone for good after its first round."""

    def _step(self) -> bool:
        done = [h for n, h in self.said if n == "party-2" and h["do"] == "said"]
        if done and "party-2" in self._links:
            self._strike("party-2", "kill")
            self._away["party-2"] = float("inf")
            return True
        return super()._step()


def test_a_party_that_has_left_is_waited_for_once(tmp_path: Path) -> None:
    carrier, told = Leaving(tmp_path / "run"), list[str]()
    result = ran(carrier, tmp_path / "run", grace_s=50.0, tell=told.append)
    assert result.history["clients"].tolist()[-2:] == [5, 5]
    assert carrier.now_s < 60 and sum("party-2 is gone" in t for t in told) == 1
