"""A step leaves nothing behind but its gradient, and draws from torch alone; losses learn nothing of their own."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fedfm
from fedfm.core.errors import ConfigError, MachineFault

GENERATOR = np.random.default_rng(1)
CENTRES = nn.Parameter(torch.zeros(2))


def points(seed: int, n: int) -> tuple[Any, Any]:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return x.numpy(), (x[:, 0] > x[:, 1]).long().numpy()


def fed(task: Any, test: Any = None, **slots: Any) -> fedfm.Federation:
    data = fedfm.Arrays({f"c{i}": points(i, 40) for i in range(2)}, test=test or points(9, 200))
    return fedfm.Federation(
        task=task, data=data, client=fedfm.Local(lr=0.1, steps=6, batch=16), rounds=2, **slots
    )


class Noisy(nn.Linear):
    """In training it adds noise to its input."""

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        super().__init__(4, 2)
        self.draw = draw

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            x = x + 0.3 * torch.as_tensor(self.draw(x.shape), dtype=x.dtype)
        return super().forward(x)


class Annealed(nn.Linear):
    """A number that falls from step to step."""

    def __init__(self) -> None:
        super().__init__(4, 2)
        self.heat = 5.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.heat = max(0.5, self.heat * 0.97)
            return super().forward(x) / self.heat
        return super().forward(x)


class Teacher(nn.Module):
    """Evaluation reads a frozen mean of the weights, which training writes."""

    def __init__(self, data: bool = False) -> None:
        super().__init__()
        self.s, self.t, self.data = nn.Linear(4, 2), nn.Linear(4, 2), data
        self.t.load_state_dict(self.s.state_dict())
        self.t.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return self.t(x)  # type: ignore[no-any-return]
        with torch.no_grad():
            for a, b in zip(self.t.parameters(), self.s.parameters(), strict=True):
                (a.data if self.data else a).mul_(0.9).add_(b, alpha=0.1)
        return self.s(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("module", "what"),
    [
        (lambda: Noisy(lambda shape: np.random.randn(*shape)), "draws from numpy.random"),  # noqa: NPY002
        (lambda: Noisy(lambda shape: [random.random() for _ in range(shape[1])]), "draws from Python's random"),
        (lambda: Noisy(GENERATOR.standard_normal), "the same step taken again is another step"),
        (Annealed, "the same step taken again is another step"),
        (Teacher, "forward pass changes t.weight"),
        (lambda: Teacher(data=True), r"a step changes frozen parameters \(t.weight"),
    ],
)  # fmt: skip
def test_what_other_processes_would_not_have(module: Any, what: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=what):
        fedfm.run(fed(fedfm.Torch(module)), out=tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_what_is_declared_or_drawn_from_torch_is_the_same_in_every_engine(tmp_path: Path) -> None:
    declared = fedfm.Torch(Teacher, buffers=("t.weight", "t.bias"))
    for name, task in {"teacher": declared, "noise": fedfm.Torch(lambda: Noisy(torch.randn))}.items():
        found = {
            fedfm.run(fed(task), out=tmp_path / f"{name}-{engine}", engine=engine).summary["model_digest"]
            for engine in ("inprocess", "processes")
        }
        assert len(found) == 1


class Warm(nn.Module):
    """A loss with a temperature that it would learn."""

    def __init__(self) -> None:
        super().__init__()
        self.heat = nn.Parameter(torch.tensor(0.0))

    def forward(self, out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(out * self.heat.exp(), y, reduction="none")


class Falling(nn.Module):
    """A loss with a running mean."""

    run: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("run", torch.tensor(1.0))

    def forward(self, out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        each = F.cross_entropy(out, y, reduction="none")
        if out.requires_grad:
            self.run.mul_(0.9).add_(0.1 * each.detach().mean())
            return each / self.run
        return each


WARM = Warm()


def centred(centres: Any, module: Any, batch: Any) -> Any:
    return F.cross_entropy(module(batch[0]) + centres, batch[1], reduction="none")


@pytest.mark.parametrize(
    ("loss", "what"),
    [
        (Warm(), "learns parameters of its own: heat"),
        (lambda m, b: WARM(m(b[0]), b[1]), "learns parameters of its own: WARM.heat"),
        (lambda m, b: centred(CENTRES, m, b), "learns parameters of its own: CENTRES"),
        (functools.partial(centred, CENTRES), "learns parameters of its own: argument"),
        (Falling(), "the same step taken again is another step"),
    ],
)
def test_a_loss_with_something_of_its_own(loss: Any, what: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=what):
        fedfm.run(fed(fedfm.Torch(lambda: nn.Linear(4, 2), loss=loss)), out=tmp_path / "run")


def test_a_teacher_that_gives_no_gradient_is_nobody_s_to_train(tmp_path: Path) -> None:
    teacher = nn.Linear(4, 2)

    def distilled(module: Any, batch: Any) -> Any:
        with torch.no_grad():
            wanted = teacher(batch[0]).softmax(1)
        return F.cross_entropy(module(batch[0]), wanted, reduction="none")

    task = fedfm.Torch(lambda: nn.Linear(4, 2), loss=distilled)
    assert fedfm.run(fed(task), out=tmp_path / "run").status == "finished"


def test_memory_that_is_full_is_the_machine_s(tmp_path: Path) -> None:
    for error in (MemoryError("12 GB"), torch.OutOfMemoryError("tried to allocate 12 GB")):

        def full(module: Any, batch: Any, error: BaseException = error) -> Any:
            raise error

        task = fedfm.Torch(lambda: nn.Linear(4, 2), loss=full)
        with pytest.raises(MachineFault, match=r"(?s)the memory is full.*12 GB.*fix: a smaller model"):
            fedfm.run(fed(task), out=tmp_path / "run")
