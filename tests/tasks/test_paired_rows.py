"""A loss or a score of one's own that pairs each output with each target is refused before the work."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fedfm
from fedfm.core.errors import ConfigError
from fedfm.core.federation import Federation
from fedfm.data.arrays import Arrays
from fedfm.efficiency.training.local import Local
from fedfm.tasks.own.module import Torch


class Column(nn.Module):
    """Outputs (n, 1), all alike in the beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 1)
        nn.init.zeros_(self.line.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.line(x)
        return out


class Flat(Column):
    """Outputs (n,)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).squeeze(-1)


def ran(task: Torch, folder: Path, axis: bool = False) -> fedfm.Result:
    def drawn(seed: int) -> tuple[Any, Any]:
        x = torch.randn(20, 3, generator=torch.Generator().manual_seed(seed))
        y = x.sum(1, keepdim=True) if axis else x.sum(1)
        return x.numpy(), y.numpy()

    data = Arrays({"a": drawn(0), "b": drawn(1)}, drawn(2))
    fed = Federation(task, data, client=Local(lr=0.1, steps=5, batch=8), rounds=2)
    return fedfm.run(fed, out=folder, engine="inprocess")


def squares(module: Any, batch: Any) -> torch.Tensor:
    found: torch.Tensor = (module(batch[0]) - batch[1]) ** 2
    return found


MIXING: dict[str, Callable[[Any, Any], Any]] = {
    "mean": lambda m, b: squares(m, b).mean(),
    "rows": squares,
    "absolute": lambda m, b: (m(b[0]) - b[1]).abs().mean(),
    "torch's": lambda m, b: nn.functional.smooth_l1_loss(m(b[0]), b[1]),
}


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("module", [Column, Flat])
def test_a_loss_that_pairs_rows(name: str, module: type[nn.Module], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task.loss: gives .* whose own values have the mean") as e:
        ran(Torch(module, loss=MIXING[name]), tmp_path / "run", axis=module is Flat)
    assert "reshape(y.shape)" in str(e.value) and not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_score_that_pairs_rows(tmp_path: Path) -> None:
    task = Torch(
        Column, loss=lambda m, b: squares(lambda x: m(x).squeeze(-1), b), scores={"error": MIXING["mean"]}
    )
    with pytest.raises(ConfigError, match=r"task.scores\['error'\]: gives"):
        ran(task, tmp_path / "run")


def test_what_is_right_runs(tmp_path: Path) -> None:
    def fits(m: Any, b: Any) -> Any:
        return (m(b[0]).reshape(b[1].shape) - b[1]).square().mean()

    def contrast(m: Any, b: Any) -> Any:  # mixes rows, and means to
        out = m(b[0]).squeeze(-1)
        return ((out[:, None] - out) - (b[1][:, None] - b[1])).square().mean()

    for at, loss in enumerate((fits, contrast, lambda m, b: squares(m, (b[0], b[1][:, None])))):
        told = pytest.warns(UserWarning, match="no mean over rows") if loss is contrast else nullcontext()
        with told:
            result = ran(Torch(Column, loss=loss), tmp_path / str(at))
        assert result.metric["federated"] < result.metric["base"]
