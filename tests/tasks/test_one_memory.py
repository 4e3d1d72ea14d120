"""Tensors of an own module on one memory, and functions that give one module again: refused, or worked on as a copy."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fedfm
from fedfm.core.errors import ModelError


class Tied(nn.Module):
    """An embedding, and a head that is tied to it in some way."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.emb, self.head = nn.Embedding(12, 12), nn.Linear(12, 12, bias=False)
        TIES.get(how, lambda net: None)(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.emb(x))  # type: ignore[no-any-return]


def on_data(net: Any) -> None:
    net.head.weight.data = net.emb.weight.data


def on_a_slice(net: Any) -> None:
    net.more = nn.Parameter(net.emb.weight.data[2:5, 3:9])


def attributed(net: Any) -> None:
    net.table = net.emb.weight.data


def itself(net: Any) -> None:
    net.head.weight = net.emb.weight


def on_a_flat_buffer(net: Any) -> None:
    flat = torch.randn(288)
    net.emb.weight.data, net.head.weight.data = flat[:144].view(12, 12), flat[144:].view(12, 12)


def on_columns(net: Any) -> None:
    both = torch.randn(12, 24)
    net.emb.weight.data, net.head.weight.data = both[:, :12], both[:, 12:]


def anew(change: Any, **more: Any) -> Any:
    def tie(net: Any) -> None:
        net.head.weight = nn.Parameter(change(net.emb.weight.data), **more)

    return tie


TIES: dict[str, Any] = {
    "data": on_data,
    "parameter": anew(lambda w: w),
    "view": anew(lambda w: w.view(12, 12)[:]),
    "transposed": anew(lambda w: w.t()),
    "slice": on_a_slice,
    "frozen": anew(lambda w: w, requires_grad=False),
    "buffer": lambda net: net.register_buffer("table", net.emb.weight.data),
    "attribute": attributed,
    "same": itself,
    "flat": on_a_flat_buffer,
    "columns": on_columns,
    "spectral": lambda net: nn.utils.spectral_norm(net.head),
}
X = np.arange(12)
DATA = fedfm.Arrays({"a": (X, (X * 5 + 1) % 12), "b": (X, (X * 5 + 1) % 12)}, test=(X, (X * 5 + 1) % 12))


def fed(module: Any) -> fedfm.Federation:
    client = fedfm.Local(lr=0.5, steps=5, batch=8)
    return fedfm.Federation(task=fedfm.Torch(module), data=DATA, client=client, engine=fedfm.InProcess())


@pytest.mark.parametrize(
    "how", ["data", "parameter", "view", "transposed", "slice", "frozen", "buffer", "attribute"]
)
@pytest.mark.parametrize("given", ["function", "object"])
def test_two_tensors_on_one_memory_are_refused(how: str, given: str) -> None:
    module: Any = functools.partial(Tied, how) if given == "function" else Tied(how)
    with pytest.raises(ModelError, match="two tensors on one memory") as e:
        fedfm.probe(fed(module))
    same = how not in ("transposed", "slice")
    assert ("without .data" if same else "compute the other of it in forward") in str(e.value)


@pytest.mark.parametrize("how", ["none", "same", "flat", "columns", "spectral"])
def test_a_parameter_used_twice_and_parts_of_one_buffer_go_on(how: str) -> None:
    for module in (lambda: Tied(how), Tied(how)):
        bound = fed(module).task.open(DATA.open(0))
        assert len(bound.layout.entries) == (1 if how == "same" else 2)


def test_a_constant_of_all_that_a_function_makes_is_no_second_one() -> None:
    mask = torch.ones(12)

    def make() -> nn.Module:
        net = Tied("none")
        net.register_buffer("mask", mask)
        return net

    for _ in range(2):
        assert fed(make).task.open(DATA.open(0)).layout.entries


def test_packaged_models_with_tied_heads_go_on() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    net = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=1, n_positions=8))
    assert fedfm.Torch(net).open(DATA.open(0)).layout.entries


NET = Tied("none")


@pytest.mark.parametrize(
    "function",
    [lambda: NET, lambda: nn.Sequential(NET.emb, nn.Linear(12, 12)), functools.partial(copy.copy, NET)],
    ids=["the module", "a part of it", "another shell"],
)
def test_a_module_that_was_there_before_stays_as_it_is(function: Any, tmp_path: Any) -> None:
    before = copy.deepcopy(NET.state_dict())
    federation = fed(function)
    fedfm.probe(federation)
    told = [fedfm.run(federation, rounds=2, out=tmp_path / str(i)).metric for i in range(2)]
    assert told[0]["base"] == told[1]["base"] and told[0]["federated"] == told[1]["federated"]
    assert all(torch.equal(v, NET.state_dict()[k]) for k, v in before.items())


def test_a_function_that_keeps_what_it_made_is_refused_the_second_time() -> None:
    cached = functools.cache(lambda: Tied("none"))
    data = DATA.open(0)
    fed(cached).task.open(data)
    with pytest.raises(ModelError, match=r"a second time[\s\S]*fix: a function that makes the module anew"):
        fed(cached).task.open(data)


def test_a_module_made_anew_is_not_copied() -> None:
    made: list[nn.Module] = []

    def make() -> nn.Module:
        made.append(Tied("none"))
        return made[-1]

    assert fed(make).task.open(DATA.open(0)).module is made[0]


def test_lazy_layers_are_told_a_call_that_leaves_statistics_alone() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Linear(4, 2))

    with pytest.raises(ModelError, match=r"net\.eval\(\); net\(x\); net\.train\(\)"):
        fed(make).task.open(DATA.open(0))
    net = make()
    net.eval()
    net(torch.zeros(1, 3))
    assert fed(net.train()).task.open(DATA.open(0)).layout.entries
