"""Targets and outputs that the cross-entropy cannot read are told the line that mends them; it does."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import fedfm
from fedfm.core.errors import ConfigError

X = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")


def fed(y: Any, outputs: int = 2, *last: nn.Module, loss: Any = None) -> fedfm.Federation:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(4, outputs), *last)

    data = fedfm.Arrays({"a": (X, y), "b": (X[::-1].copy(), y[::-1].copy())})
    return fedfm.Federation(
        task=fedfm.Torch(make, loss=loss), data=data, client=fedfm.Local(steps=2, batch=4)
    )


@pytest.mark.parametrize("kind", ["f4", "i8", "u1", "?"])
def test_one_hot_rows_are_told_to_be_numbers(kind: str) -> None:
    hot = np.eye(2)[Y].astype(kind)
    with pytest.raises(ConfigError, match=r"a single 1 in each row[\s\S]*y\.argmax\(1\)"):
        fedfm.probe(fed(hot))
    fedfm.probe(fed(hot.argmax(1)))


def test_several_labels_a_row_are_not_one_hot() -> None:
    several = np.stack([Y, 1 - Y, np.ones_like(Y)], 1)
    with pytest.raises(ConfigError, match="have the shape") as e:
        fedfm.probe(fed(several, 3))
    assert "argmax" not in str(e.value) and "BCEWithLogitsLoss" in str(e.value)


@pytest.mark.parametrize("last", [(nn.Flatten(0),), ()], ids=["(n,)", "(n, 1)"])
def test_one_output_for_two_classes_is_told_its_loss(last: Any) -> None:
    with pytest.raises(ConfigError, match=r"loss=torch\.nn\.BCEWithLogitsLoss\(\), or two outputs"):
        fedfm.probe(fed(Y, 1, *last))
    fedfm.probe(fed(Y, 1, nn.Flatten(0), loss=nn.BCEWithLogitsLoss()))
    fedfm.probe(fed(Y, 2))


class Parted(nn.Module):
    """A class that compiles a part of itself, or none."""

    def __init__(self, how: str = "") -> None:
        super().__init__()
        self.net: Any = nn.Sequential(nn.Linear(4, 2))
        if how == "wrapped":
            self.net = torch.compile(self.net, backend="eager")
        elif how == "in place":
            self.net.compile(backend="eager")

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("how", ["wrapped", "in place", "whole", "plain"])
def test_names_of_a_compiled_part_are_told_with_the_line_that_reads_them(how: str, tmp_path: Path) -> None:
    whole = how == "whole"
    task = fedfm.Torch(lambda: torch.compile(Parted(), backend="eager") if whole else Parted(how))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        bound = task.open(fedfm.Arrays({"a": (X, Y)}).open(0))
    said = [str(w.message) for w in heard if "compiles a part" in str(w.message)]
    assert len(said) == (how == "wrapped")
    bound.objective.save(bound.module, str(tmp_path))
    state = load_file(tmp_path / "model.safetensors")
    if said:
        Parted(how).load_state_dict(state)
        assert "{n.replace('_orig_mod.', ''): t for n, t in state.items()}" in said[0]
        state = {n.replace("_orig_mod.", ""): t for n, t in state.items()}
    Parted().load_state_dict(state)
