"""Parameters that nobody trains: refused where there is nothing else, told where the gradient does not reach some."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fedfm
from fedfm.core.errors import ModelError


class Net(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.low, self.high, self.spare = way, nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 2)
        self.spare.requires_grad_(way == "unused")
        self.low.requires_grad_(way != "frozen")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.way == "late":
            self.low.requires_grad_(False)
        if self.way == "no_grad":
            with torch.no_grad():
                x = self.low(x)
        else:
            x = self.low(x).detach() if self.way == "detached" else self.low(x)
        out: torch.Tensor = self.high(x)
        return out


def asked(module: Any) -> None:
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(20, 4)).astype("float32"), np.arange(20) % 2)
    data = fedfm.Arrays({"a": rows, "b": rows}, test=rows)
    fedfm.probe(fedfm.Federation(task=fedfm.Torch(module), data=data, client=fedfm.Local(steps=1)))


@pytest.mark.parametrize(
    ("way", "some"), [("detached", "low"), ("no_grad", "low"), ("late", "low"), ("unused", "spare")]
)
def test_what_no_gradient_reaches_is_told_by_name(way: str, some: str) -> None:
    with pytest.warns(UserWarning, match=rf"no gradient reaches {some}.weight, {some}.bias \(2 of "):
        asked(lambda: Net(way))


@pytest.mark.parametrize("way", ["whole", "frozen"])
def test_nothing_is_told_of_what_is_reached_or_frozen_by_name(way: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*no gradient reaches")
        asked(lambda: Net(way))


@pytest.mark.parametrize("module", [lambda: nn.Linear(4, 2).requires_grad_(False), nn.Flatten])
def test_a_module_without_anything_to_train_is_refused(module: Any) -> None:
    with pytest.raises(
        ModelError, match=r"(?s)none of its parameters is to be trained.*requires_grad_\(True\)"
    ):
        asked(module)
