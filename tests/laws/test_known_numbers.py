"""Methods against known numbers: fixed points, closed forms, and methods that must agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from effort import few
from fedfm.core.context import Ctx
from fedfm.core.federation import Federation, replace
from fedfm.efficiency.communication.submodel.heterofl import HeteroFL
from fedfm.efficiency.computation.split.splitfed import SplitFed, SplitFedServer
from fedfm.efficiency.training.adaptive import FedAdam
from fedfm.efficiency.training.arrivals.fedbuff import FedBuff
from fedfm.efficiency.training.fedprox import FedProx
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.efficiency.training.scaffold import Scaffold, ScaffoldServer
from fedfm.laws.compare import near
from fedfm.laws.homes import pictures
from fedfm.tasks.quadratic import Quadratic, Quadratics
from fedfm.vectors.cut import cut


def quad(**slots: Any) -> Federation:
    base: dict[str, Any] = {"client": Local(lr=0.05, steps=10, batch=0), "rounds": 60}
    return Federation(Quadratic(), Quadratics(), **base | slots)


def test_fedavg_reaches_its_biased_fixed_point(drive: Any) -> None:
    """Each side maps x to (1 - 0.05 a)^10 (x - b) + b; their mean stays at sum w b / sum w, w = 1 - (1 - 0.05 a)^10:
    w = (0.4012631, 0.9990234), so 0.9990234 / 1.4002865 = 0.713442."""
    w1, w2 = 1 - 0.95**10, 1 - 0.5**10
    assert w2 / (w1 + w2) == pytest.approx(0.713442, abs=1e-6)
    assert float(drive(quad()).model[0]) == pytest.approx(0.713442, abs=1e-5)


def test_scaffold_reaches_the_optimum(drive: Any) -> None:
    """sum a b / sum a = 10 / 11 = 0.909091."""
    fed = quad(client=Scaffold(Local(lr=0.05, steps=10, batch=0)), server=ScaffoldServer(), rounds=120)
    assert float(drive(fed).model[0]) == pytest.approx(10 / 11, abs=1e-5)


def test_fedprox_without_a_pull_is_local(drive: Any) -> None:
    local = Local(lr=0.05, steps=7, batch=3, momentum=0.5)
    one, two = drive(pictures(client=FedProx(mu=0.0, local=local))), drive(pictures(client=local))
    assert torch.equal(one.model, two.model) and one.digest == two.digest
    assert not torch.equal(drive(pictures(client=FedProx(mu=1.0, local=local))).model, two.model)


def test_fedadam_by_hand() -> None:
    """lr 0.1, betas 0.9 and 0.99, tau 0.001; updates 1, 0.5, -0.25:
    m 0.1, 0.14, 0.101; v 0.01, 0.0124, 0.012901; steps 0.1 m / (sqrt v + 0.001) = 0.0990099, 0.1246046, 0.0881461."""
    server, w = FedAdam(lr=0.1, beta1=0.9, beta2=0.99, tau=1e-3), [0.0990099, 0.2236145, 0.3117606]
    state = {"w": torch.zeros(1), "m": torch.zeros(1), "v": torch.zeros(1)}
    from fedfm.core.protocols import Aggregate

    for update, expected in zip((1.0, 0.5, -0.25), w, strict=True):
        state = server.step(state, Aggregate(torch.tensor([update]), 1, ("a",), 1), Ctx(0))
        assert float(server.model(state)) == pytest.approx(expected, abs=2e-7)


def test_fedsgd_is_one_step_on_all_data(drive: Any) -> None:
    """One full-batch step a party, weighted by examples, is one step of the pooled data, however they are dealt."""
    fed = pictures(client=Local(lr=0.3, steps=1, batch=0), rounds=1)
    played = drive(fed)
    bound, parties = fed.task.open(data := fed.data.open(fed.seed)), data
    gradients = {}
    for id, rows in [("pooled", parties.pooled()), *((i, parties.train(i)) for i in parties.ids)]:
        encoded = bound.encode(rows)
        bound.load(bound.init)
        bound.gradient(bound.batch(encoded, torch.arange(len(encoded))))
        gradients[id] = bound.grads.clone()
    assert near(played.model, bound.init - 0.3 * gradients.pop("pooled"), rtol=1e-6)
    equal = drive(replace(fed, aggregate=Mean(weights="equal")))
    assert near(equal.model, bound.init - 0.3 * torch.stack(list(gradients.values())).mean(0), rtol=1e-6)
    assert not near(equal.model, played.model, rtol=1e-6)


@few
@given(st.lists(st.tuples(st.floats(0.1, 5), st.floats(-3, 3)), min_size=1, max_size=4))
def test_fedsgd_on_quadratics_in_closed_form(sides: list[tuple[float, float]]) -> None:
    """From 0 with rate 0.1: x = 0.1 mean(a b)."""
    from fedfm.laws import play

    fed = Federation(
        Quadratic(),
        Quadratics(tuple(a for a, _ in sides), tuple(b for _, b in sides)),
        client=Local(lr=0.1, steps=1, batch=0),
        rounds=1,
    )
    expected = 0.1 * sum(a * b for a, b in sides) / len(sides)
    assert float(play(fed).model[0]) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_split_learning_is_learning_on_the_whole_model(drive: Any) -> None:
    """With a server copy for each party and plain SGD, cutting the network changes where it is computed only."""
    local = Local(lr=0.1, steps=4, batch=3)
    whole, split = (
        drive(pictures(client=local)),
        drive(pictures(client=SplitFed(local), server=SplitFedServer(lr=0.1))),
    )
    assert float((whole.model - split.model).abs().max()) <= 1e-6
    assert float((whole.model - whole.run.bound.init).abs().max()) > 1e-3
    assert (
        sum(r["bytes"]["talk"] for r in split.records) > 0 == sum(r["bytes"]["talk"] for r in whole.records)
    )


def test_sub_models_of_full_width_are_the_model(drive: Any) -> None:
    one, two = drive(pictures(select=HeteroFL(widths=(1.0,)))), drive(pictures())
    assert torch.equal(one.model, two.model) and one.digest == two.digest


def test_coordinates_outside_every_slice_stay(drive: Any) -> None:
    played = drive(pictures(select=HeteroFL(widths=(0.5,))))
    sub = cut(played.run.bound.layout, 0.5)
    assert sub is not None
    outside, moved = sub.coverage() == 0, played.model != played.run.bound.init
    assert bool(outside.any()) and not bool(moved[outside].any()) and bool(moved[~outside].any())


def test_fedbuff_without_staleness_is_the_plain_mean(drive: Any) -> None:
    one, two = drive(pictures(aggregate=FedBuff())), drive(pictures(aggregate=Mean(weights="equal")))
    assert torch.equal(one.model, two.model)
