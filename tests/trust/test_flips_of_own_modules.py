"""Labels of a module of one's own are flipped where they are whole numbers; other targets are refused with that reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import fedfm
from fedfm.core.errors import ConfigError

X = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
SIDE = (X[:, 0] > X[:, 1]).astype(np.int64)


def by_hand(module: Any, batch: Any) -> torch.Tensor:
    return functional.cross_entropy(module(batch[0]), batch[1].long())


def fed(y: Any, attack: fedfm.LabelFlip, loss: Any = None, out: int = 2) -> fedfm.Federation:
    data = fedfm.Arrays({"a": (X[:20], y[:20]), "b": (X[20:], y[20:])}, test=(X, y))
    task = fedfm.Torch(
        lambda: torch.nn.Linear(2, out), loss=loss, scores={"right": right} if out == 2 else None
    )
    return fedfm.Federation(
        task=task, data=data, client=fedfm.Local(lr=1.0, steps=10, batch=0), adversary=attack
    )


def right(module: Any, batch: Any) -> torch.Tensor:
    found: torch.Tensor = module(batch[0]).argmax(-1) == batch[1].long()
    return found


@pytest.mark.filterwarnings("ignore:fedfm")
@pytest.mark.parametrize(
    ("y", "attack", "loss"),
    [
        (np.array(["down", "up"])[SIDE], fedfm.LabelFlip(count=2), None),
        (SIDE, fedfm.LabelFlip(count=2, classes=2), None),
        (SIDE.astype(np.uint8), fedfm.LabelFlip(count=2, classes=2), by_hand),
    ],
    ids=["names", "numbers", "bytes"],
)
def test_who_learns_from_flipped_labels_alone_is_wrong(
    y: Any, attack: Any, loss: Any, tmp_path: Path
) -> None:
    assert fedfm.run(fed(y, attack, loss), rounds=2, out=tmp_path / "run").metric["federated"] < 0.2


@pytest.mark.parametrize(
    ("y", "attack", "why"),
    [
        (SIDE, fedfm.LabelFlip(count=2), "adversary.classes=NUMBER, where its labels are whole numbers"),
        (SIDE, fedfm.LabelFlip(count=2, classes=1), "holds label 1, which 1 classes"),
        (X.sum(1)[:, None], fedfm.LabelFlip(count=2, classes=2), "its targets are no class numbers"),
        (X.sum(1)[:, None], fedfm.LabelFlip(count=2, mapping="pair"), "its targets are no class numbers"),
    ],
)
def test_what_cannot_be_flipped_is_refused_with_its_reason(
    y: Any, attack: Any, why: str, tmp_path: Path
) -> None:
    loss, out = (functional.mse_loss, 1) if y.ndim == 2 else (None, 2)
    with pytest.raises(ConfigError, match=re.escape(why)):
        fedfm.run(fed(y, attack, loss, out), rounds=1, out=tmp_path / "run")
