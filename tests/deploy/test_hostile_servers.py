"""A server that lies to a party gets no more than an honest one: no seeded noise, no second answer, no model past the uplink."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import golden
from federations import digits
from fedfm.config.record import to_config
from fedfm.core.errors import FedfmError
from fedfm.core.federation import Federation
from fedfm.core.job import Job
from fedfm.core.message import Message
from fedfm.deploy.letters import Letter
from fedfm.deploy.server import Service, serve
from fedfm.deploy.site.journal import Journal
from fedfm.deploy.site.party import Party
from fedfm.deploy.site.policy import Epsilon, Needs, Policy
from fedfm.deploy.transport import SERVER, Frame
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian
from loopback import Loopback

QUIET = LocalGaussian(clip_norm=1.0, noise_multiplier=6.0)
NOISY = digits(**golden.ALL["local noise"] | {"uplink": QUIET})


def overheard(fed: Federation, folder: Path) -> tuple[dict[str, Any], Message]:
    """What an honest server says first to party-1: the welcome, and the brief of its first round."""
    told: list[Letter] = []

    class Heard(Loopback):
        def send(self, peer: str, letter: Letter) -> None:
            if peer == "party-1":
                told.append(letter)
            super().send(peer, letter)

    carrier = Heard(folder / "honest")
    serve(fed, folder / "honest", Service(listen=carrier.listen, clock=carrier.clock))
    brief = next(t.message for t in told if t.head["do"] == "start")
    assert brief is not None
    return next(t.head for t in told if t.head["do"] == "welcome"), brief


class Lied:
    """One party, and what it says to a server that says what it likes."""

    def __init__(self, folder: Path, **more: Any):
        self.party = Party("party-1", folder, **more)

    def hear(self, head: dict[str, Any], message: Message | None = None) -> dict[str, Any] | None:
        """Its answer at once."""
        found = self.party.hear(Frame(SERVER, 1, "letter", Letter(head, message)))
        return None if found is None else found.head

    def start(self, brief: Message, kind: str = "train", round: int = 0, epoch: int = 1, **more: Any) -> Any:
        """Its first word in a session."""
        job = asdict(Job(kind, "party-1", epoch, round=round, **more))
        refused = self.hear({"do": "start", "job": job, "brief": epoch, "keep": [epoch]}, brief)
        return refused or self.work()

    def work(self) -> dict[str, Any]:
        letter = self.party.work()
        assert letter is not None
        return letter.head


def test_a_server_makes_no_real_run_a_rehearsal_and_none_of_a_rehearsal(tmp_path: Path) -> None:
    """Noise of a rehearsal is of a seed that the server knows, and its rows are wherever the config says."""
    welcome, _ = overheard(digits(**golden.ALL["fedavg"]), tmp_path)
    assert welcome["rehearsal"] is True
    for more in ({"data": object()}, {"rehearsal": False, "data": object()}):
        with pytest.raises(FedfmError, match="this is rehearsal|is rehearsal|invitation is of a real run"):
            Lied(tmp_path / "a", **more).hear(welcome)
    found = Lied(tmp_path / "b", rehearsal=False).hear(welcome)
    assert found is not None and found["do"] == "unfit"  # no rows of its own, and none of the server's choice
    with pytest.raises(FedfmError, match="is no rehearsal"):
        Lied(tmp_path / "c").hear(welcome | {"rehearsal": False})
    ready = Lied(tmp_path / "d").hear(welcome)
    assert ready is not None and ready["do"] == "ready"


def test_a_real_party_attacks_nobody_whoever_asks(tmp_path: Path) -> None:
    welcome, _ = overheard(digits(**golden.ALL["fedavg"]), tmp_path)
    attacked = to_config(digits(**golden.ALL["krum under attack"]))
    party = Lied(tmp_path / "a", rehearsal=False, data=digits().data)
    found = party.hear(welcome | {"config": attacked, "rehearsal": False})
    assert found is not None and found["do"] == "unfit"


@pytest.mark.parametrize("again", [1, 2])
def test_a_round_is_answered_once_whatever_its_session_is_called(again: int, tmp_path: Path) -> None:
    """Also in the same session after a cut, and after the party has started anew."""
    welcome, brief = overheard(digits(**golden.ALL["secure"]), tmp_path)
    party = Lied(tmp_path / "a")
    party.hear(welcome)
    first = party.start(brief, epoch=1)
    assert first["phase"] not in ("gone", "done")
    party.party.hear(Frame(SERVER, 1, "lost", Letter({"do": "lost", "why": "so says the server"})))
    for one in (party, Lied(tmp_path / "a")):
        one.hear(welcome)
        found = one.start(brief, epoch=again)
        assert found["phase"] == "gone" and "answered already" in found["error"]
    assert party.start(brief, round=1, epoch=3)["phase"] == first["phase"]


def test_two_sessions_of_a_round_that_begin_together_do_not_both_speak(tmp_path: Path) -> None:
    welcome, brief = overheard(digits(**golden.ALL["secure"]), tmp_path)
    party = Lied(tmp_path / "a")
    party.hear(welcome)
    for epoch in (1, 2):
        job = asdict(Job("train", "party-1", epoch))
        assert party.hear({"do": "start", "job": job, "brief": epoch, "keep": [1, 2]}, brief) is None
    assert party.work()["phase"] != "gone"
    second = party.work()
    assert second["phase"] == "gone" and "answered already" in second["error"]
    with pytest.raises(FedfmError, match="begun again"):
        for _ in range(2):
            party.start(brief, round=1, epoch=5)


def test_a_journal_tells_a_session_that_goes_on_from_one_that_begins(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.json")
    job = Job("train", "a", 4, round=2)
    assert not journal.bars(job) and not journal.bars(job, begun=True)
    journal.speaks(job)
    assert journal.bars(job) and not journal.bars(job, begun=True)
    assert journal.bars(Job("train", "a", 5, round=2), begun=True)
    assert not Journal(tmp_path / "journal.json").bars(Job("own", "a", 6, round=2))


@pytest.mark.parametrize("round", [3, 1 << 40, -1])
def test_no_round_is_worked_on_that_is_none_of_the_plan(round: int, tmp_path: Path) -> None:
    """What the plan spends was booked for its rounds, and for no more."""
    welcome, brief = overheard(digits(**golden.ALL["fedavg"]), tmp_path)
    party = Lied(tmp_path / "a")
    party.hear(welcome)
    assert party.start(brief, round=2)["phase"] == "upload"
    found = party.start(brief, round=round, epoch=2)
    assert found["phase"] == "gone" and "none of the plan" in found["error"]


@pytest.mark.parametrize("kind", ["alone", "own", "visit", "ask"])
def test_where_a_policy_has_needs_only_training_meets_them(kind: str, tmp_path: Path) -> None:
    """A model that a party trains alone would leave past clipping, masks and noise."""
    welcome, brief = overheard(NOISY, tmp_path)
    for policy in (Policy(needs=Needs(clip_norm=100.0)), Policy(epsilon=Epsilon(run=1e6))):
        party = Lied(tmp_path / kind / str(policy.epsilon.run), policy=policy)
        assert party.hear(welcome)["do"] == "ready"  # type: ignore[index]
        found = party.start(brief, kind=kind, case="select" if kind == "ask" else "")
        assert found["phase"] == "gone" and "among its jobs" in found["error"]
        assert party.start(brief, epoch=2)["phase"] == "upload"


def test_a_model_is_an_update_of_a_kind_too(tmp_path: Path) -> None:
    welcome, brief = overheard(digits(**golden.ALL["fedavg"]), tmp_path)
    party = Lied(tmp_path / "a", policy=Policy(kinds=("delta",)))
    party.hear(welcome)
    found = party.start(brief, kind="alone")
    assert found["phase"] == "gone" and "lets no 'weights' leave" in found["error"]


def test_a_run_is_of_one_config_and_what_was_booked_for_it_stays(tmp_path: Path) -> None:
    welcome, _ = overheard(NOISY, tmp_path)
    folder, policy = tmp_path / "a", Policy(epsilon=Epsilon(life=1e6))
    Lied(folder, policy=policy).hear(welcome)
    booked = (folder / "life.json").read_text()
    Lied(folder, policy=policy).hear(welcome)
    cheaper = to_config(replace(NOISY, rounds=1))
    with pytest.raises(FedfmError, match="with the config .* began with"):
        Lied(folder, policy=policy).hear(welcome | {"config": cheaper})
    assert (folder / "life.json").read_text() == booked
