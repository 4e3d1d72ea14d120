"""`exit()` in somebody's code is a bug of that code: it ends the run by its name and line, never the process in silence."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedfm.core.errors import ConfigError, MethodFault
from fedfm.core.federation import Federation
from fedfm.data.arrays import Arrays
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.servers import Apply
from fedfm.running.entry import run
from fedfm.tasks.own.module import Torch


def drawn(seed: int, n: int = 40) -> tuple[Any, Any]:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return x.numpy(), (x[:, 0] > x[:, 1]).long().numpy()


class Leaves(nn.Linear):
    """Exits at batches of training rows, or at any."""

    def __init__(self, always: bool = False):
        super().__init__(4, 2)
        self.always = always

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.always or (self.training and len(x) == 16):
            sys.exit(0)
        return super().forward(x)


def trained(folder: Path, module: Any, engine: str = "inprocess", **slots: Any) -> Any:
    rows = Arrays({f"p{i}": drawn(i) for i in range(2)}, drawn(9))
    fed = Federation(task=Torch(module), data=rows, client=Local(lr=0.1, steps=2, batch=16), **slots)
    return run(fed, rounds=1, out=folder, engine=engine)


@pytest.mark.parametrize("engine", ["inprocess", "processes"])
def test_in_a_session(engine: str, tmp_path: Path) -> None:
    with pytest.raises(MethodFault, match=r"train of p[01]: SystemExit: 0\n.*test_exits\.py:\d+, in forward"):
        trained(tmp_path / "run", Leaves, engine)


@dataclass(frozen=True)
class Leaving(Apply):
    def step(self, *given: Any, **named: Any) -> Any:
        sys.exit("done")


def test_at_the_server(tmp_path: Path) -> None:
    with pytest.raises(MethodFault, match="server: Leaving raised SystemExit: done"):
        trained(tmp_path / "run", nn.Linear(4, 2), server=Leaving())


def test_before_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the model fails on a few real rows: SystemExit: 0"):
        trained(tmp_path / "run", lambda: Leaves(always=True))


class Exhausts(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(next(iter([x] * (len(x) != 16 or not self.training))))


def test_an_iterator_that_is_exhausted_is_named_by_the_line_that_asked_it(tmp_path: Path) -> None:
    with pytest.raises(MethodFault, match=r"StopIteration\n.*test_exits\.py:\d+, in forward"):
        trained(tmp_path / "run", lambda: Exhausts(4, 2))
