"""What few tried rows do not show: targets that are no class, numbers of another kind, scores that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedfm.core.errors import ConfigError, DataError, FedfmError, MethodFault, ModelError
from fedfm.core.federation import Federation
from fedfm.data.arrays import Arrays
from fedfm.efficiency.training.local import Local
from fedfm.running.entry import run
from fedfm.tasks.own.module import Torch

RNG = np.random.default_rng(4)
PARTIES = 12  # more than are tried, and more rows each than are tried


def drawn(n: int) -> tuple[Any, Any]:
    x = RNG.normal(size=(n, 3)).astype("float32")
    return x, (x[:, 0] > 0).astype("int64")


def trained(folder: Path, task: Torch | None = None, **other: tuple[Any, Any]) -> Any:
    """A run in which one party, or the test rows, are `other`."""
    parties = {f"p{i}": drawn(20) for i in range(PARTIES)} | other
    test = parties.pop("test", drawn(20))
    fed = Federation(
        task=task or Torch(nn.Linear(3, 2)),
        data=Arrays(parties, test),
        client=Local(lr=0.1, steps=2, batch=8),
    )
    return run(fed, rounds=1, out=folder, engine="inprocess")


@pytest.mark.parametrize("who", ["p11", "test"])
@pytest.mark.parametrize("wrong", [2, -1, -100])
def test_one_target_that_is_no_class_is_refused_before_work(who: str, wrong: int, tmp_path: Path) -> None:
    x, y = drawn(20)
    y[13] = wrong
    place = "the test rows" if who == "test" else who
    told = rf"1 targets y are no class of the module \({wrong}\): 1 of 20 of {place}"
    with pytest.raises(ConfigError, match=f"{told}|no class numbers: {wrong}\n"):
        trained(tmp_path / "run", **{who: (x, y)})
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_loss_of_ones_own_decides_what_its_targets_are(tmp_path: Path) -> None:
    def loss(module: Any, batch: Any) -> Any:
        return F.cross_entropy(module(batch[0]), batch[1], ignore_index=-1)

    x, y = drawn(20)
    y[13] = -1
    assert trained(tmp_path, Torch(nn.Linear(3, 2), loss=loss), p11=(x, y)).status == "finished"


@pytest.mark.parametrize("who", ["p11", "test"])
def test_numbers_of_another_kind_are_refused_with_the_place(who: str, tmp_path: Path) -> None:
    x, y = drawn(20)
    pixels = (x * 40 + 128).clip(0, 255).astype("uint8")
    with pytest.raises(DataError, match=rf"{who}.*'x' holds uint8, that of .*p0.* floats[\s\S]*scale"):
        trained(tmp_path, **{who: (pixels, y)})


def test_floats_of_two_widths_and_targets_of_two_types_are_one_kind(tmp_path: Path) -> None:
    x, y = drawn(20)
    assert trained(tmp_path, p11=(x.astype("float64"), y.astype("float32"))).status == "finished"


def test_a_score_that_is_no_number_is_refused_before_work_and_one_that_needs_more_rows_is_not(
    tmp_path: Path,
) -> None:
    asked: list[int] = []

    def whole(module: Any, batch: Any) -> float:
        asked.append(len(batch[1]))
        if len(asked) == 1:
            raise ValueError("one class only")
        return 0.5

    with pytest.raises(ConfigError, match=r"task.scores\['auc'\]: gives str"):
        trained(tmp_path / "a", Torch(nn.Linear(3, 2), scores={"auc": lambda module, batch: "high"}))
    few = {f"p{i}": drawn(4) for i in range(PARTIES)}
    small = {name: rows for name, rows in few.items() if name < "p3"}
    task = Torch(nn.Linear(3, 2), scores={"auc": whole})
    fed = Federation(task=task, data=Arrays(small, drawn(20)), client=Local(lr=0.1, steps=2, batch=4))
    assert run(fed, rounds=1, out=tmp_path / "b", engine="inprocess").metric["federated"] == 0.5


def test_layers_without_a_shape_are_refused_and_run_once_they_have_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"task.module: has layers without a shape[\s\S]*fix"):
        trained(tmp_path / "a", Torch(lambda: nn.LazyLinear(2)))
    net = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Linear(4, 2))
    with pytest.raises(FedfmError, match="without a shape"):
        trained(tmp_path / "b", Torch(net))
    net(torch.zeros(2, 3))
    assert trained(tmp_path / "c", Torch(net)).status == "finished"


def test_a_bug_is_placed_in_the_code_that_is_not_installed(tmp_path: Path) -> None:
    calls: list[int] = []

    def loss(module: Any, batch: Any) -> Any:
        calls.append(1)
        return F.cross_entropy(module(batch[0])[:, : 2 if len(calls) < 40 else 0], batch[1])

    with pytest.raises(MethodFault, match=r"where: \S*test_every_row_fits.py:\d+, in loss"):
        client = Local(lr=0.1, steps=30, batch=4)
        data = Arrays({"a": drawn(20)}, drawn(20))
        run(
            Federation(task=Torch(nn.Linear(3, 2), loss=loss), data=data, client=client),
            rounds=2,
            out=tmp_path,
        )
