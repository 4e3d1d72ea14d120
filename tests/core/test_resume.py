"""Killed without warning inside a round, three times, and resumed: bit for bit the run that was never interrupted."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fedfm.core.books import checkpoints
from fedfm.core.combine import Pipe
from fedfm.core.errors import ResumeError
from fedfm.core.federation import Federation
from fedfm.core.loop import Run
from fedfm.core.memory import RunState
from fedfm.core.state import thaw
from fedfm.data.digits import Digits
from fedfm.data.partition.dirichlet import Dirichlet
from fedfm.efficiency.communication.codec.error_feedback import ErrorFeedback
from fedfm.efficiency.communication.codec.qsgd import QSGD
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.computation.split.splitfed import SplitFed, SplitFedServer
from fedfm.efficiency.training.arrivals.fedbuff import FedBuff
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.scaffold import Scaffold, ScaffoldServer
from fedfm.engines.processes import Processes
from fedfm.incentives.auction.proportional_share import ProportionalShare
from fedfm.incentives.selection.uniform import Uniform
from fedfm.laws.compare import same
from fedfm.laws.homes import play, quadratics
from fedfm.ledger import file as ledger
from fedfm.pace import AllArrive, Buffered, Speed
from fedfm.tasks.vision.image import ImageClassification
from fedfm.trust.privacy.secure.secagg import SecAgg

ROUNDS, KILLS = 8, 3
PAUSE_S = 0.01  # before each utterance: a round then takes long enough to be hit in the middle
SGD = Local(lr=0.1, steps=2, batch=8)


def digits(**slots: Any) -> Federation:
    base: dict[str, Any] = {
        "task": ImageClassification(channels=(4, 8)),
        "client": SGD,
        "rounds": ROUNDS,
        "data": Digits(train_rows=100, test_rows=20, partition=Dirichlet(alpha=0.5, parties=5, min_rows=5)),
    }
    return Federation(**base | slots)


FEDERATIONS = {
    "feedback": digits(uplink=Pipe(ErrorFeedback(TopK(0.1)), QSGD(7))),
    "scaffold on workers": digits(client=Scaffold(SGD), server=ScaffoldServer(), engine=Processes(2)),
    "secure with drop-outs": digits(
        uplink=SecAgg(threshold=0.62), pace=AllArrive(drop={"party-3": "upload"})
    ),
    "split": digits(client=SplitFed(SGD), server=SplitFedServer(lr=0.1)),
    "buffered": digits(
        aggregate=FedBuff(),
        pace=Buffered(2, 4, speed=Speed(1.0, 0.5, 0.2)),
        select=Uniform(count=4),
        uplink=ErrorFeedback(TopK(0.1)),
    ),
    "auction": digits(select=ProportionalShare(budget=20.0)),
}


def child(fed: Federation, folder: Path, resume: bool, last: int) -> None:
    """Run with pauses between the utterances, and wait for the end in round `last`; what is said stays the same."""

    def slowed(run: Run) -> None:
        said = run.engine.next

        def later() -> Any:
            time.sleep(PAUSE_S if run.state.round < last else 60.0)
            return said()

        run.engine.next = later  # type: ignore[method-assign]

    torch.set_num_threads(1)
    play(fed, folder, resume=resume, around=slowed)


def committed(folder: Path) -> int:
    """Rounds in the metrics file (the start is one line)."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") - 1 if path.exists() else -1


def killed(fed: Federation, folder: Path, resume: bool, after: int, wait_s: float) -> int:
    """Start in a process of its own; SIGKILL it `wait_s` after round `after` is committed; returns the rounds done."""
    process = multiprocessing.get_context("fork").Process(
        target=child, args=(fed, folder, resume, min(after + 2, ROUNDS - 1))
    )
    process.start()
    deadline = time.monotonic() + 60
    while process.is_alive() and committed(folder) < after and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(wait_s)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"it had ended by itself: {process.exitcode}"
    return committed(folder)


@pytest.mark.parametrize("name", FEDERATIONS)
def test_killed_three_times_it_ends_in_the_same_bits(name: str, tmp_path: Path) -> None:
    fed, dice = FEDERATIONS[name], random.Random(name)
    whole = play(fed, tmp_path / "whole")
    rounds = sorted(dice.sample(range(ROUNDS - 1), KILLS))
    for k, after in enumerate(rounds):
        done = killed(fed, tmp_path / "killed", k > 0, after, dice.uniform(0.2, 5.0) * PAUSE_S)
        assert after <= done < ROUNDS
    rest = play(fed, tmp_path / "killed", resume=True)
    assert torch.equal(rest.model, whole.model) and rest.digest == whole.digest
    assert len(rest.records) < ROUNDS + 1 and rest.run.state.attempt >= 1
    assert set(rest.run.state.accepted) == set(whole.run.state.accepted)  # versions tell attempts apart
    for what in ("server", "slots", "clock"):
        assert same(getattr(rest.run.state, what), getattr(whole.run.state, what)), what
    kept = [
        [
            {k: v for k, v in r.items() if k not in ("seconds", "cpu")}
            for r in ledger.read(tmp_path / f / "metrics.jsonl")
        ]
        for f in ("whole", "killed")
    ]
    assert kept[0] == kept[1] and [r["round"] for r in kept[0]] == list(range(ROUNDS + 1))


def test_a_run_that_was_never_committed_starts_anew(tmp_path: Path) -> None:
    fed = quadratics()
    (tmp_path / "events.jsonl").write_text('{"round":0,"kind":"half')
    assert play(fed, tmp_path, resume=True).digest == play(fed).digest


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    one = play(quadratics(), tmp_path)
    two = play(quadratics(), tmp_path, resume=True)
    assert two.records == [] and torch.equal(one.model, two.model) and one.digest == two.digest


def test_more_rounds_continue_a_finished_run(tmp_path: Path) -> None:
    play(quadratics(rounds=2), tmp_path)
    assert torch.equal(
        play(quadratics(rounds=5), tmp_path, resume=True).model, play(quadratics(rounds=5)).model
    )


def test_every_attempt_has_a_number_of_its_own(tmp_path: Path) -> None:
    """Whatever a party sent to an attempt that died must not look like an answer to the next one."""

    class Stop(Exception):
        pass

    def stop(run: Run) -> None:
        attempts.append(run.state.attempt)
        raise Stop

    attempts: list[int] = []
    play(quadratics(rounds=1), tmp_path)
    for _ in range(3):
        with pytest.raises(Stop):
            play(quadratics(rounds=3), tmp_path, resume=True, around=stop)
    assert attempts == [1, 2, 3]


def test_a_damaged_checkpoint_is_said(tmp_path: Path) -> None:
    play(quadratics(), tmp_path)
    newest = max((tmp_path / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.raises(ResumeError, match="the one before it is gone on from"):
        play(quadratics(), tmp_path, resume=True)
    newest.unlink()
    assert torch.equal(play(quadratics(), tmp_path, resume=True).model, play(quadratics()).model)


def test_checkpoints_keep_the_last_two_and_jobs_not_results(tmp_path: Path) -> None:
    played = play(FEDERATIONS["buffered"], tmp_path)
    assert checkpoints(played.run.folder) == [ROUNDS - 1, ROUNDS]
    path = tmp_path / "checkpoints" / f"round-{ROUNDS:06d}.safetensors"
    state = RunState.load(path)
    assert state.busy == played.run.state.busy and len(state.busy) == 2
    assert "upload" not in str(thaw(path)["busy"]) and set(state.briefs) == {
        f"{j.round}|{j.terms.key}" for j in state.busy.values()
    }
