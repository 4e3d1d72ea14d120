"""What a round made is gone when it ends: nothing waits for Python's collector of cycles, which the command line calls rarely."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch

import fedfm
from fedfm.core.federation import Federation
from fedfm.efficiency.training.local import Local
from fedfm.incentives.contribution.datainf import DataInf
from fedfm.tasks.quadratic import Quadratic, Quadratics
from fedfm.trust.robustness.rule.krum import Krum

DIM = 3001
SLOTS: dict[str, dict[str, Any]] = {
    "sum": {},
    "single messages": {"aggregate": Krum(f=1)},
    "values": {"value": DataInf()},
}


def large() -> int:
    """The vectors of the model's length that are alive."""
    kinds = (torch.Tensor, torch.nn.Parameter)  # a lazy parameter of another test tells no size
    return sum(type(o) in kinds and o.numel() >= DIM for o in gc.get_objects())


@pytest.mark.sampled(3)
@pytest.mark.parametrize("slots", SLOTS.values(), ids=SLOTS)
def test_a_round_leaves_no_vector_behind(slots: dict[str, Any], tmp_path: Path) -> None:
    parties = 6
    data = Quadratics(a=(1.0,) * parties, b=tuple(map(float, range(parties))), server_rows=2)
    fed = Federation(Quadratic(DIM), data, client=Local(lr=0.1, steps=1, batch=0), rounds=8, **slots)
    alive: list[int] = []
    gc.collect()
    gc.disable()
    try:
        fedfm.run(fed, out=tmp_path / "run", baselines="none", callbacks=lambda _: alive.append(large()))
    finally:
        gc.enable()
    assert alive[2] == alive[-1], alive
