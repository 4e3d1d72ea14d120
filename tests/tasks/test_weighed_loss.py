"""The loss of an own task that is told is that of all rows, in whatever pieces they are scored."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import fedfm

TAGS = 3


def rows(seed: int, n: int, rare: int = 1) -> tuple[Any, Any]:
    """`rare` of every 40 rows are of class 1."""
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    y = torch.zeros(n, dtype=torch.long)
    for k in range(rare):
        y[k::40] = 1
    return x.numpy(), y.numpy()


def told(folder: Path, task: Any, parts: int, make: Any = rows) -> tuple[float, nn.Module]:
    """The loss that is told, and the module that was saved."""
    data = fedfm.Arrays({f"c{i}": make(i, 60) for i in range(2)}, test=make(9, 203))
    fed = fedfm.Federation(
        task=task,
        data=data,
        client=fedfm.Local(lr=0.1, steps=3, batch=20),
        evaluate=fedfm.HeldOut(parts=parts),
        rounds=1,
    )
    result = fedfm.run(fed, out=folder / str(parts))
    module = task.module()
    module.load_state_dict(load_file(folder / str(parts) / "model" / "model.safetensors"))
    last = [r for r in result.history["loss"] if r == r][-1]
    return float(last), module


def tagged(seed: int, n: int) -> tuple[Any, Any]:
    """Three targets a row, of which the later ones are left out here and there."""
    x, _ = rows(seed, n)
    y = (np.arange(n * TAGS).reshape(n, TAGS) + seed) % 2
    y[::2, 1:] = -100
    y[::5] = -100
    return x, y


class Tagger(nn.Linear):
    """(n, 2 classes, TAGS)."""

    def __init__(self) -> None:
        super().__init__(4, 2 * TAGS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).reshape(-1, 2, TAGS)


WEIGHED: list[tuple[Any, Any, Any]] = [
    (lambda: nn.Linear(4, 2), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 50.0])), rows),
    (lambda: nn.Linear(4, 2), nn.CrossEntropyLoss(torch.tensor([1.0, 9.0]), label_smoothing=0.1), rows),
    (lambda: nn.Linear(4, 2), nn.CrossEntropyLoss(ignore_index=1), rows),
    (lambda: nn.Sequential(nn.Linear(4, 2), nn.LogSoftmax(1)), nn.NLLLoss(torch.tensor([1.0, 20.0])), rows),
    (Tagger, nn.CrossEntropyLoss(), tagged),
    (Tagger, F.cross_entropy, tagged),
]


@pytest.mark.parametrize(("module", "loss", "make"), WEIGHED)
def test_it_is_torch_s_own_mean_over_all_rows(module: Any, loss: Any, make: Any, tmp_path: Path) -> None:
    task = fedfm.Torch(module, loss=loss)
    found = [told(tmp_path, task, parts, make) for parts in (1, 7)]
    x, y = map(torch.as_tensor, make(9, 203))
    for value, tuned in found:
        with torch.no_grad():
            assert value == pytest.approx(float(loss(tuned(x), y)), rel=1e-5)


def test_a_loss_of_one_s_own_that_is_no_mean_over_rows_is_told(tmp_path: Path) -> None:
    heavy = torch.tensor([1.0, 50.0])

    def lone(module: Any, batch: Any) -> Any:
        return F.cross_entropy(module(batch[0]), batch[1], weight=heavy)

    class Own(nn.Module):
        def forward(self, out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(out, y, weight=heavy)

    for k, loss in enumerate((lone, Own())):
        with pytest.warns(UserWarning, match=r"task.loss is no mean over rows.*evaluate.parts"):
            told(tmp_path / str(k), fedfm.Torch(lambda: nn.Linear(4, 2), loss=loss), 2, many)


def many(seed: int, n: int) -> tuple[Any, Any]:
    return rows(seed, n, rare=13)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        F.cross_entropy,
        lambda m, b: F.cross_entropy(m(b[0]), b[1]),
        lambda m, b: F.cross_entropy(m(b[0]), b[1], weight=torch.tensor([1.0, 50.0]), reduction="none"),
    ],
)
def test_means_over_rows_are_told_nothing_of(loss: Any, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*no mean over rows")
        told(tmp_path, fedfm.Torch(lambda: nn.Linear(4, 2), loss=loss), 3, many)
