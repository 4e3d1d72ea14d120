"""Modules whose output for a row depends on the other rows of its batch, also in evaluation: said before the work."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fedfm

T = 6


class Net(nn.Module):
    def __init__(self, way: Callable[[Net, Tensor], Any], *layers: nn.Module, **named: nn.Module) -> None:
        super().__init__()
        self.way, self.few, self.last = way, nn.ModuleList(layers), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Any:
        return self.way(self, x)


def encoder(first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=first)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


def rebased(start: nn.Module) -> nn.Module:
    for p in start.parameters():
        nn.init.zeros_(p)
    return start


MIXED = {
    "mean": lambda: Net(lambda s, x: s.last(x[:, 0] - x[:, 0].mean(0))),
    "norm": lambda: Net(lambda s, x: s.last(s.few[0](x[:, 0])), nn.BatchNorm1d(8, track_running_stats=False)),
    "lstm": lambda: Net(lambda s, x: s.last(s.few[0](x)[0][:, -1]), nn.LSTM(8, 8)),
    "attention": lambda: Net(lambda s, x: s.last(s.few[0](x).mean(1)), encoder(False)),
    "softmax": lambda: Net(lambda s, x: torch.log_softmax(s.last(x[:, 0]), 0)),
    "begins with zeros": lambda: Net(
        lambda s, x: s.last(x[:, 0] + s.few[0](x[:, 0].mean(0))), rebased(nn.Linear(8, 8))
    ),
    "fours": lambda: Net(lambda s, x: s.last(x[:, 0].reshape(-1, 4, 8)).flatten(0, 1)),
    "several outputs": lambda: Net(lambda s, x: {"extra": x, "out": s.last(x.cumsum(0)[:, 0])}),
}
APART = {
    "plain": lambda: Net(lambda s, x: s.last(x[:, 0])),
    "lstm": lambda: Net(lambda s, x: s.last(s.few[0](x)[0][:, -1]), nn.LSTM(8, 8, batch_first=True)),
    "attention": lambda: Net(lambda s, x: s.last(s.few[0](x).mean(1)), encoder(True)),
    "norm": lambda: Net(lambda s, x: s.last(s.few[0](x[:, 0])), nn.BatchNorm1d(8)),
    "half inside": lambda: Net(lambda s, x: (x[:, 0].bfloat16() @ s.last.weight.T.bfloat16()).float()),
    "many and deep": lambda: Net(
        lambda s, x: s.last(s.few[0](1e4 * x[:, 0])),
        nn.Sequential(*(m for _ in range(12) for m in (nn.Linear(8, 8), nn.ReLU(), nn.LayerNorm(8)))),
    ),
}


def loss(module: nn.Module, batch: Any) -> Tensor:
    out = module(batch["x"] if isinstance(batch, dict) else batch[0])
    wanted = batch["y"] if isinstance(batch, dict) else batch[1]
    return nn.functional.cross_entropy(out["out"] if isinstance(out, dict) else out, wanted.long())


def probed(make: Any, *, mapping: bool = False, measure: Any = loss) -> list[str]:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, T, 8)).astype("float32"), np.arange(40) % 2
    rows: Any = [
        {"x": a, "age": float(k), "label": int(b)} for k, (a, b) in enumerate(zip(x, y, strict=True))
    ]
    rows = rows if mapping else (x, y)
    scores = {"right": lambda m, b: -measure(m, b)}
    data = fedfm.Arrays({f"p{i}": rows for i in range(5)}, test=rows)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fedfm.probe(fedfm.Federation(task=fedfm.Torch(make, loss=measure, scores=scores), data=data))
    return [str(w.message) for w in found if "depends on the other rows" in str(w.message)]


@pytest.mark.parametrize("way", MIXED)
def test_rows_that_are_mixed_are_told_once(way: str) -> None:
    assert len(probed(MIXED[way])) == 1


@pytest.mark.parametrize("way", APART)
def test_nothing_is_told_of_rows_that_stand_alone(way: str) -> None:
    assert not probed(APART[way])


def noisy(module: nn.Module, batch: Any) -> Tensor:
    """A loss that draws, as a denoiser's: the module is asked for other inputs each time, and is the same."""
    x = batch[0] + torch.randn(batch[0].shape, generator=torch.Generator().manual_seed(1))
    return nn.functional.cross_entropy(module(x), batch[1].long())


def test_rows_of_other_columns_and_losses_that_draw_are_asked_as_the_loss_asks() -> None:
    assert len(probed(MIXED["mean"], mapping=True)) == 1
    assert not probed(APART["plain"], mapping=True)
    assert not probed(APART["plain"], measure=noisy)
    assert len(probed(MIXED["mean"], measure=noisy)) == 1
