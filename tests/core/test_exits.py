"""`exit()` in somebody's code is a bug of that code: it ends the run by its name and line, never the process in silence."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedfm.core.errors import ConfigError, MachineFault, MethodFault
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


class Odd(BaseException):
    pass


ENDS: dict[str, BaseException] = {
    "cancelled": asyncio.CancelledError(),
    "closed": GeneratorExit(),
    "own": Odd("odd"),
}


@dataclass(frozen=True)
class Ending(Local):
    how: str = "own"
    since: int = 2

    def work(self, brief: Any, data: Any, state: Any, ctx: Any, bound: Any) -> Any:
        if ctx.round >= self.since:
            if self.how == "process":
                os._exit(0)
            raise KeyboardInterrupt if self.how == "interrupt" else ENDS[self.how]
        return super().work(brief, data, state, ctx, bound)


def ending(folder: Path, engine: str, **more: Any) -> Any:
    rows = Arrays({f"p{i}": drawn(i) for i in range(2)}, drawn(9))
    client = Ending(lr=0.1, steps=2, batch=16, **more)
    fed = Federation(task=Torch(lambda: nn.Linear(4, 2)), data=rows, client=client)
    return run(fed, rounds=3, out=folder, engine=engine, baselines="none")


@pytest.mark.parametrize("engine", ["inprocess", "processes"])
@pytest.mark.parametrize("how", ENDS)
def test_whatever_is_raised_is_told_by_its_party(how: str, engine: str, tmp_path: Path) -> None:
    with pytest.raises(MethodFault, match=rf"train of p[01]: {type(ENDS[how]).__name__}"):
        ending(tmp_path / "run", engine, how=how)


def test_an_interrupt_that_no_person_made_is_a_workers_own(tmp_path: Path) -> None:
    with pytest.raises(MethodFault, match="train of p[01]: KeyboardInterrupt"):
        ending(tmp_path / "run", "processes", how="interrupt")
    with pytest.raises(KeyboardInterrupt):
        ending(tmp_path / "other", "inprocess", how="interrupt")


def test_work_that_ends_its_process_is_named(tmp_path: Path) -> None:
    with pytest.raises(MachineFault, match=r"all worker processes died.* while it worked for p[01]"):
        ending(tmp_path / "late", "processes", how="process")
    with pytest.raises(MachineFault, match="tried model and methods died"):
        ending(tmp_path / "first", "processes", how="process", since=1)
