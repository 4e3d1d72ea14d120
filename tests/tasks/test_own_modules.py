"""Own modules with and without buffers, as a class, a function or an object: checked, run, saved and read by torch alone."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from fedfm.config.setup import Setup
from fedfm.core.errors import ConfigError, FedfmError
from fedfm.core.federation import Federation, replace
from fedfm.data.arrays import Arrays
from fedfm.efficiency.training.local import Local
from fedfm.running.commands.checking import probe
from fedfm.running.entry import run
from fedfm.tasks.own.module import Torch

RNG = np.random.default_rng(1)


def drawn(n: int) -> tuple[Any, Any]:
    x = RNG.normal(size=(n, 4)).astype("float32")
    return x, (x.sum(1) > 0).astype("int64")


TEST = drawn(12)
DATA = Arrays({"a": drawn(20), "b": drawn(16)}, TEST)


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


class Fixed(nn.Module):
    """A buffer that no forward pass changes, and one that is not part of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.net = plain()
        self.register_buffer("shift", torch.tensor([0.5, -0.5]))
        self.register_buffer("cache", torch.zeros(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + self.shift  # type: ignore[no-any-return]


class Counting(nn.Module):
    """A buffer of its own that a forward pass changes in training."""

    def __init__(self) -> None:
        super().__init__()
        self.net = plain()
        self.register_buffer("level", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        if self.training:
            self.level.lerp_(out.detach().mean(0), 0.1)  # type: ignore[operator]
        return out - self.level


class Replacing(Counting):
    """The same, with another tensor each time."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        if self.training:
            self.level = 0.9 * self.level + 0.1 * out.detach().mean(0)
        return out - self.level


class Remembering(nn.Module):
    """State that is no buffer at all."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.steps = plain(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += self.training
        return self.net(x) / (1 + self.steps)  # type: ignore[no-any-return]


class Broken(nn.Module):
    """A layer that does not fit the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


RIGHT = {
    "a function": (plain, None),
    "an object": (plain(), None),
    "a batch norm": (normed, None),
    "an object with a batch norm": (normed(), None),
    "a class with a fixed buffer": (Fixed, None),
    "a declared buffer": (Counting, ("level",)),
}


def fed(module: Any, buffers: Any = None) -> Federation:
    task = Torch(module, buffers=buffers)
    return Federation(task, DATA, client=Local(lr=0.1, steps=3, batch=5), rounds=2)


@pytest.mark.parametrize("name", RIGHT)
def test_one_score_in_the_run_and_by_torch_alone(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    module, buffers = RIGHT[name]
    federation = fed(module, buffers)
    assert probe(Setup(federation)).remarks == []
    metrics = run(federation, out=tmp_path / "run").summary["metrics"]
    again = copy.deepcopy(module) if isinstance(module, nn.Module) else module()
    again.load_state_dict(load_file(tmp_path / "run" / "model" / "model.safetensors"))
    with torch.no_grad():
        logits = again.eval()(torch.tensor(TEST[0]))
    loss = F.cross_entropy(logits, torch.tensor(TEST[1]))
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert metrics["accuracy"] == float((logits.argmax(1) == torch.tensor(TEST[1])).double().mean())


@pytest.mark.parametrize(
    ("module", "buffers", "words"),
    [
        (Replacing, ("level",), r"fix: write it in place: self\.level\.copy_"),
        (Counting, None, "forward pass changes level, which the parameter vector does not hold"),
        (Remembering, None, "keeps something from one step to the next"),
        (
            Broken,
            None,
            "the model fails on a few real rows: RuntimeError: mat1 and mat2 shapes cannot be multiplied",
        ),
    ],
)
def test_what_cannot_be_right_is_refused_before_the_work(
    module: Any, buffers: Any, words: str, tmp_path: Path
) -> None:
    for go in (
        lambda: probe(Setup(fed(module, buffers))),
        lambda: run(fed(module, buffers), out=tmp_path / "run"),
    ):
        with pytest.raises(FedfmError, match=words) as raised:
            go()
        assert "fix: " in str(raised.value)
    if module is Broken:
        assert isinstance(raised.value, ConfigError) and "test_own_modules.py:" in str(raised.value)


LOSSES: dict[str, tuple[Any, str]] = {
    "a float": (lambda m, b: float(F.cross_entropy(m(b[0]), b[1])), "it gives float"),
    "an item": (lambda m, b: F.cross_entropy(m(b[0]), b[1]).item(), "it gives float"),
    "detached": (lambda m, b: F.cross_entropy(m(b[0]), b[1]).detach(), "a tensor without a gradient"),
    "numpy": (lambda m, b: F.cross_entropy(m(b[0]), b[1]).detach().numpy(), "it gives ndarray"),
    "nothing": (lambda m, b: None, "it gives NoneType"),
    "a pair": (lambda m, b: (F.cross_entropy(m(b[0]), b[1]), 1), "it gives tuple"),
    "right": (lambda m, b: F.cross_entropy(m(b[0]), b[1]), ""),
    "each": (lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="none"), ""),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_without_a_gradient_is_refused_before_the_work(name: str, tmp_path: Path) -> None:
    loss, words = LOSSES[name]
    federation = replace(fed(plain), task=Torch(plain, loss=loss))
    if not words:
        assert run(federation, out=tmp_path / "run").status == "finished"
        return
    with pytest.raises(ConfigError, match=words) as raised:
        probe(Setup(federation))
    assert "learns along the gradient" in str(raised.value) and "fix: return a tensor" in str(raised.value)


@pytest.mark.parametrize("kind", ["f4", "i8"])
def test_targets_with_a_second_axis_are_told_how_to_lose_it(kind: str) -> None:
    x, y = TEST
    data = {who: {"x": np.asarray(x), "y": np.asarray(y)[:, None].astype(kind)} for who in "ab"}
    with pytest.raises(ConfigError, match=r"have the shape .*1\)[\s\S]*y\[:, 0\]"):
        run(replace(fed(plain), data=Arrays(data)), rounds=1)


def test_truth_values_are_classes() -> None:
    def told(kind: Any) -> Any:
        x = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
        return run(
            Federation(
                Torch(plain),
                Arrays({"a": (x, (x[:, 0] > 0).astype(kind))}, (x, (x[:, 0] > 0).astype(kind))),
                client=Local(lr=0.1, steps=2, batch=4),
            ),
            rounds=1,
        ).metric["federated"]

    assert told(bool) == told("int64") == told("uint8")


WRAPS: list[Any] = [
    lambda net: torch.compile(net, backend="eager"),
    nn.DataParallel,
    lambda net: torch.compile(nn.DataParallel(net), backend="eager"),
]


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_wrapped_module_is_saved_under_the_names_of_the_module(tmp_path: Path, wrap: Any) -> None:
    net = Fixed()
    bound = Torch(wrap(net)).open(DATA.open(0))
    bound.objective.save(bound.module, str(tmp_path))
    again = Fixed()
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    assert json.loads((tmp_path / "config.json").read_text())["architecture"].endswith(".Fixed")


def test_a_run_of_a_wrapped_module_leaves_the_model_of_the_plain_one(tmp_path: Path) -> None:
    nets = {"plain": plain, "wrapped": lambda: nn.DataParallel(plain())}
    for name, net in nets.items():
        run(
            Federation(Torch(net), DATA, client=Local(lr=0.1, steps=2, batch=4), rounds=1),
            out=tmp_path / name,
        )
    one, other = (load_file(tmp_path / name / "model/model.safetensors") for name in nets)
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_a_part_that_its_class_wraps_keeps_the_names_of_the_class(tmp_path: Path) -> None:
    class Parted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.DataParallel(plain())

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)  # type: ignore[no-any-return]

    bound = Torch(Parted).open(DATA.open(0))
    bound.objective.save(bound.module, str(tmp_path))
    Parted().load_state_dict(load_file(tmp_path / "model.safetensors"))
