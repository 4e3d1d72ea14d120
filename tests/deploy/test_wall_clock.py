"""A pace by the wall's clock: deadlines and quorums close rounds at real moments, and the run is done again from their record."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

import fedfm
import golden
from federations import digits
from fedfm.core.errors import ConfigError
from fedfm.deploy.course.arrivals import read
from fedfm.deploy.course.replay import replay
from fedfm.deploy.server import Service, again, serve
from fedfm.deploy.transport import Frame
from fedfm.efficiency.communication.codec.error_feedback import ErrorFeedback
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.training.arrivals.fedbuff import FedBuff
from fedfm.incentives.selection.uniform import Uniform
from fedfm.ledger.file import read as events
from fedfm.pace import Buffered, Quorum
from fedfm.running.verdict import Result
from fedfm.trust.privacy.secure.secagg import SecAgg
from loopback import Fate, Killed, Loopback


class Timed(Loopback):
    """A party's word is on its way for a while: party-5's for twelve seconds, the others' for a second to four, drawn."""

    def __init__(self, folder: Path, fate: Fate | None = None):
        super().__init__(folder, fate)
        self.way, self._held = random.Random(3), list[tuple[float, Frame]]()

    def receive(self, timeout_s: float | None = None) -> Frame | None:
        self._held.sort(key=lambda one: one[0])
        if self._held and self._held[0][0] <= self.now_s:
            return self._held.pop(0)[1]
        frame = super().receive(timeout_s)
        if frame is None or frame.letter.head.get("do") != "said":
            return frame
        seconds = 12.0 if frame.peer == "party-5" else self.way.uniform(1.0, 4.0)
        self._held.append((self.now_s + seconds, frame))
        return None


def ran(carrier: Timed, **slots: Any) -> Result:
    return serve(digits(**slots), carrier.folder, service_of(carrier))


def service_of(carrier: Timed) -> Service:
    return Service(listen=carrier.listen, clock=carrier.clock, wait_s=100.0, grace_s=20.0)


def same(result: Result, folder: Path) -> None:
    """A run equals its replay in one process, to the last moment."""
    alone = replay(result.folder, folder)
    for what in ("status", "reasons", "model_digest", "ledger_digest", "metrics", "failures"):
        assert alone.summary[what] == result.summary[what], what
    columns = ["clients", "planned", "clock"]
    assert alone.history[columns].equals(result.history[columns])


def kinds(folder: Path, kind: str) -> list[tuple[int, str]]:
    return [(e["round"], e["client"]) for e in events(folder / "events.jsonl") if e["kind"] == kind]


def test_who_is_late_by_the_wall_is_late_and_the_round_closes_at_its_deadline(tmp_path: Path) -> None:
    carrier = Timed(tmp_path / "run")
    result = ran(carrier, pace=Quorum(0.5, deadline_s=10.0, wall=True))
    assert kinds(tmp_path / "run", "late") == [(k, "party-5") for k in range(3)]
    assert result.history["clients"].tolist()[-3:] == [5, 5, 5]
    assert 30.0 <= carrier.now_s < 33.0  # three deadlines
    assert kinds(tmp_path / "run", "failed") == [] and "party-5 never contributed" in result.reasons[0]
    same(result, tmp_path / "again")


def test_a_quorum_that_has_arrived_closes_the_round(tmp_path: Path) -> None:
    carrier = Timed(tmp_path / "run")
    result = ran(carrier, pace=Quorum(0.5, eager=True, wall=True))
    assert result.history["clients"].tolist()[-3:] == [3, 3, 3]
    assert result.history["clock"].tolist()[-1] < 12.0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "with a round open" in page and "of simulated time" not in page
    same(result, tmp_path / "again")


def test_nobody_by_the_deadline_fails_the_round_and_not_the_run(tmp_path: Path) -> None:
    carrier = Timed(tmp_path / "run")
    slots: dict[str, Any] = {"pace": Quorum(0.9, deadline_s=2.5, wall=True), "rounds": 4}
    with pytest.raises(fedfm.RunFailed) as e:  # type: ignore[attr-defined]
        ran(carrier, **slots)
    assert "6 are needed" in str(e.value)
    same(e.value.result, tmp_path / "again")


KEPT: dict[str, dict[str, Any]] = {
    "late work kept": {"pace": Quorum(0.5, eager=True, late="keep", wall=True), "aggregate": FedBuff()},
    "kept past a deadline": {
        "pace": Quorum(0.3, deadline_s=3.0, late="keep", wall=True),
        "aggregate": FedBuff(),
    },
    "buffered": {"pace": Buffered(2, 4, wall=True), "aggregate": FedBuff(), "select": Uniform(count=4)},
    "feedback": {"pace": Quorum(0.5, deadline_s=3.0, wall=True), "uplink": ErrorFeedback(TopK(0.1))},
    "split": golden.ALL["split, talk coded"] | {"pace": Quorum(0.3, deadline_s=16.0, wall=True)},
    "secure": {"uplink": SecAgg(), "pace": Quorum(0.5, deadline_s=100.0, wall=True)},
    "all at once": golden.ALL["all at once"] | {"pace": Quorum(0.5, deadline_s=3.5, wall=True)},
}


@pytest.mark.parametrize("name", KEPT)
def test_work_counts_in_the_round_in_which_it_arrives(name: str, tmp_path: Path) -> None:
    carrier = Timed(tmp_path / "run")
    result = ran(carrier, **KEPT[name] | {"rounds": 40 if name == "late work kept" else 4})
    assert result.status.startswith("finished") and read(tmp_path / "run").moments
    if name == "late work kept":  # twelve seconds are many rounds
        own = [e for e in events(tmp_path / "run" / "events.jsonl") if e.get("client") == "party-5"]
        assert any(e["kind"] == "upload" for e in own)
    same(result, tmp_path / "again")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("seed", range(3))
def test_faults_on_the_wall_are_done_again_too(name: str, seed: int, tmp_path: Path) -> None:
    carrier = Timed(tmp_path / "run", Fate(seed, cut=0.03, kill=0.02, most=6))
    try:
        result = ran(carrier, **KEPT[name] | {"rounds": 5})
    except fedfm.RunFailed as e:  # type: ignore[attr-defined]
        result = e.result
    same(result, tmp_path / "again")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ["late work kept", "buffered", "feedback"])
@pytest.mark.parametrize("dies_at", [9, 14, 17])
def test_a_server_that_was_killed_goes_on_with_its_clock(name: str, dies_at: int, tmp_path: Path) -> None:
    carrier = Timed(tmp_path / "run")
    carrier.dies_at = dies_at
    with pytest.raises(Killed):
        ran(carrier, **KEPT[name] | {"rounds": 6})
    carrier._held.clear()
    carrier.now_s += 1000.0  # how long it was down is nobody's delay
    result = again(tmp_path / "run", service_of(carrier))
    clock = result.history["clock"].tolist()
    assert clock == sorted(clock) and clock[-1] < 100.0
    same(result, tmp_path / "again")


def test_a_simulation_has_no_wall(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pace.wall: its seconds are the wall's(?s:.*)fedfm serve"):
        fedfm.run(digits(pace=Quorum(0.5, deadline_s=10.0, wall=True)), out=tmp_path / "run")


def test_a_deadline_needs_no_simulated_speed_where_it_is_the_walls() -> None:
    from fedfm.config.configure import configure

    slow = ["pace=quorum", "pace.deadline_s=10"]
    with pytest.raises(ConfigError, match="has no effect"):
        configure("quickstart", slow)
    configure("quickstart", [*slow, "pace.wall=true"])
