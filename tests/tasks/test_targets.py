"""Targets that a loss would misread, and measures that cannot be called: refused before any work, else exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedfm.core.errors import ConfigError, DataError, FedfmError
from fedfm.core.federation import Federation
from fedfm.data.arrays import Arrays
from fedfm.efficiency.training.fedprox import FedProx
from fedfm.efficiency.training.local import Local
from fedfm.running.entry import run
from fedfm.tasks.own.module import Torch

RNG = np.random.default_rng(2)
X = RNG.normal(size=(24, 3)).astype("float32")
NUMBERS = X[:, 0] * 3 + 1
CLASSES = (X[:, 0] > 0).astype("int64")


def trained(task: Torch, y: Any, folder: Path) -> Any:
    data = Arrays({"a": (X[:12], y[:12]), "b": (X[12:], y[12:])}, (X, y))
    client = Local(lr=0.1, steps=40, batch=12)
    return run(Federation(task=task, data=data, client=client), rounds=5, out=folder, engine="inprocess")


@pytest.mark.parametrize("loss", [F.mse_loss, nn.L1Loss(), F.smooth_l1_loss])
def test_a_loss_of_torch_that_would_pair_every_output_with_every_target_is_refused(
    loss: Any, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"task.loss: the module gives \(\d+, 1\)[\s\S]*squeeze"):
        trained(Torch(nn.Linear(3, 1), loss=loss), NUMBERS, tmp_path)
    with pytest.raises(ConfigError, match=r"task.loss: the module gives \(\d+, 1\)"):  # counts and ages too
        trained(Torch(nn.Linear(3, 1), loss=loss), NUMBERS.round().astype("int64"), tmp_path)


@pytest.mark.parametrize("column", [False, True])
def test_the_same_shapes_are_learned(column: bool, tmp_path: Path) -> None:
    module = nn.Linear(3, 1) if column else nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    y = NUMBERS[:, None] if column else NUMBERS
    assert trained(Torch(module, loss=F.mse_loss), y, tmp_path).metric["federated"] < 1e-3


@pytest.mark.parametrize(
    "y",
    [abs(NUMBERS) % 1.9, np.eye(2, dtype="float32")[CLASSES], CLASSES + 0.5],
    ids=["numbers", "one-hot", "half"],
)
def test_without_a_loss_targets_that_are_no_class_numbers_are_refused(y: Any, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, DataError), match=r"no class numbers[\s\S]*mse_loss"):
        trained(Torch(nn.Linear(3, 2)), y.astype("float32"), tmp_path)


def test_one_target_that_is_no_class_number_among_many_is_refused_too(tmp_path: Path) -> None:
    y = CLASSES.astype("float32")
    y[11] = 0.5
    with pytest.raises((ConfigError, DataError), match="no class numbers: 0.5"):
        trained(Torch(nn.Linear(3, 2)), y, tmp_path)


def test_whole_floats_are_class_numbers(tmp_path: Path) -> None:
    module = nn.Linear(3, 2)
    floats = trained(Torch(module), CLASSES.astype("float32"), tmp_path / "f").metric
    assert floats == trained(Torch(module), CLASSES, tmp_path / "i").metric


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"scores": lambda m, b: torch.ones(1)}, "task.scores: is a function, not a mapping"),
        ({"scores": {"error": lambda out: out}}, r"task.scores\['error'\]: does not take two arguments"),
        ({"loss": "mse"}, "task.loss: is a str, not a function"),
    ],
)
def test_a_measure_that_cannot_be_called_is_refused(settings: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        trained(Torch(nn.Linear(3, 2), **settings), CLASSES, tmp_path)


@pytest.mark.parametrize(
    "loss", [lambda out, y: F.cross_entropy(out, y), lambda out, y: (out[:, 0] - y) ** 2]
)
def test_a_loss_of_outputs_and_targets_is_told_how_it_is_called(loss: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"takes outputs and targets[\s\S]*lambda module, batch"):
        trained(Torch(nn.Linear(3, 2), loss=loss), CLASSES, tmp_path)


def test_a_loss_with_a_bug_of_its_own_keeps_its_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        trained(Torch(nn.Linear(3, 2), loss=lambda module, batch: 1 // 0), CLASSES, tmp_path)


@pytest.mark.parametrize("kind", ["int64", "float32", "int8"])
def test_classes_below_zero_are_refused_with_the_way_out(kind: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, DataError), match=r"no class numbers: -1[\s\S]*\(y \+ 1\) // 2"):
        trained(Torch(nn.Linear(3, 2)), (2 * CLASSES - 1).astype(kind), tmp_path)


@pytest.mark.parametrize("where", ["train", "test"])
def test_a_class_without_an_output_is_named(where: str, tmp_path: Path) -> None:
    """Before any round: a few training rows are tried, and the starting model is scored on the test rows."""
    odd = CLASSES.copy()
    odd[0] = 7
    train, test = (odd, CLASSES) if where == "train" else (CLASSES, odd)
    data = Arrays({"a": (X[:12], train[:12]), "b": (X[12:], train[12:])}, (X, test))
    fed = Federation(task=Torch(nn.Linear(3, 2)), data=data, client=Local(lr=0.1, steps=4), rounds=2)
    with pytest.raises(
        FedfmError,
        match=r"class 7, and the module has 2 outputs|no class of the module \(7\): 1 of 24 of the test rows",
    ):
        run(fed, out=tmp_path / "run", engine="inprocess")


def normed(per_row: bool = False) -> nn.Module:
    norm = nn.LayerNorm(4) if per_row else nn.BatchNorm1d(4)
    return nn.Sequential(nn.Linear(3, 4), norm, nn.ReLU(), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("client", "per_row", "refused"),
    [
        (Local(lr=0.1, epochs=1.0, batch=4), False, True),  # 13 rows in batches of 4
        (FedProx(local=Local(lr=0.1, steps=2, batch=12)), False, True),
        (Local(lr=0.1, epochs=1.0, batch=4, drop_last=True), False, False),
        (Local(lr=0.1, epochs=1.0, batch=5), False, False),
        (Local(lr=0.1, epochs=1.0, batch=4), True, False),
        (Local(lr=0.1, epochs=1.0, batch=0), False, False),
    ],
)
def test_a_batch_of_one_row_under_batch_norm(
    client: Any, per_row: bool, refused: bool, tmp_path: Path
) -> None:
    data = Arrays({"a": (X[:13], CLASSES[:13]), "b": (X[13:23], CLASSES[13:23])}, (X, CLASSES))
    fed = Federation(task=Torch(lambda: normed(per_row)), data=data, client=client, rounds=2)
    if not refused:
        assert run(fed, out=tmp_path / "run", engine="inprocess").status == "finished"
        return
    with pytest.raises(
        ConfigError, match=r"a would train on a batch of one row: 13 rows[\s\S]*drop_last=true"
    ):
        run(fed, out=tmp_path / "run", engine="inprocess")


def test_a_party_with_one_row_under_batch_norm(tmp_path: Path) -> None:
    data = Arrays({"a": (X[:1], CLASSES[:1]), "b": (X[1:], CLASSES[1:])}, (X, CLASSES))
    fed = Federation(task=Torch(normed), data=data, client=Local(lr=0.1, epochs=1.0, batch=0), rounds=2)
    with pytest.raises(ConfigError, match="a would train on a batch of one row: 1 rows in batches of 1"):
        run(fed, out=tmp_path / "run", engine="inprocess")
