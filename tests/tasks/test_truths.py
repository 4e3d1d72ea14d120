"""Targets that are true or false, with a loss of one's own: numbers like others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import fedfm


def _loss(module: Any, batch: Any) -> torch.Tensor:
    return nn.functional.binary_cross_entropy_with_logits(module(batch[0])[:, 0], batch[1].float())


def test_they_are_no_fault_of_the_module(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    rows = {p: (draw.normal(size=(24, 3)).astype("float32"), draw.random(24) > 0.5) for p in "ab"}
    fed = fedfm.Federation(task=fedfm.Torch(lambda: nn.Linear(3, 1), loss=_loss), data=fedfm.Arrays(rows))
    ran = fedfm.run(fed, rounds=1, engine="inprocess", baselines="none", out=tmp_path / "run")
    assert ran.summary["metrics"]["loss"] > 0
