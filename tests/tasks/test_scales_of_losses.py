"""Probabilities where a loss of torch reads scores, raw outputs where it reads logarithms: refused, or said first."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fedfm
from fedfm.core.errors import ConfigError


def net(*last: nn.Module, outputs: int = 1) -> Any:
    return lambda: nn.Sequential(nn.Linear(4, outputs), *last)


def told(module: Any, loss: Any, kind: str = "i8") -> list[str]:
    def rows(seed: int) -> Any:
        x = np.random.default_rng(seed).normal(size=(40, 4)).astype("float32")
        return x, (x[:, 0] > x[:, 1]).astype(kind)

    data = fedfm.Arrays({"a": rows(0), "b": rows(1)}, test=rows(2))
    client = fedfm.Local(lr=0.1, steps=2, batch=8)
    federation = fedfm.Federation(task=fedfm.Torch(module, loss=loss), data=data, client=client)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        said = fedfm.probe(federation).remarks
    return [*said, *(str(w.message) for w in heard)]


BCE = F.binary_cross_entropy_with_logits
FLAT = nn.Flatten(0)


@pytest.mark.parametrize("loss", [nn.BCEWithLogitsLoss(), BCE])
@pytest.mark.parametrize(
    "last", [(nn.Sigmoid(), FLAT), (FLAT, nn.Hardsigmoid()), (nn.Softmax(1), FLAT)], ids=str
)
def test_a_second_sigmoid_is_refused(loss: Any, last: Any) -> None:
    with pytest.raises(ConfigError, match=r"reads scores, and is given probabilities[\s\S]*BCELoss\(\)"):
        told(net(*last), loss, "f4")


OWN: dict[str, tuple[Any, Any, str]] = {
    "sigmoid": (
        net(nn.Sigmoid(), FLAT),
        lambda m, b: BCE(m(b[0]), b[1].float()),
        "binary_cross_entropy_with_logits",
    ),
    "softmax": (
        net(nn.Softmax(1), outputs=2),
        lambda m, b: F.cross_entropy(m(b[0]), b[1]),
        "cross_entropy reads",
    ),
    "its softmax": (
        net(outputs=2),
        lambda m, b: nn.CrossEntropyLoss()(m(b[0]).softmax(1), b[1]),
        "cross_entropy reads",
    ),
    "logarithms": (
        net(nn.LogSoftmax(1), outputs=2),
        lambda m, b: BCE(m(b[0]), F.one_hot(b[1], 2).float()),
        "binary_cross_entropy_with_logits reads",
    ),
    "raw": (
        net(outputs=2),
        lambda m, b: F.nll_loss(m(b[0]), b[1]),
        "nll_loss reads log-probabilities, and is given other",
    ),
    "raw kl": (
        net(outputs=2),
        lambda m, b: F.kl_div(m(b[0]), F.one_hot(b[1], 2).float(), reduction="batchmean"),
        "kl_div reads",
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_in_a_loss_of_ones_own_it_is_said_first(name: str) -> None:
    module, loss, words = OWN[name]
    assert any(words in s for s in told(module, loss))


def test_two_sigmoid_outputs_under_the_cross_entropy_are_said_first() -> None:
    assert any("cross_entropy reads scores" in s for s in told(net(nn.Sigmoid(), outputs=2), None))


RIGHT: dict[str, tuple[Any, Any, str]] = {
    "scores": (net(FLAT), nn.BCEWithLogitsLoss(), "f4"),
    "probabilities": (net(nn.Sigmoid(), FLAT), nn.BCELoss(), "f4"),
    "classes": (net(outputs=2), None, "i8"),
    "logarithms": (net(nn.LogSoftmax(1), outputs=2), lambda m, b: F.nll_loss(m(b[0]), b[1]), "i8"),
    "logarithms crossed": (net(nn.LogSoftmax(1), outputs=2), None, "i8"),
    "own": (net(outputs=2), lambda m, b: F.cross_entropy(m(b[0]), b[1]), "i8"),
    "compiled": (
        lambda: torch.compile(nn.Sequential(nn.Linear(4, 2)), backend="eager"),
        lambda m, b: F.cross_entropy(m(b[0]), b[1]),
        "i8",
    ),
    "near": (lambda: low(0.5), nn.BCEWithLogitsLoss(), "f4"),
    "rare": (lambda: low(-4.6), nn.BCEWithLogitsLoss(), "f4"),
}


def low(bias: float) -> nn.Module:
    """Outputs that all begin at one value."""
    made = nn.Sequential(nn.Linear(4, 1), FLAT)
    nn.init.constant_(made[0].bias, bias)  # type: ignore[arg-type]
    made[0].weight.data.mul_(0.01)  # type: ignore[operator]
    return made


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_on_the_scale_goes_on_without_a_word(name: str) -> None:
    assert not any("task.loss" in s for s in told(*RIGHT[name]))
