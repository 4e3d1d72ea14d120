"""How a run stands is read from its folder alone: before it began, on the way, gone without a word, and ended."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import fedfm
from fedfm.cli import app
from fedfm.core.errors import ResumeError
from fedfm.core.federation import Federation
from fedfm.data.digits import Digits
from fedfm.deploy.authority import Authority
from fedfm.efficiency.training.local import Local
from fedfm.running.commands.status import status
from fedfm.running.record.folder import OWNER, RECORD
from fedfm.tasks.vision.image import ImageClassification
from loopback import Fate, Killed, Loopback, played


def small(**slots: Any) -> Federation:
    data = Digits(train_rows=60, test_rows=30, partition=fedfm.Iid(parties=2))  # type: ignore[attr-defined]
    return Federation(ImageClassification(), data, **{"client": Local(lr=0.1, steps=1), "rounds": 2} | slots)


def owned_by(folder: Path, pid: int) -> None:
    (folder / OWNER).write_text(json.dumps([pid, socket.gethostname()]))


def dead() -> int:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        child.wait()
    return child.pid


def test_a_served_run_that_has_ended(tmp_path: Path) -> None:
    result = played(small(), tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    found = status(tmp_path / "run")
    assert (found.state, found.round, found.of, found.lost) == (result.status, 2, 2, 0)
    assert found.parties == {"party-0": "uploaded", "party-1": "uploaded"}
    assert found.served and found.invited == ("party-0", "party-1") and found.address == "loopback:1"
    assert found.began and found.sealed and found.began <= found.sealed and not found.process
    assert found.scores["accuracy"] == pytest.approx(result.metric["federated"])
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before
    said = CliRunner().invoke(app, ["status", str(tmp_path / "run")])
    assert said.exit_code == 0 and "2 of 2 sealed" in said.output and "party-0, last round" in said.output
    assert (
        json.loads(CliRunner().invoke(app, ["status", str(tmp_path / "run"), "--json"]).output)["round"] == 2
    )


def test_a_served_run_whose_server_was_killed(tmp_path: Path) -> None:
    from fedfm.deploy.server import Service, serve

    carrier = Loopback(tmp_path / "run", Fate())
    carrier.dies_at = 5  # letters of parties: two greetings, two uploads, and one of the second round
    service = Service(listen=carrier.listen, clock=carrier.clock)
    with pytest.raises(Killed):
        serve(small(), tmp_path / "run", service)
    found = status(tmp_path / "run")
    assert (found.state, found.round, found.of) == ("interrupted", 1, 2) and "fedfm resume" in found.reasons[
        -1
    ]
    owned_by(tmp_path / "run", os.getpid())
    found = status(tmp_path / "run")
    assert found.state == "under way" and not found.reasons and str(os.getpid()) in found.process
    owned_by(tmp_path / "run", dead())
    assert status(tmp_path / "run").state == "interrupted"


def test_a_run_that_waits_for_its_parties(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    owned_by(tmp_path / "run", os.getpid())
    ca = Authority.create(tmp_path / "run" / "authority", "rehearsal")
    ca.invite("a", "localhost:1")
    found = status(tmp_path / "run")
    assert found.state == "not begun" and found.invited == ("a",) and found.round == 0 and found.of is None
    assert "waited for" in found.reasons[0]
    assert "0 of ? sealed" in CliRunner().invoke(app, ["status", str(tmp_path / "run")]).output


def test_a_simulated_run_with_a_party_that_is_gone(tmp_path: Path) -> None:
    fed = small(pace=fedfm.Quorum(fraction=0.5, dropout=1.0))  # type: ignore[attr-defined]
    with pytest.raises(fedfm.RunFailed):  # type: ignore[attr-defined]
        fedfm.run(fed, out=tmp_path / "run", baselines="none")
    found = status(tmp_path / "run")
    assert found.state == "failed" and found.lost == 2 and not found.served and found.reasons
    assert set(found.parties) == {"party-0", "party-1"} and "dropped out" in found.parties["party-0"]


def test_what_was_not_finished_is_not_called_finished(tmp_path: Path) -> None:
    """An extension that was killed: the summary is that of the shorter run."""
    played(small(), tmp_path / "run")
    record = json.loads((tmp_path / "run" / RECORD).read_text())
    (tmp_path / "run" / RECORD).write_text(json.dumps(record | {"complete": False}))
    assert status(tmp_path / "run").state == "interrupted"


def test_a_folder_that_is_none_of_a_run(tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match="no run directory"):
        status(tmp_path)
    with pytest.raises(ResumeError, match="no run directory"):
        status(tmp_path / "nothing")
