"""Processes of a served run are killed at random, over real sockets: it ends, with the bits of a run that nobody killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import fedfm
from fedfm.deploy.course.arrivals import read
from fedfm.deploy.course.replay import replay
from fedfm.ledger.file import read as events
from fedfm.running.verdict import Result

pytest.importorskip("grpc")
KILLS = int(os.environ.get("FEDFM_KILLS", "10"))
PARTIES = ("party-0", "party-1")
DIGITS = (
    "task: {name: image-classification, channels: [4, 8]}\n"
    "data: {name: digits, train_rows: 120, test_rows: 40, partition: {name: iid, parties: 2}}\n"
    "client: {name: local, lr: 0.05, steps: 40, batch: 10}\n"
    "engine: {name: inprocess}\n"
)
FEDERATIONS = {
    "fedavg": "",
    "error feedback": "uplink: [{name: error-feedback, inner: {name: topk, fraction: 0.1}}]\n",
    "server momentum": "server: {name: fedadam, lr: 0.01}\n",
    "quantised both ways": "uplink: [{name: qsgd}]\ndownlink: [{name: qsgd}]\n",
}


class Cast:
    """The processes of one run: each is begun anew when it is killed."""

    def __init__(self, config: Path, folder: Path, *more: str):
        self.config, self.folder, self.more = config, folder, more
        self.env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        words = ["join", str(self.folder / "join" / f"{name}.json")]
        if name == "server":
            again = (self.folder / "run.json").exists()
            words = (
                ["resume", str(self.folder)]
                if again
                else ["serve", str(self.config), "--out", str(self.folder), "--grace-s", "120", *self.more]
            )
        log = (self.folder.parent / f"{name}.txt").open("ab")
        self.running[name] = subprocess.Popen(
            [sys.executable, "-m", "fedfm", *words], env=self.env, stdout=log, stderr=log
        )

    def kill(self, name: str) -> None:
        self.running[name].send_signal(signal.SIGKILL)
        self.running[name].wait()
        self.start(name)

    def sealed(self) -> int:
        path = self.folder / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def close(self) -> None:
        for process in self.running.values():
            process.kill()


def until(true: Any, seconds: float, why: str) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"{why}: not within {seconds:g} s")
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", FEDERATIONS)
def test_kills_at_random_change_nothing(name: str, tmp_path: Path) -> None:
    draw, rounds, kills = random.Random(name), 25 * KILLS, 0
    config = tmp_path / "fed.yaml"
    config.write_text(DIGITS + FEDERATIONS[name] + f"rounds: {rounds}\n")
    alone = fedfm.run(str(config), out=tmp_path / "alone").summary
    cast = Cast(config, tmp_path / "run")
    try:
        cast.start("server")
        until(lambda: all((cast.folder / "join" / f"{p}.json").exists() for p in PARTIES), 120, "invitations")
        for party in PARTIES:
            cast.start(party)
        until(cast.sealed, 120, "the first round")
        for _ in range(KILLS):
            if cast.sealed() > rounds - 5:
                break
            cast.kill(draw.choice(["server", *PARTIES]))
            at, kills = cast.sealed(), kills + 1
            until(lambda at=at: cast.sealed() > at, 180, "a round after a kill")
            time.sleep(draw.random())
        until(lambda: cast.running["server"].poll() is not None, 600, "the end")
        for party in PARTIES:
            cast.running[party].wait(60)
    finally:
        cast.close()
    found = Result.read(cast.folder).summary
    assert kills > KILLS // 2
    assert found["status"] == alone["status"] and found["model_digest"] == alone["model_digest"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_party_that_comes_late_takes_part_and_the_run_equals_its_replay(tmp_path: Path) -> None:
    config = tmp_path / "fed.yaml"
    config.write_text(DIGITS + "rounds: 300\n")
    cast = Cast(config, tmp_path / "run", "--quorum", "1")
    try:
        cast.start("server")
        until(lambda: all((cast.folder / "join" / f"{p}.json").exists() for p in PARTIES), 120, "invitations")
        cast.start("party-0")
        until(cast.sealed, 120, "the first round")
        cast.start("party-1")
        until(lambda: cast.running["server"].poll() is not None, 400, "the end")
    finally:
        cast.close()
    found = Result.read(cast.folder)
    came = max(k for k in read(cast.folder).joined if k >= 0)
    assert 0 < came < 300
    assert found.history["clients"].tolist()[1:] == [1] * came + [2] * (300 - came)
    alone = replay(cast.folder, tmp_path / "alone").summary
    for what in ("model_digest", "ledger_digest", "metrics", "reasons"):
        assert alone[what] == found.summary[what], what


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_party_that_stands_still_is_late_by_the_wall_and_the_run_equals_its_replay(tmp_path: Path) -> None:
    config = tmp_path / "fed.yaml"
    pace = "pace: {name: quorum, fraction: 0.5, deadline_s: 2, wall: true}\n"
    config.write_text(DIGITS + pace + "rounds: 60\n")
    cast = Cast(config, tmp_path / "run")
    try:
        cast.start("server")
        until(lambda: all((cast.folder / "join" / f"{p}.json").exists() for p in PARTIES), 120, "invitations")
        for party in PARTIES:
            cast.start(party)
        until(cast.sealed, 120, "the first round")
        cast.running["party-1"].send_signal(signal.SIGSTOP)
        at = cast.sealed()
        until(lambda: cast.sealed() > at + 5, 120, "rounds without it")
        cast.running["party-1"].send_signal(signal.SIGCONT)
        until(lambda: cast.running["server"].poll() is not None, 300, "the end")
    finally:
        cast.close()
    found = Result.read(cast.folder)
    lost = [e["round"] for e in events(cast.folder / "events.jsonl") if e["kind"] == "late"]
    assert 3 < len(lost) < 50 and found.history["clients"].tolist()[-1] == 2
    alone = replay(cast.folder, tmp_path / "alone")
    for what in ("model_digest", "ledger_digest", "metrics", "reasons"):
        assert alone.summary[what] == found.summary[what], what
    assert alone.history["clock"].equals(found.history["clock"])
