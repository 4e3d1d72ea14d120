"""The folder of a tuned module holds all that was learnt: read into its class it scores as the run told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import fedfm
from fedfm.core.errors import FedfmError, ModelError


class Centred(nn.Module):
    """Keeps a running mean of its inputs."""

    def __init__(self, persistent: bool = True, alias: bool = False) -> None:
        super().__init__()
        self.f = nn.Linear(4, 2)
        self.register_buffer("mu", torch.zeros(4), persistent=persistent)
        self.seen = [self.mu] if alias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mu: Any = self.mu if self.seen is None else self.seen[0]
        if self.training:
            with torch.no_grad():
                mu.mul_(0.5).add_(x.mean(0), alpha=0.5)
        out: torch.Tensor = self.f(x - mu)
        return out


class Nested(nn.Module):
    def __init__(self, persistent: bool = True) -> None:
        super().__init__()
        self.inner = nn.Sequential(Centred(persistent))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner(x)
        return out


class Hooked(Centred):
    """Leaves one of its weights out of what it saves."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return {k: v for k, v in super().state_dict(*args, **kwargs).items() if k != "f.bias"}


def _rows(seed: int, n: int = 40) -> Any:
    x = np.random.default_rng(seed).normal(size=(n, 4)).astype("float32")
    return x + 2, (x[:, 0] > x[:, 1]).astype("int64")


def _fed(module: Any, **more: Any) -> fedfm.Federation:
    data = fedfm.Arrays({f"c{i}": _rows(i) for i in range(3)}, test=_rows(9, 200))
    client = fedfm.Local(lr=0.1, steps=5, batch=8)
    return fedfm.Federation(
        task=fedfm.Torch(module, **more), data=data, client=client, engine=fedfm.InProcess()
    )


@pytest.mark.parametrize(
    ("module", "buffers", "fix"),
    [
        (
            lambda: Centred(persistent=False),
            ("mu",),
            "register_buffer('mu', ..., persistent=True) in Centred",
        ),
        (Centred(persistent=False), ("mu",), "register_buffer('mu', ..., persistent=True) in Centred"),
        (lambda: Nested(persistent=False), ("inner.0.mu",), "register_buffer('mu', ..., persistent=True) in"),
        (Hooked, ("mu",), "let the state_dict of Hooked hold it under this name"),
    ],
)
def test_what_is_learnt_and_would_not_be_saved_is_refused(module: Any, buffers: Any, fix: str) -> None:
    with pytest.raises(ModelError, match=re.escape(fix)) as e:
        fedfm.probe(_fed(module, buffers=buffers))
    assert "would not be saved" in str(e.value)


def test_an_undeclared_one_is_told_both_things_at_once() -> None:
    with pytest.raises(FedfmError, match=r"persistent=True.*buffers=\(NAME,\)"):
        fedfm.probe(_fed(lambda: Centred(persistent=False)))


@pytest.mark.parametrize(
    ("make", "name"),
    [(Centred, "mu"), (lambda: Centred(alias=True), "mu"), (Nested, "inner.0.mu")],
    ids=["own", "alias", "nested"],
)
@pytest.mark.parametrize("resumed", [False, True], ids=["whole", "resumed"])
def test_a_declared_one_comes_back_with_the_score_that_was_told(
    make: Any, name: str, resumed: bool, tmp_path: Path
) -> None:
    fed = _fed(make, buffers=(name,))
    run = fedfm.run(fed, rounds=1 if resumed else 3, out=tmp_path / "run", baselines="none")
    run = fedfm.resume(tmp_path / "run", fed, rounds=3) if resumed else run
    again = make()
    again.load_state_dict(load_file(tmp_path / "run" / "model" / "model.safetensors"))
    x, y = _rows(9, 200)
    with torch.no_grad():
        right = (again.eval()(torch.tensor(x)).argmax(1) == torch.tensor(y)).double().mean()
    assert float(right) == pytest.approx(run.metric["federated"])
    assert float(dict(again.named_buffers())[name].mean()) > 1.0
