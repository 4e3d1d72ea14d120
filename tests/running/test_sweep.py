"""A grid over seeds says what its seeds do not change."""

from __future__ import annotations

from pathlib import Path

import pytest

from federations import digits
from fedfm.core.errors import ConfigError
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


def jsonl(folder: Path, flip: bool) -> None:
    for k, party in enumerate("ab"):
        rows = [f'{{"a": 1.0, "b": {float(i + k)}}}' for i in range(6)]
        (folder / f"{party}.jsonl").write_text("\n".join(rows[::-1] if flip and k else rows) + "\n")


def test_a_sweep_does_not_tell_runs_of_other_rows_as_its_own(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    jsonl(tmp_path / "data", False)
    fed = {"task": "quadratic", "data": {"name": "files", "path": str(tmp_path / "data")}, "rounds": 1}
    out = tmp_path / "s"
    first = sweep(fed, ["seed=0,1"], out=out)
    again = sweep(fed, ["seed=0,1,2"], out=out)  # goes on
    assert [p.error for p in again] == [""] * 3 and first[0].result == again[0].result
    jsonl(tmp_path / "data", True)
    with pytest.raises(
        ConfigError, match=r"(?s)is a run of something else \(data.b: was .*one table would mix"
    ):
        sweep(fed, ["seed=0,1"], out=out)


def test_a_value_that_is_spelled_twice_is_one_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"client.lr: 0.01 and 0.010 are one value"):
        sweep(quadratics(), ["client.lr=0.01,0.010"], out=tmp_path)
    sweep(quadratics(rounds=1), ["client.lr=0.01,0.1"], out=tmp_path)
