"""Runs under a guarantee on the same rows: before, in the terminal and on the page it is said that their epsilons add up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fedfm
from fedfm import report
from fedfm.config import text
from fedfm.config.record import to_config
from fedfm.core.federation import Federation
from fedfm.efficiency.training.mean import Mean
from fedfm.laws.homes import quadratics
from fedfm.ledger import file as ledger
from fedfm.report.rundir import read_runs
from fedfm.report.sections import result
from fedfm.report.together import composed
from fedfm.running.commands.sweep import sweep
from fedfm.trust.privacy.accountant import composed as compose
from fedfm.trust.privacy.accountant import spent
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian

NOISE = ClipNoise(noise_multiplier=1.5, delta=1e-6)


def _fed(**more: Any) -> Federation:
    return quadratics(**{"uplink": NOISE, "aggregate": Mean("equal", denominator=5.0), "rounds": 2, **more})


def _ledger(folder: Path) -> list[Any]:
    return list(ledger.read(folder / "events.jsonl"))


def test_a_sweep_says_it_before_and_after_and_on_its_page(tmp_path: Path) -> None:
    told: list[str] = []
    points = sweep(_fed(), ["client.lr=0.01,0.1", "seed=0,1"], out=tmp_path / "s", tell=told.append)
    assert any(t.startswith("4 runs under a guarantee: each epsilon is of one run") for t in told)
    said = composed([p.folder for p in points])
    alone = spent(_ledger(points[0].folder))
    once = fedfm.run(_fed(rounds=8), out=tmp_path / "once", baselines="none")  # as many releases in one run
    assert alone is not None and once.summary["privacy"]["epsilon"] > 1.5 * alone.epsilon
    assert f"All 4 of them spend epsilon {once.summary['privacy']['epsilon']:.2f} at delta 1e-06" in said
    assert said in report.write([tmp_path / "s"]).read_text(encoding="utf-8").replace("&#x27;", "'")


def test_one_run_or_runs_that_promise_nothing_say_nothing(tmp_path: Path) -> None:
    told: list[str] = []
    points = sweep(_fed(), ["seed=0"], out=tmp_path / "one", tell=told.append)
    points += sweep(quadratics(rounds=1), ["seed=0,1"], out=tmp_path / "two", tell=told.append)
    assert composed([p.folder for p in points]) == "" and not any("guarantee" in t for t in told)


@pytest.mark.parametrize(
    "other", [LocalGaussian(noise_multiplier=1.5, delta=1e-6), replace(NOISE, relation="replace-one")]
)
def test_runs_of_different_promises_have_no_one_number(other: Any, tmp_path: Path) -> None:
    for k, uplink in enumerate((NOISE, other)):
        fedfm.run(_fed(uplink=uplink), out=tmp_path / str(k), baselines="none")
    folders = [tmp_path / "0", tmp_path / "1"]
    assert "What all 2 of them spend together has no one number" in composed(folders)
    assert "different promises" in result.comparison(read_runs(folders)).words


def test_noise_of_the_parties_own_adds_up_too(tmp_path: Path) -> None:
    fed = _fed(uplink=LocalGaussian(noise_multiplier=3.0, delta=1e-6))
    for seed in (0, 1):
        fedfm.run(replace(fed, seed=seed), out=tmp_path / str(seed), baselines="none")
    both = compose([_ledger(tmp_path / "0"), _ledger(tmp_path / "1")])
    whole = fedfm.run(replace(fed, rounds=4), out=tmp_path / "w", baselines="none").summary["privacy"]
    assert both.epsilon == pytest.approx(whole["epsilon"]) and both.rounds == 4


def test_runs_of_other_data_say_under_which_condition(tmp_path: Path) -> None:
    config = to_config(_fed())
    for k in (0, 1):
        fedfm.run(_fed(seed=k), out=tmp_path / str(k), baselines="none")
    folders = [tmp_path / "0", tmp_path / "1"]
    assert "if their rows are those of the same parties" not in composed(folders)
    (folders[1] / "config.yaml").write_text(text.dump({**config, "data": {"name": "digits"}}))
    assert "if their rows are those of the same parties" in composed(folders)
