"""Micro-batches give the step of the batch, whatever its loss divides by; what cannot be put together is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import fedfm
from fedfm import Arrays, Federation, FedProx, Local, Torch
from fedfm.core.errors import ConfigError, ModelError
from fedfm.tasks.own.hidden import seen


def rows(n: int = 32, left: int = 0):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(n, 4)).astype("float32")
    y = (draw.random(n) < 0.25).astype("int64")
    y[draw.permutation(n)[:left]] = -100
    return x, y


def trained(tmp_path, loss, micro, left=0):
    """The weights after three steps on all rows."""
    x, y = rows(left=left)
    test = rows()[0] + 1, rows()[1]
    client = Local(lr=0.5, steps=3, batch=0, micro_batch=micro)
    fed = Federation(
        task=Torch(lambda: nn.Linear(4, 2), loss=loss), data=Arrays({"a": (x, y)}, test=test), client=client
    )
    run = fedfm.run(fed, rounds=1, out=tmp_path / f"{micro}", baselines="none")
    return load_file(run.folder / "model" / "model.safetensors")


@pytest.mark.parametrize(
    ("loss", "left"),
    [
        (None, 0),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0])), 0),
        (nn.CrossEntropyLoss(), 18),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0]), label_smoothing=0.1), 7),
        (nn.functional.cross_entropy, 26),
    ],
)
def test_pieces_of_a_batch_make_its_step(tmp_path, loss, left):
    whole, pieces = trained(tmp_path, loss, 0, left), trained(tmp_path, loss, 4, left)
    for name, t in whole.items():
        torch.testing.assert_close(t, pieces[name], rtol=1e-5, atol=1e-6)


def test_rows_of_several_targets_weigh_what_is_not_left_out(tmp_path):
    """A piece without an ignored target beside one with many: both count targets, not rows."""
    x, y = np.random.default_rng(0).normal(size=(8, 4, 5)).astype("float32"), np.zeros((8, 5), "int64")
    y[:, ::2], y[4:, 1:] = 1, -100
    found = []
    for micro in (0, 4):
        client = Local(lr=0.5, steps=3, batch=0, micro_batch=micro)
        task = Torch(lambda: nn.Conv1d(4, 2, 1), loss=nn.CrossEntropyLoss())
        fed = Federation(task=task, data=Arrays({"a": (x, y)}, test=(x + 1, y)), client=client)
        run = fedfm.run(fed, rounds=1, out=tmp_path / f"{micro}", baselines="none")
        found.append(load_file(run.folder / "model" / "model.safetensors"))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)
    layer = nn.Conv1d(4, 2, 1)
    layer.load_state_dict(found[0])
    told = nn.functional.cross_entropy(layer(torch.tensor(x + 1)), torch.tensor(y))
    assert run.metric["federated"] == pytest.approx(float(told), rel=1e-5)


@pytest.mark.parametrize(
    "wrap", [lambda c: FedProx(local=c), lambda c: fedfm.FedSAM(local=c), lambda c: fedfm.Scaffold(local=c)]
)
def test_clients_with_local_steps_inside_sum_pieces_too(tmp_path, wrap):
    x, y = rows()
    found = []
    for micro in (0, 4):
        task = Torch(lambda: nn.Linear(4, 2), loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0])))
        client = wrap(Local(lr=0.3, steps=3, batch=0, micro_batch=micro))
        fed = Federation(
            task=task, data=Arrays({"a": (x, y), "b": (x[:9], y[:9])}, test=(x + 1, y)), client=client
        )
        run = fedfm.run(fed, rounds=2, out=tmp_path / f"{micro}", baselines="none")
        found.append(load_file(run.folder / "model" / "model.safetensors"))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


class Normed(nn.Module):
    def __init__(self, **how):
        super().__init__()
        self.norm, self.out = nn.BatchNorm1d(4, **how), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.norm(x))


@pytest.mark.parametrize("wrap", [lambda c: c, lambda c: FedProx(local=c), lambda c: fedfm.FedSAM(local=c)])
@pytest.mark.parametrize("how", [{}, {"track_running_stats": False}, {"affine": False}])
def test_batch_norm_sees_pieces_and_no_batch(tmp_path, wrap, how):
    data = Arrays({"a": rows()}, test=(rows()[0] + 1, rows()[1]))
    fed = Federation(task=Torch(lambda: Normed(**how)), data=data, client=wrap(Local(micro_batch=4)))
    with pytest.raises(ConfigError, match="norm normalises each piece of micro_batch=4 rows by itself"):
        fedfm.run(fed, rounds=1, out=tmp_path / "run")


class Listed(nn.Module):
    def __init__(self, hold):
        super().__init__()
        self.first, self.more = nn.Linear(4, 4), hold(nn.Linear(4, 2))

    def forward(self, x):
        more = self.more
        while not isinstance(more, nn.Module):
            more = next(iter(more.values())) if isinstance(more, dict) else more[0]
        return more[0](self.first(x)) if isinstance(more, nn.ModuleList) else more(self.first(x))


class Box:
    def __init__(self, layer):
        self.layer, self.box = layer, self

    def values(self):
        return [self.layer]


@pytest.mark.parametrize("hold", [lambda m: [m], lambda m: (m,), lambda m: {"a": m}, lambda m: {"a": [m]}])
def test_layers_in_a_list_are_seen_by_nobody(tmp_path, hold):
    data = Arrays({"a": rows()}, test=(rows()[0] + 1, rows()[1]))
    with pytest.raises(
        ModelError, match="more holds layers in a (list|tuple|dict), where torch does not see them"
    ):
        fedfm.run(Federation(task=Torch(lambda: Listed(hold)), data=data), rounds=1, out=tmp_path / "run")


def test_layers_that_stand_in_a_list_and_in_the_module_are_seen(tmp_path):
    class Both(Listed):
        def __init__(self):
            super().__init__(lambda m: nn.ModuleList([m]))
            self.order = [self.first, self.more[0]]

    data = Arrays({"a": rows()}, test=(rows()[0] + 1, rows()[1]))
    run = fedfm.run(Federation(task=Torch(Both), data=data), rounds=1, out=tmp_path / "run", baselines="none")
    assert run.status == "finished"


@pytest.mark.parametrize(
    "hide",
    [lambda m: setattr(m, "_more", [nn.Linear(4, 2)]), lambda m: setattr(m, "more", Box(nn.Linear(4, 2)))],
)
def test_private_lists_and_objects_hide_layers_too(hide):
    module = nn.Linear(4, 2)
    hide(module)
    with pytest.raises(ModelError, match="more holds layers in a (list|Box)"):
        seen(module)


@pytest.mark.parametrize("name", ["teacher", "_teacher"])
def test_a_frozen_model_may_stand_in_a_list(name):
    module = nn.Linear(4, 2)
    setattr(module, name, [nn.Linear(4, 2).requires_grad_(False)])
    seen(module)
