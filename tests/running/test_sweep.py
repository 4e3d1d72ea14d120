"""A grid over seeds says what its seeds do not change."""

from __future__ import annotations

from pathlib import Path

from federations import digits
from fedfm.laws.homes import quadratics
from fedfm.running.commands.sweep import sweep


def test_a_sweep_over_seeds_says_that_all_begin_with_the_same_weights(tmp_path: Path) -> None:
    told: list[str] = []
    fed = digits(rounds=1)
    sweep(fed, ["seed=0,1"], out=tmp_path / "a", tell=told.append)
    assert len(told) == 1 and "begins with the same weights (task.init_seed=0)" in told[0]
    sweep(fed, ["seed=0,1", "task.init_seed=0,1"], out=tmp_path / "b", tell=told.append)
    sweep(quadratics(), ["seed=0,1"], out=tmp_path / "c", tell=told.append)
    assert len(told) == 1
