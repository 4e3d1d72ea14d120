"""A client that leaves the model otherwise than it was lent is named right away, with what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import fedfm
from fedfm.core.errors import FedfmError
from fedfm.core.message import Message

WAYS: dict[str, Callable[[Any, Any, Any], object]] = {
    "plain": lambda opt, module, bound: opt.zero_grad(),
    "kept": lambda opt, module, bound: opt.zero_grad(set_to_none=False),
    "data": lambda opt, module, bound: setattr(module.weight, "data", module.weight.data.clone()),
}


@dataclass(frozen=True)
class Tutorial(fedfm.Client):
    """Steps as a tutorial of torch writes them."""

    way: str = "plain"

    def steps_for(self, rows: int) -> int:
        return 1

    def work(self, brief: Message, data: Any, state: Any, ctx: Any, bound: Any) -> Any:
        bound.load(brief.x)
        opt = torch.optim.SGD(bound.module.parameters(), lr=0.1)
        x, y = bound.batch(data, torch.arange(len(data)))
        if self.way == "gradient":
            bound.gradient((x, y))
        else:
            WAYS[self.way](opt, bound.module, bound)
            functional.cross_entropy(bound.module(x), y).backward()
        opt.step()
        return Message(
            x=bound.read() - brief.x, kind="delta", mass=float(len(data)), sender=ctx.client
        ), state


def run(way: str, tmp_path: Any) -> Any:
    rows = np.random.default_rng(0).normal(size=(8, 4)).astype("float32"), np.arange(8) % 2
    data = fedfm.Arrays({"a": rows, "b": rows}, test=rows)
    fed = fedfm.Federation(task=fedfm.Torch(lambda: nn.Linear(4, 2)), data=data, client=Tutorial(way))
    return fedfm.run(fed, rounds=1, out=tmp_path / way)


@pytest.mark.parametrize(("way", "fix"), [("plain", r"zero_grad\(set_to_none=False\)"), ("data", "p.copy_")])
def test_the_client_is_named_with_what_to_write(way: str, fix: str, tmp_path: Any) -> None:
    with pytest.raises(FedfmError, match=f"(?s)client: Tutorial leaves the model.*flat buffer.*fix: .*{fix}"):
        run(way, tmp_path)


def test_what_the_fix_says_works(tmp_path: Any) -> None:
    one, other = run("kept", tmp_path), run("gradient", tmp_path)
    assert one.metric["federated"] == other.metric["federated"]


class Late(nn.Module):
    """Sets itself from the first rows that it sees, by `.data`."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.last, self.done = nn.Parameter(torch.zeros(4)), nn.Linear(4, 2), False

    def forward(self, x: torch.Tensor) -> Any:
        if not self.done:
            self.shift.data, self.done = -x.mean(0).detach(), True
        return self.last(x + self.shift)


def test_a_module_that_makes_itself_in_forward_is_told_where_it_belongs(tmp_path: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(8, 4)).astype("float32"), np.arange(8) % 2
    fed = fedfm.Federation(task=fedfm.Torch(Late), data=fedfm.Arrays({"a": rows, "b": rows}, test=rows))
    with pytest.raises(FedfmError, match=r"(?s)tensor 'shift' .*fix: .*belongs into its __init__"):
        fedfm.run(fed, rounds=1, out=tmp_path)
