"""A run that begins with a quorum takes who comes later, from the next round on, and says what it may not promise then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import golden
from federations import EQUAL, FIXED, digits
from fedfm.core.errors import ConfigError, MachineFault, ResumeError
from fedfm.deploy.course.arrivals import FILE, read
from fedfm.deploy.course.presence import short
from fedfm.deploy.course.replay import replay
from fedfm.deploy.server import Service, again, serve
from fedfm.efficiency.training.local import Local
from fedfm.evaluation.by_party import ByParty
from fedfm.incentives.selection.uniform import Uniform
from fedfm.ledger.file import read as events
from fedfm.pace import Quorum
from fedfm.running.verdict import Result
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian
from loopback import Killed, Loopback

EPOCHS = {"client": Local(lr=0.1, epochs=1.0, batch=8), "rounds": 4}


class Coming(Loopback):
    """Parties that dial for the first time when so many letters of the others have been heard. `at`: by party."""

    def __init__(self, folder: Path, at: dict[str, float], **more: Any):
        super().__init__(folder, **more)
        self.at = at
        self.fate.random.choice = lambda able: max(able, key=at.keys().__contains__)  # type: ignore[method-assign]

    def _names(self) -> list[str]:
        return [n for n in super()._names() if n in self._parties or self.at.get(n, 0) <= self.heard]


def ran(folder: Path, at: dict[str, float], quorum: int, **slots: Any) -> tuple[Result, list[str]]:
    carrier, told = Coming(folder, at), list[str]()
    service = Service(
        listen=carrier.listen, clock=carrier.clock, wait_s=50.0, quorum=quorum, tell=told.append
    )
    return serve(digits(**slots), folder, service), told


def same(result: Result, folder: Path) -> None:
    """A run equals its replay in one process."""
    alone = replay(result.folder, folder)
    for what in ("status", "reasons", "model_digest", "ledger_digest", "metrics"):
        assert alone.summary[what] == result.summary[what], what
    for i, told in result.summary["parties"].items():
        assert alone.summary["parties"][i]["rows"] == told["rows"]


def planned(folder: Path) -> list[tuple[int, str, str]]:
    """Who was missing in which round, and why."""
    return [
        (e["round"], e["client"], e["error"])
        for e in events(folder / "events.jsonl")
        if e["kind"] == "failed"
    ]


def test_who_comes_later_takes_part_from_the_next_round(tmp_path: Path) -> None:
    # four letters are greetings; one that comes in the midst of round 0 is not in it
    result, told = ran(tmp_path / "run", {"party-4": 6, "party-5": 12}, 4, **EPOCHS)
    why = "it has not joined yet"
    assert planned(tmp_path / "run") == [
        (0, "party-4", f"party-4: {why}"),
        (0, "party-5", f"party-5: {why}"),
        (1, "party-5", f"party-5: {why}"),
    ]
    assert result.history["clients"].tolist()[-4:] == [4, 5, 6, 6]
    assert result.status == "finished" and all(p["rows"] > 0 for p in result.summary["parties"].values())
    assert any("begins without party-4, party-5" in t for t in told)
    assert "party-4 takes part from round 2" in told and "party-5 takes part from round 3" in told
    same(result, tmp_path / "again")


def test_who_never_comes_is_a_finding_and_its_rows_are_nobody_s_guess(tmp_path: Path) -> None:
    result, _ = ran(tmp_path / "run", {"party-5": float("inf")}, 5, **EPOCHS)
    assert result.status == "finished with findings"
    assert "party-5 never contributed (0 of 101 rows): party-5: it has not joined yet" in result.reasons[0]
    assert result.summary["parties"]["party-5"]["rows"] == 0
    same(result, tmp_path / "again")


def test_without_a_quorum_everybody_is_waited_for(tmp_path: Path) -> None:
    carrier = Coming(tmp_path / "run", {"party-5": float("inf")})
    service = Service(listen=carrier.listen, clock=carrier.clock, wait_s=50.0)
    with pytest.raises(MachineFault, match="not here: party-5"):
        serve(digits(), tmp_path / "run", service)
    assert not (tmp_path / "run").exists()


def test_fewer_than_the_quorum_begin_nothing(tmp_path: Path) -> None:
    with pytest.raises(MachineFault, match="not here: party-4, party-5"):
        ran(tmp_path / "run", {"party-4": float("inf"), "party-5": float("inf")}, 5)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ["feedback, quantised", "split, talk coded", "buffered", "fedavg by some"])
@pytest.mark.parametrize("dies_at", [-1, 8, 11])
def test_a_run_with_late_parties_equals_its_replay(name: str, dies_at: int, tmp_path: Path) -> None:
    """Also when its server was killed, and a party first came after that."""
    folder = tmp_path / "run"
    carrier = Coming(folder, {"party-4": 6, "party-5": 12})
    service = Service(listen=carrier.listen, clock=carrier.clock, wait_s=50.0, quorum=4)
    carrier.dies_at = dies_at
    try:
        result = serve(digits(**golden.ALL[name]), folder, service)
    except Killed:
        result = again(folder, service)
    assert "party-4" in read(folder).rows()
    same(result, tmp_path / "again")


def test_what_a_dead_attempt_heard_after_its_last_round_is_forgotten(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    carrier = Coming(folder, {"party-5": 9})  # it comes in round 0, which the server does not survive
    service = Service(listen=carrier.listen, clock=carrier.clock, wait_s=50.0, quorum=5)
    carrier.dies_at = 10
    with pytest.raises(Killed):
        serve(digits(rounds=2), folder, service)
    assert ("train", "party-5", 0, 0) in read(folder).ends
    result = again(folder, service)
    assert read(folder).rows().keys() == set(result.summary["parties"])
    if not read(folder).ends:  # it was here when the server came back
        assert result.history["clients"].tolist()[-2:] == [6, 6]
    same(result, tmp_path / "again")


def test_another_number_of_rows_is_refused_after_a_restart_too(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    carrier = Coming(folder, {})
    service = Service(listen=carrier.listen, clock=carrier.clock, wait_s=50.0)
    carrier.dies_at = 14
    with pytest.raises(Killed):
        serve(digits(), folder, service)
    path = folder / FILE
    path.write_text(path.read_text().replace('"id":"party-2","rows":', '"id":"party-2","rows":1'))
    with pytest.raises(MachineFault, match=r"party-2: it has \d+ rows, and had 1\d+ when the run began"):
        again(folder, service)


def test_a_party_that_was_invited_later_is_of_another_run(tmp_path: Path) -> None:
    """The plan, its noise and its draws count those that were on the roster when it began."""
    folder, told = tmp_path / "run", list[str]()

    class Stranger(Loopback):
        def _names(self) -> list[str]:
            return [*super()._names(), "party-9"] if self.heard > 8 else super()._names()

    carrier = Stranger(folder)
    serve(digits(), folder, Service(listen=carrier.listen, clock=carrier.clock, tell=told.append))
    assert "not on the roster when this run began" in carrier.left["party-9"]


def where(quorum: int, **slots: Any) -> list[str]:
    return [p.where for p in short(digits(**slots), 6, quorum)]


@pytest.mark.parametrize(
    ("slots", "found"),
    [
        (golden.ALL["secure"], ["uplink.0"]),
        (golden.ALL["auction"], ["select"]),
        (golden.ALL["contract menu"], ["select"]),
        (golden.ALL["power of choice"], ["select"]),
        ({"uplink": ClipNoise(0.5, 0.3), "aggregate": EQUAL}, ["aggregate.denominator"]),
        ({"uplink": ClipNoise(0.5, 0.3), "aggregate": FIXED}, []),  # who is missing changes no scale
        ({"uplink": LocalGaussian(0.5, 0.3), "aggregate": EQUAL}, []),  # each party's own noise
        ({"evaluate": ByParty(), "data": golden.ALL["scored by party"]["data"]}, []),
        ({"pace": Quorum(0.8)}, ["pace"]),
        ({"pace": Quorum(0.5)}, []),
        (golden.ALL["krum under attack"], ["aggregate"]),
        (
            {"select": Uniform(count=1)},
            ["aggregate", "pace"],
        ),  # of six, four are here: most rounds have nobody
    ],
)
def test_what_rests_on_the_whole_roster_is_refused(slots: dict[str, Any], found: list[str]) -> None:
    assert where(4 if found != ["aggregate"] else 3, **slots) == found
    assert where(6, **slots) == []  # everybody is here


def test_a_quorum_is_a_number_of_the_roster(tmp_path: Path) -> None:
    assert where(0) == where(7) == ["--quorum"]
    with pytest.raises(ConfigError, match="secagg would sum those that are here"):
        ran(tmp_path / "run", {}, 4, **golden.ALL["secure"])
    assert not (tmp_path / "run").exists()


def test_a_damaged_record_of_arrivals_is_no_record(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"do":"sealed","round":0}\n{"nonsense":1}\n')
    with pytest.raises(ResumeError, match="line 2, is damaged"):
        read(tmp_path)
    (tmp_path / FILE).write_text('{"do":"joined","id":"a","rows":3}\n{"do":"jo')
    assert read(tmp_path).rows() == {"a": 3}  # the half of a line that a killed process left
