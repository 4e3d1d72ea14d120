"""What a function closes over, a global that it names, and what an object holds are a part of what a run is of."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fedfm
from fedfm.config.marker import marker
from fedfm.core.errors import ResumeError
from fedfm.core.federation import Federation
from fedfm.data.arrays import Arrays
from fedfm.efficiency.training.local import Local
from fedfm.tasks.own.module import Torch

SCALE = {"of": 1.0}


class Net(nn.Module):
    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        self.stack = nn.Sequential(nn.Linear(4, 8), nn.Dropout(p), nn.Linear(8, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.stack(x)
        return out


class Weighted:
    def __init__(self, by: float):
        self.by = by

    def __call__(self, module: Any, batch: Any) -> torch.Tensor:
        return self.by * F.cross_entropy(module(batch[0]), batch[1])


def closed(by: float) -> Any:
    return lambda module, batch: by * F.cross_entropy(module(batch[0]), batch[1])


def by_global(by: float) -> Any:
    SCALE["of"] = by
    return lambda module, batch: SCALE["of"] * F.cross_entropy(module(batch[0]), batch[1])


def signed(by: float) -> Any:
    if by > 0:
        return lambda module, batch: +F.cross_entropy(module(batch[0]), batch[1])
    return lambda module, batch: -F.cross_entropy(module(batch[0]), batch[1])


def inner(by: float) -> type[nn.Module]:
    class Inner(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return by * super().forward(x)

    return Inner


TASKS: dict[str, Callable[[float], Torch]] = {
    "closure": lambda by: Torch(Net, loss=closed(by)),
    "global": lambda by: Torch(Net, loss=by_global(by)),
    "sign": lambda by: Torch(Net, loss=signed(by)),
    "object": lambda by: Torch(Net, loss=Weighted(by)),
    "method": lambda by: Torch(Net, loss=Weighted(by).__call__),
    "partial": lambda by: Torch(Net, loss=functools.partial(Weighted.__call__, Weighted(by))),
    "score": lambda by: Torch(Net, scores={"odd": closed(by)}, higher_is_better=True),
    "torch's": lambda by: Torch(Net, loss=nn.CrossEntropyLoss(label_smoothing=0.5 * (by > 0))),
    "ignored": lambda by: Torch(Net, loss=nn.CrossEntropyLoss(ignore_index=5 if by > 0 else 0)),
    "module": lambda by: Torch(lambda: Net(0.5 * (by > 0))),
    "class": lambda by: Torch(inner(by)),
}


def fed(task: Torch) -> Federation:
    def drawn(seed: int) -> tuple[Any, Any]:
        x = torch.randn(20, 4, generator=torch.Generator().manual_seed(seed))
        return x.numpy(), (x[:, 0] > 0).long().numpy()

    data = Arrays({"a": drawn(0), "b": drawn(1)}, drawn(2))
    return Federation(task, data, client=Local(lr=0.1, steps=1, batch=4), rounds=1)


@pytest.mark.parametrize("name", TASKS)
def test_another_value_is_another_run(name: str, tmp_path: Path) -> None:
    task = TASKS[name]
    first = fedfm.run(fed(task(1.0)), out=tmp_path / "run", engine="inprocess")
    with pytest.raises(ResumeError, match=r"(?s)task\.[a-z.]*digest: was .*what they close over"):
        fedfm.resume(tmp_path / "run", fed(task(-1.0)), rounds=2)
    assert fedfm.resume(tmp_path / "run", fed(task(1.0)), rounds=2).summary["rounds"] == 2
    other = fedfm.run(fed(task(-1.0)), out=tmp_path / "other", engine="inprocess")
    assert first.summary["config_digest"] != other.summary["config_digest"]


def test_what_a_library_gives_has_no_digest_and_a_cycle_ends() -> None:
    assert "digest" not in marker(F.mse_loss) and "digest" not in marker(nn.Linear)
    odd = Weighted(1.0)
    odd.by = odd  # type: ignore[assignment]
    assert marker(odd)["digest"] == marker(odd)["digest"]


def test_the_digest_is_the_same_in_every_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from fedfm.config.marker import marker\nSORTS = {'x', 'y', 'zed', 'w'}\nclass A:\n    def __init__(self):\n"
        "        self.kept = {'q', 'r', 's'}\nprint(marker(A())['digest'])\n"
        "print(marker(lambda m, b: 1 if m in {'q', 'r', 's'} else SORTS)['digest'])\n"
    )
    said = [
        subprocess.run(
            [sys.executable, str(script)],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in "12"
    ]
    assert said[0] == said[1] and len(said[0].split()) == 2
