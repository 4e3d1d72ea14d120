"""Names that others use, settings in any order, functions of libraries, bugs of an aggregator: as a person means them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from torch import nn
from torch.nn.functional import cross_entropy  # a function of a library, in Python: a loss may name it

import fedfm
from fedfm import Arrays, Federation, Local, Quadratic, Quadratics, Torch
from fedfm.cards.registry import find, forget, methods
from fedfm.config.compose import Composition, resolve
from fedfm.config.record import to_config
from fedfm.config.text import apply, override
from fedfm.core.errors import ConfigError, MethodFault
from fedfm.core.protocols import Aggregator


@pytest.mark.parametrize(
    ("slot", "name", "ours"),
    [
        ("aggregate", "fedavg", "'mean'"),
        ("aggregate", "trimmed_mean", "'trimmed-mean'"),
        ("server", "fedopt", "'apply' or 'fedadam'"),
        ("task", "text-classification", "'sequence-classification'"),
        ("value", "shapley", "'shapley-exact' or 'shapley-permutation'"),
    ],
)
def test_a_name_of_others_is_answered_with_ours(slot, name, ours):
    with pytest.raises(ConfigError, match=f"here it is called {ours}"):
        find(name, slot)


def test_no_name_of_others_is_a_method_of_the_same_slot():
    for card in methods().values():
        for name in card.also:
            other = methods().get(name)
            assert other is None or not set(other.slots) & set(card.slots), (card.name, name)


@pytest.mark.parametrize(
    "settings",
    [
        ["client.lr=0.5", "client=local"],
        ["client=local", "client.lr=0.5"],
        ["client.local.lr=0.5", "client=fedprox"],
    ],
)
def test_a_slot_is_filled_before_its_fields_in_any_order(settings):
    client = override(to_config(Federation(task=Quadratic(), data=Quadratics())), settings)["client"]
    assert client.get("lr", client.get("local", {}).get("lr")) == 0.5


def told(module, batch):
    return cross_entropy(module(batch[0]), batch[1], reduction="none")


def test_a_loss_may_name_a_function_of_a_library(tmp_path):
    x = np.random.default_rng(0).normal(size=(24, 4)).astype("float32")
    y = (x[:, 0] > 0).astype("int64")
    fed = Federation(
        task=Torch(lambda: nn.Linear(4, 2), loss=told), data=Arrays({"a": (x, y)}, test=(x + 1, y))
    )
    assert fedfm.run(fed, rounds=1, out=tmp_path / "run", baselines="none").status == "finished"


@dataclass(frozen=True)
class Lifting(Aggregator):
    """Fails on every message."""

    def lift(self, m, ctx):
        return m.x, 1.0, 1.0  # type: ignore[return-value]

    def finish(self, x, mass, state, ctx):
        return x / mass, state


def test_a_lift_that_fails_for_every_party_is_the_methods_fault(tmp_path):
    fedfm.method("lifting", slot="aggregate")(Lifting)
    try:
        fed = Federation(
            task=Quadratic(), data=Quadratics(), client=Local(lr=0.1, steps=1), aggregate=Lifting()
        )
        with pytest.raises(MethodFault, match="every party failed alike: AttributeError: 'tuple'"):
            fedfm.run(fed, rounds=1, out=tmp_path / "run")
    finally:
        forget("lifting")


@pytest.mark.parametrize(
    "settings",
    [["client.lr=0.5", "client={name: local, lr: 0.1}"], ["client={name: local, lr: 0.1}", "client.lr=0.5"]],
)
def test_a_field_that_is_said_twice_is_told(settings):
    made = Composition(to_config(Federation(task=Quadratic(), data=Quadratics())))
    apply(made, settings)
    assert made.done()["client"]["lr"] == 0.5
    assert made.notes == ["client.lr=0.1 gives way to client.lr=0.5"]


def test_a_file_fills_a_slot_before_its_fields_too():
    assert resolve({"recipe": "fedavg", "client.lr": 0.5, "client": "local"})["client"] == {
        "name": "local",
        "lr": 0.5,
    }
