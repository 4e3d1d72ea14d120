"""Whatever happens on the way, a run goes on without whom it lost, ends in the right model, and replays from its seed."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedfm.core.combine import Pipe
from fedfm.core.errors import MachineFault
from fedfm.core.federation import Federation
from fedfm.efficiency.communication.codec.error_feedback import ErrorFeedback
from fedfm.efficiency.communication.codec.qsgd import QSGD
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.computation.split.splitfed import SplitFed, SplitFedServer
from fedfm.efficiency.training.arrivals.fedbuff import FedBuff
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.scaffold import Scaffold, ScaffoldServer
from fedfm.engines.inprocess import InProcess
from fedfm.incentives.contribution.shapley_exact import ShapleyExact
from fedfm.incentives.reward.budget_split import BudgetSplit
from fedfm.incentives.selection.power_of_choice import PowerOfChoice
from fedfm.incentives.selection.uniform import Uniform
from fedfm.laws.compare import same
from fedfm.laws.homes import Played, play
from fedfm.pace import Buffered, Quorum, Speed
from fedfm.trust.privacy.secure.secagg import SecAgg
from soak.faults import RATES, Absent, Faulty, Killed, Record, bad_disk
from soak.trial import IMAGES, POINTS

FEW, MANY = 40, 10_000
SGD = Local(lr=0.05, steps=3, batch=2)
SPEED = Speed(1.0, 0.5, 0.2)
FEDERATIONS: dict[str, Federation] = {
    "plain": POINTS,
    "scaffold, feedback": replace(
        POINTS,
        client=Scaffold(SGD),
        server=ScaffoldServer(),
        uplink=Pipe(ErrorFeedback(TopK(0.2)), QSGD(7)),
        downlink=ErrorFeedback(QSGD(15)),
    ),
    "secure": replace(POINTS, uplink=SecAgg(threshold=0.62)),
    "split": replace(IMAGES, client=SplitFed(SGD), server=SplitFedServer(lr=0.05)),
    "asked": replace(POINTS, select=PowerOfChoice(count=2, asked=4)),
    "paid": replace(POINTS, value=ShapleyExact(), reward=BudgetSplit()),
    "deadline": replace(POINTS, pace=Quorum(0.4, deadline_s=1.0, speed=SPEED)),
    "buffered": replace(
        POINTS, aggregate=FedBuff(), pace=Buffered(2, 4, speed=SPEED), select=Uniform(count=4)
    ),
}


def lived(fed: Federation, folder: Path, dice: random.Random, disk: int | None = None) -> Played:
    """Run to the end on a faulty engine, through so many deaths of the server and failures of the disk as come."""
    for attempt in range(200):
        engine = replace(fed.engine, die=dice.choice((0, 5, 12, 30)) if attempt < 4 else 0)
        try:
            with bad_disk(disk or 0, 0.0 if disk is None or attempt > 8 else 0.02):
                return play(replace(fed, engine=engine), folder, resume=attempt > 0)
        except (Killed, MachineFault):
            continue
    raise AssertionError("it never came to its end")


def alike(one: Played, two: Played) -> list[str]:
    """How what two runs ended in differs, whatever their ledgers tell of the way there."""
    found = [] if torch.equal(one.model, two.model) else ["model"]
    found += [
        w for w in ("server", "clock") if not same(getattr(one.run.state, w), getattr(two.run.state, w))
    ]
    found += [
        w
        for w in ("accepted", "decode")
        if getattr(one.run.state, w).keys() != getattr(two.run.state, w).keys()
    ]
    count = [[(r["round"], r.get("clients")) for r in p.records] for p in (one, two)]
    return found + (
        [] if count[0][-len(count[1]) :] == count[1][-len(count[0]) :] else [f"contributors: {count}"]
    )


def faulty(seed: int, folder: Path) -> None:
    dice = random.Random(f"{seed} federation")
    name = dice.choice(sorted(FEDERATIONS))
    fed, record = replace(FEDERATIONS[name], rounds=3, seed=seed), Record()
    one = play(replace(fed, engine=Faulty(seed, record)), folder / "one")
    assert len(one.records) == fed.rounds + 1
    here = f"seed {seed}, {name}, lost {sorted(record.lost)}"

    again = Record()
    two = lived(replace(fed, engine=Faulty(seed, again)), folder / "two", random.Random(f"{seed} deaths"))
    assert alike(one, two) == [], f"{here}: it does not survive the server's death"

    other = play(replace(fed, engine=Absent(frozenset(record.lost))), folder / "three")
    told = [{r["round"] for r in p.records if r.get("failed")} for p in (one, other)]
    if told[0] == told[1]:  # a cohort's threshold depends on who came to its first phase
        assert alike(one, other) == [], f"{here}: not the model of those who were there"
    else:
        assert name == "secure" and told[1] < told[0], f"{here}: rounds {told} failed"


@pytest.mark.parametrize("seed", range(FEW))
def test_whatever_happens_on_the_way(seed: int, tmp_path: Path) -> None:
    faulty(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(FEW, MANY))
def test_thousands_of_ways(seed: int, tmp_path: Path) -> None:
    faulty(seed, tmp_path)


@pytest.mark.parametrize("name", sorted(FEDERATIONS))
def test_every_kind_of_fault_happens(name: str, tmp_path: Path) -> None:
    """Else the tests above would show nothing."""
    record = Record()
    for seed in range(6):
        engine = Faulty(seed, record)
        play(replace(FEDERATIONS[name], rounds=3, engine=engine), tmp_path / str(seed))
    assert set(record.done) == {*RATES, ""} and record.lost


@pytest.mark.parametrize("seed", range(8))
def test_a_bad_disk_costs_time_and_nothing_else(seed: int, tmp_path: Path) -> None:
    """Each failed write stops the run, resumable; in the end the model is that of a good disk."""
    fed = replace(FEDERATIONS["scaffold, feedback"], rounds=4, seed=seed, engine=InProcess())
    whole: Any = play(fed, tmp_path / "good")
    failures = 0  # of the disk: some are met by another session of the same job, the others end an attempt
    for attempt in range(100):
        try:
            with bad_disk(seed * 100 + attempt, 0.05) as disk:
                rest = play(fed, tmp_path / "bad", resume=attempt > 0)
            failures += disk.total()
            break
        except MachineFault as e:
            assert "fedfm resume" in str(e)
            failures += disk.total()
    assert failures and torch.equal(rest.model, whole.model) and rest.digest == whole.digest
