"""Any torch module as a task: own arrays, own loss, own scores, running statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conftest import Drive
from fedfm.core.errors import DataError, ModelError
from fedfm.core.federation import Federation
from fedfm.data.arrays import Arrays
from fedfm.data.source import Parties, Shard
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.scaffold import Scaffold
from fedfm.tasks.own.module import Torch

RNG = np.random.default_rng(0)


def parties(n: int = 24, clients: int = 3) -> dict[str, tuple[Any, Any]]:
    made = {}
    for k in range(clients):
        x = RNG.normal(size=(n, 4)).astype("float32") + k
        made[f"client-{k}"] = (x, (x.sum(1) > 4 * k).astype("int64"))
    return made


class Net(nn.Module):
    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8) if norm else nn.ReLU(), nn.Linear(8, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def test_fedavg_against_scaffold_on_an_own_module(drive: Drive) -> None:
    """What a researcher writes: a module, arrays, two methods."""
    data = Arrays(train=parties(), test=parties(10)["client-0"])
    for client in (Local(lr=0.1, steps=5), Scaffold(Local(lr=0.1, steps=5))):
        one = drive(Federation(task=Torch(Net), data=data, client=client, rounds=3), workers=0)
        two = drive(Federation(task=Torch(Net), data=data, client=client, rounds=3), workers=2)
        assert not one.failed and one.digest == two.digest and torch.equal(one.model, two.model)
        scores = [r["metrics"] for r in one.records]
        assert scores[-1]["loss"] < scores[0]["loss"] and 0 <= scores[-1]["accuracy"] <= 1


def test_running_statistics_travel(drive: Drive) -> None:
    task = Torch(lambda: Net(norm=True))
    fed = Federation(task=task, data=Arrays(train=parties()), client=Local(lr=0.1, steps=4), rounds=2)
    one, two = drive(fed, workers=0), drive(fed, workers=2)
    layout = one.run.bound.layout
    assert not one.failed and torch.equal(one.model, two.model)
    assert [e.name for e in layout.entries if not e.trainable] == [
        f"layers.1.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")
    ]
    assert layout.views(one.model)["layers.1.running_mean"].any()


class Frozen(Net):
    """Keeps its normalisation in evaluation mode, as people do who tune a network that somebody else trained."""

    def __init__(self) -> None:
        super().__init__(norm=True)
        self.layers[1].running_mean += 0.5

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.layers[1].eval()
        return self


@pytest.mark.parametrize("task", [Torch(Frozen), Torch(Frozen().eval()), Torch(Frozen, buffers=())])
def test_statistics_that_the_module_keeps_still_stay_at_home(task: Torch, drive: Drive) -> None:
    fed = Federation(task=task, data=Arrays(train=parties()), client=Local(lr=0.1, steps=4), rounds=2)
    one, two = drive(fed, workers=0), drive(fed, workers=2)
    assert not one.failed and torch.equal(one.model, two.model)
    assert all(e.trainable for e in one.run.bound.layout.entries)
    assert torch.equal(one.run.bound.module.layers[1].running_mean, torch.full((8,), 0.5))


def test_a_network_in_evaluation_mode_is_trained_with_its_statistics(drive: Drive) -> None:
    fed = Federation(
        task=Torch(Net(norm=True).eval()),
        data=Arrays(train=parties()),
        client=Local(lr=0.1, steps=4),
        rounds=1,
    )
    assert "layers.1.running_mean" in {e.name for e in drive(fed).run.bound.layout.entries}


def rows(x: Any, y: Any) -> Shard:
    return Shard("p", tuple({"x": a, "y": b} for a, b in zip(x, y, strict=True)))


X, Y = torch.randn(7, 4), torch.randn(7, 2)
DATA = Parties((rows(X, Y),))


def test_a_module_is_the_start_and_stays_as_it_was() -> None:
    net = Net()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    bound = Torch(net, loss=F.mse_loss).open(DATA)
    for name, view in bound.layout.views(bound.init).items():
        assert torch.equal(view, before[name])
    bound.gradient(bound.batch(bound.encode(DATA.train("p")), torch.arange(7)))
    bound.load(torch.zeros_like(bound.init))
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


def test_everybody_starts_from_the_same_bits() -> None:
    torch.manual_seed(1)
    one = Torch(Net).open(DATA).init
    before = torch.get_rng_state()
    assert torch.equal(one, Torch(Net).open(DATA).init) and torch.equal(before, torch.get_rng_state())
    assert not torch.equal(one, Torch(Net, init_seed=1).open(DATA).init)


@pytest.mark.parametrize(
    "loss",
    [
        F.mse_loss,
        nn.MSELoss(),
        lambda m, b: ((m(b[0]) - b[1]) ** 2).mean(1),
        lambda m, b: F.mse_loss(m(b[0]), b[1]),
    ],
)
def test_losses_of_every_form(loss: Any) -> None:
    bound = Torch(Net, loss=loss).open(DATA)
    encoded = bound.encode(DATA.train("p"))
    batch = bound.batch(encoded, torch.arange(7))
    with torch.no_grad():
        right = float(F.mse_loss(bound.module(X), Y))
    assert bound.loss(batch) == pytest.approx(right, rel=1e-5)
    assert bound.losses(batch).shape == (7,) and bound.risk(encoded)[0] == pytest.approx(7 * right, rel=1e-5)
    assert bound.objective.primary == "loss" and not bound.objective.higher_is_better
    assert bound.gradient(batch) == pytest.approx(right, rel=1e-5)


def test_own_scores_and_columns() -> None:
    shard = Shard("p", tuple({"a": X[i], "weight": float(i)} for i in range(7)))
    measures = {"spread": lambda m, b: m(b["a"]).std(1), "mean weight": lambda m, b: b["weight"].mean()}
    task = Torch(
        Net, loss=lambda m, b: (m(b["a"]) ** 2).sum(1) * b["weight"], scores=measures, higher_is_better=False
    )
    bound = task.open(Parties((shard,)))
    scores = bound.score(bound.encode(shard))
    assert bound.objective.primary == "spread" and scores["mean weight"] == (pytest.approx(21.0), 7)
    with pytest.raises(DataError, match="'a' does not make a tensor"):
        bound.encode(Shard("p", (*shard.rows, {"a": X[0][:2], "weight": 0.0})))


def test_what_is_no_module_is_refused() -> None:
    for odd in (None, 3, dict):
        with pytest.raises(ModelError, match=r"task\.module"):
            Torch(odd).open(DATA)


def test_it_is_saved_as_its_state(tmp_path: Any) -> None:
    from safetensors.torch import load_file

    bound = Torch(lambda: Net(norm=True)).open(DATA)
    bound.objective.save(bound.module, str(tmp_path))
    again = Net(norm=True)
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(again.layers[0].weight, bound.module.layers[0].weight)  # type: ignore[union-attr]
