"""A loss or a score is one number, the mean of a batch, or one number a row; whatever else it is, it is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fedfm
from fedfm.core.errors import ConfigError, FedfmError
from fedfm.core.federation import Federation
from fedfm.data.arrays import Arrays
from fedfm.efficiency.training.local import Local
from fedfm.tasks.own.module import Torch


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.line(x)
        return out


class Turned(nn.Module):
    """Complex weights, whose absolute values are the scores."""

    def __init__(self, trained: bool = True) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 2, dtype=torch.complex64), requires_grad=trained)
        self.b = nn.Parameter(torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.to(torch.complex64) @ self.w).abs() + self.b


def ran(task: Torch, folder: Path, **slots: Any) -> fedfm.Result:
    def drawn(seed: int) -> tuple[Any, Any]:
        x = torch.randn(30, 4, generator=torch.Generator().manual_seed(seed))
        return x.numpy(), (x[:, 0] > 0.5).long().numpy()

    data = Arrays({"a": drawn(0), "b": drawn(1)}, drawn(2))
    fed = Federation(task, data, client=Local(lr=0.1, steps=2, batch=8), rounds=1, **slots)
    return fedfm.run(fed, out=folder, engine="inprocess")


def right(m: Any, b: Any) -> torch.Tensor:
    return m(b[0]).argmax(1) == b[1]


def f1(m: Any, b: Any) -> torch.Tensor:
    said, true = m(b[0]).argmax(1), b[1]
    both = (said * true).sum()
    return 2 * both / (said.sum() + true.sum()).clamp_min(1)


SHAPES: dict[str, Callable[[Any, Any], Any]] = {
    "(1,)": lambda m, b: right(m, b).float().mean()[None],
    "a class each": lambda m, b: torch.stack([right(m, b)[b[1] == k].float().mean() for k in (0, 1)]),
    "a table": lambda m, b: torch.eye(2),
    "(n, 5)": lambda m, b: right(m, b).float()[:, None].expand(-1, 5),
    "a list": lambda m, b: [0.5, 0.5],
}
LUMPS: dict[str, Callable[[Any, Any], Any]] = {
    "f1": f1,
    "f1 as a float": lambda m, b: float(f1(m, b)),
    "root": lambda m, b: F.mse_loss(m(b[0])[:, 0], b[1].float()).sqrt(),
    "perplexity": lambda m, b: F.cross_entropy(m(b[0]), b[1]).exp(),
    "largest": lambda m, b: m(b[0]).max(),
}
MEANS: dict[str, Callable[[Any, Any], Any]] = {
    "rows": right,
    "column": lambda m, b: right(m, b)[:, None],
    "mean": lambda m, b: right(m, b).float().mean(),
    "float": lambda m, b: float(right(m, b).float().mean()),
    "loss": lambda m, b: F.cross_entropy(m(b[0]), b[1]),
    "numpy": lambda m, b: right(m, b).numpy().mean(),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_score_of_another_shape_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task.scores\['odd'\]: gives \([0-9, ]*\) for \d+ rows"):
        ran(Torch(Net, scores={"odd": SHAPES[name]}), tmp_path / "run")


@pytest.mark.parametrize("name", LUMPS)
def test_a_score_that_is_no_mean_over_rows_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"(?s)task.scores\['odd'\]: gives .*two pieces.*fedfm new evaluate"
    ):
        ran(Torch(Net, scores={"odd": LUMPS[name]}), tmp_path / "run")


@pytest.mark.parametrize("name", MEANS)
def test_a_mean_over_rows_runs_and_is_the_same_in_any_pieces(name: str, tmp_path: Path) -> None:
    task = Torch(Net, scores={"own": MEANS[name]}, higher_is_better=False)
    found = [
        ran(task, tmp_path / str(parts), evaluate=fedfm.HeldOut(parts=parts)).metric["federated"]
        for parts in (1, 7)
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-6) and found[0] <= 2


@pytest.mark.parametrize("shape", ["(1,)", "(2n,)"])
def test_a_loss_of_another_shape_is_refused(shape: str, tmp_path: Path) -> None:
    def loss(m: Any, b: Any) -> torch.Tensor:
        each = F.cross_entropy(m(b[0]), b[1], reduction="none")
        return each.mean()[None] if shape == "(1,)" else torch.cat([each, each])

    with pytest.raises(FedfmError, match=r"task.loss: gives \(\d+,\) for \d+ rows"):
        ran(Torch(Net, loss=loss), tmp_path / "run")


def test_a_loss_of_torch_that_adds_up_its_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="task.loss: adds up the rows of a batch"):
        ran(Torch(Net, loss=nn.CrossEntropyLoss(reduction="sum")), tmp_path / "run")
    assert ran(Torch(Net, loss=nn.CrossEntropyLoss(reduction="none")), tmp_path / "each").status == "finished"


def test_complex_numbers_that_are_trained_are_refused_and_frozen_ones_stay(tmp_path: Path) -> None:
    with pytest.raises(FedfmError, match=r"(?s)w holds complex numbers.*view_as_complex"):
        ran(Torch(Turned), tmp_path / "run")
    assert ran(Torch(lambda: Turned(False)), tmp_path / "frozen").status.startswith("finished")


def test_a_module_of_torch_jit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FedfmError, match="compiled by torch.jit"):
        ran(Torch(torch.jit.script(Net())), tmp_path / "run")
