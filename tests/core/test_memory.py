"""What a worker process holds of its own: not the frozen base, which all workers share."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedfm.core.loop import Run
from fedfm.efficiency.training.local import Local
from fedfm.laws.homes import quadratics
from fedfm.tasks.bound import BoundModule, Objective
from fedfm.tasks.quadratic import Quadratic, Quadratics

BASE_MB = 512


class Wide(nn.Module):
    """A frozen base of 512 MB and one trainable number."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Parameter(torch.full((BASE_MB << 18,), 1e-9), requires_grad=False)
        self.x = nn.Parameter(torch.zeros(1))


class ReadsAll(Objective):
    primary, higher_is_better = "loss", False

    def batch(self, encoded: Any, index: Tensor, device: torch.device) -> Any:
        return None

    def loss(self, module: nn.Module, batch: Any) -> Tensor:
        return (module.get_parameter("x") - module.get_parameter("base").sum()).pow(2).sum()

    def score(self, module: nn.Module, encoded: Any, device: torch.device) -> dict[str, tuple[float, int]]:
        return {"loss": (float(self.loss(module, None)), 1)}


@dataclass(frozen=True)
class Heavy(Quadratic):
    def open(self, data: Any, device: str = "cpu") -> BoundModule:
        return BoundModule(Wide(), ReadsAll(), device=device)


def private_mb(pid: int) -> float:
    """What this process shares with no other."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(kb) for kb in re.findall(r"^Private_\w+:\s+(\d+) kB", text, flags=re.M)) / 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells which pages are shared")
def test_workers_share_the_frozen_base(drive: Any) -> None:
    """Both workers read all of the base in every step, and neither has a copy."""
    held: list[float] = []

    def around(run: Run) -> None:
        workers = [w.process.pid for w in run.engine._pool]  # type: ignore[attr-defined]
        run.tick = lambda done, planned: held.extend(map(private_mb, workers))

    data = Quadratics(a=(1.0,) * 4, b=(1.0,) * 4)
    fed = quadratics(task=Heavy(), data=data, client=Local(lr=0.1, steps=2, batch=1), rounds=2)
    played = drive(fed, workers=2, around=around)
    assert not played.failed and len(held) == 16
    assert max(held) < BASE_MB / 2, held
