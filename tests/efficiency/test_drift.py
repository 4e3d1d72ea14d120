"""Local objectives against closed forms and slow oracles: FedNova, FedDyn, FedSAM, MimeLite, RoLoRA; server optimisers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fedfm.checks.rules import check
from fedfm.core.context import Ctx
from fedfm.core.errors import RoundFailed
from fedfm.core.federation import Federation
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregate
from fedfm.efficiency.communication.coarse.sign import Sign
from fedfm.efficiency.training.adaptive import FedAdagrad, FedAdam, FedYogi
from fedfm.efficiency.training.drift.feddyn import FedDyn, FedDynServer
from fedfm.efficiency.training.drift.fednova import FedNova, FedNovaServer
from fedfm.efficiency.training.drift.fedsam import FedSAM
from fedfm.efficiency.training.drift.mime import MimeLite, MimeLiteServer
from fedfm.efficiency.training.drift.rolora import RoLoRA
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.majority_vote import MajorityVote
from fedfm.efficiency.training.mean import Mean
from fedfm.efficiency.training.schedule import Linear
from fedfm.efficiency.training.servers import Apply
from fedfm.laws.compare import near
from fedfm.laws.homes import factored, pictures, quadratics
from fedfm.tasks.quadratic import Quadratic, Quadratics

A, B = (1.0, 10.0), (0.0, 1.0)
LOCAL = Local(lr=0.05, steps=10, batch=0)


def quad(**slots: Any) -> Federation:
    base: dict[str, Any] = {"task": Quadratic(), "data": Quadratics(A, B), "client": LOCAL, "rounds": 60}
    return Federation(**base | slots)


# ---- FedNova ------------------------------------------------------------------------------------------------------
class Uneven(Quadratics):
    """Party 1 has four times the rows of party 0, hence four times its steps an epoch, and counts four times."""

    def open(self, seed: int) -> Any:
        import dataclasses

        parties = super().open(seed)
        few, many = parties.shards
        return dataclasses.replace(parties, shards=(few, dataclasses.replace(many, rows=many.rows * 4)))


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_fednova_reaches_its_own_fixed_point(momentum: float, drive: Any) -> None:
    """tau = 1 and 4 steps of the whole data each. Fixed point: sum p_i (theta_i - theta)/||a_i|| = 0, solved here by
    iteration in float64."""
    local = Local(lr=0.02, epochs=1.0, batch=1, momentum=momentum)
    fed = quad(client=FedNova(local), server=FedNovaServer(), rounds=500, data=Uneven(A, B))
    x, p = 0.0, (0.2, 0.8)

    def steps(x: float, a: float, b: float, k: int) -> tuple[float, float]:
        y, m, norm = x, 0.0, 0.0
        for j in range(k):
            m = momentum * m + a * (y - b)
            y -= 0.02 * m
            norm += (1 - momentum ** (k - j)) / (1 - momentum)
        return (y - x) / norm, norm

    for _ in range(3000):
        each = [steps(x, a, b, k) for a, b, k in zip(A, B, (1, 4), strict=True)]
        d, tau = (sum(q * e[j] for q, e in zip(p, each, strict=True)) for j in (0, 1))
        x += d * tau
    assert float(drive(fed).model[0]) == pytest.approx(x, abs=1e-5)


def test_fednova_of_equal_steps_is_fedavg(drive: Any) -> None:
    local = Local(lr=0.05, steps=4, batch=2, momentum=0.3)
    one = drive(pictures(client=FedNova(local), server=FedNovaServer()))
    assert near(one.model, drive(pictures(client=local)).model, rtol=1e-5)
    with pytest.raises(ValueError, match="sgd"):
        FedNova(Local(optimizer="adamw"))


# ---- FedDyn -------------------------------------------------------------------------------------------------------
def test_feddyn_reaches_the_optimum_and_follows_its_oracle(drive: Any) -> None:
    """10/11 where FedAvg stays at 0.713; five rounds of the algorithm in float64."""
    local = Local(lr=0.05, steps=10, batch=0)
    fed = quad(client=FedDyn(1.0, local), server=FedDynServer(1.0), rounds=200)
    assert float(drive(fed).model[0]) == pytest.approx(10 / 11, abs=1e-5)
    theta, h, hi = 0.0, 0.0, [0.0, 0.0]
    for _ in range(5):
        ys = []
        for i, (a, b) in enumerate(zip(A, B, strict=True)):
            y = theta
            for _ in range(10):
                y -= 0.05 * (a * (y - b) - hi[i] + 1.0 * (y - theta))
            hi[i] -= 1.0 * (y - theta)
            ys.append(y)
        h -= 1.0 * (sum(ys) / 2 - theta)
        theta = sum(ys) / 2 - h / 1.0
    assert float(drive(fed, rounds=5).model[0]) == pytest.approx(theta, abs=1e-5)


def test_halves_must_agree() -> None:
    assert check(quad(client=FedDyn(0.1), server=FedDynServer(0.1))) == []
    assert "belong together" in str(check(quad(client=FedDyn(0.1), server=FedDynServer(0.2)))[0])
    assert check(quad(client=MimeLite(0.5), server=MimeLiteServer(beta=0.9)))
    assert (
        check(quad(client=FedNova(), server=Apply()))
        and check(quad(client=FedNova(), server=FedNovaServer())) == []
    )
    for make in (lambda: FedDyn(0.0), lambda: FedDynServer(0.0)):
        with pytest.raises(ValueError, match="above 0"):
            make()
    with pytest.raises(ValueError, match="below 1"):
        MimeLite(1.0)


# ---- FedSAM -------------------------------------------------------------------------------------------------------
def test_fedsam_by_hand() -> None:
    """f = a/2 (x - b)^2 in one value: the gradient at x + rho sign(g) is g + a rho sign(g)."""
    bound, a, b, x = Quadratic().open(None), 3.0, 2.0, 0.0
    client = FedSAM(0.1, Local(lr=0.05, steps=4, batch=0))
    m, _ = client.work(Message(bound.init.clone()), torch.tensor([[a, b]]), {}, Ctx(0, client="p"), bound)
    for _ in range(4):
        g = a * (x - b)
        x -= 0.05 * (g + a * 0.1 * np.sign(g))
    assert float(m.x[0]) == pytest.approx(x, abs=1e-6)


# ---- MimeLite -----------------------------------------------------------------------------------------------------
def test_mimelite_against_a_slow_oracle(drive: Any) -> None:
    beta, theta, s = 0.7, 0.0, 0.0
    fed = quad(
        client=MimeLite(beta, Local(lr=0.05, steps=3, batch=0)), server=MimeLiteServer(beta=beta), rounds=6
    )
    for _ in range(6):
        ys = []
        for a, b in zip(A, B, strict=True):
            y = theta
            for _ in range(3):
                y -= 0.05 * ((1 - beta) * a * (y - b) + beta * s)
            ys.append(y)
        s = (1 - beta) * sum(a * (theta - b) for a, b in zip(A, B, strict=True)) / 2 + beta * s
        theta = sum(ys) / 2
    assert float(drive(fed).model[0]) == pytest.approx(theta, abs=1e-5)


def test_mimelite_without_momentum_is_fedavg(drive: Any) -> None:
    local = Local(lr=0.05, steps=3, batch=2)
    one = drive(pictures(client=MimeLite(0.0, local), server=MimeLiteServer(beta=0.0)))
    assert near(one.model, drive(pictures(client=local)).model, rtol=1e-6)


# ---- RoLoRA -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_rolora_averages_products_exactly(optimizer: str, drive: Any) -> None:
    """In each round one factor is everybody's, so the mean of the factors gives the mean of the products."""
    client = RoLoRA(Local(lr=0.02, steps=3, batch=2, optimizer=optimizer, weight_decay=0.1))
    fed = factored(client=client, aggregate=Mean(weights="equal"), rounds=4)
    seen: list[tuple[int, Any, Any]] = []  # round, A and B of a party

    class Watching(Mean):
        def lift(self, m: Message, ctx: Ctx) -> Any:
            assert ctx.layout is not None
            views = ctx.layout.views(played.run.fed.server.model(played.run.state.server) + m.x)
            seen.append((ctx.round, views["lora_A"].clone(), views["lora_B"].clone()))
            return super().lift(m, ctx)

    class Holder:
        run: Any = None

    played: Any = Holder()
    done = drive(fed, aggregate=Watching(weights="equal"), around=lambda run: setattr(played, "run", run))
    views = done.run.bound.layout.views(done.model)
    products = torch.stack([b @ a for t, a, b in seen if t == 3])
    assert not done.failed and torch.allclose(views["lora_B"] @ views["lora_A"], products.mean(0), atol=1e-6)
    for t in range(4):
        a, b = (torch.stack([x[k] for x in seen if x[0] == t]) for k in (1, 2))
        still, moved = (b, a) if t % 2 else (a, b)
        assert bool((still == still[0]).all()) and not bool((moved == moved[0]).all())


def test_rolora_needs_factors() -> None:
    bound = Quadratic().open(None)
    assert "lora_A and lora_B" in RoLoRA().feasible(5, bound)
    with pytest.raises(ValueError, match="keep_optimizer=false"):
        RoLoRA(Local(momentum=0.9, keep_optimizer=True))


# ---- servers ------------------------------------------------------------------------------------------------------
def trace(server: Any, updates: list[float], **state: float) -> list[float]:
    s = {"w": torch.zeros(1)} | {k: torch.full((1,), v) for k, v in state.items()}
    out = []
    for t, u in enumerate(updates):
        s = server.step(s, Aggregate(torch.tensor([u]), 1, ("a",), 1), Ctx(0, t, horizon=len(updates)))
        out.append(float(server.model(s)))
    return out


def test_fedyogi_and_fedadagrad_by_hand() -> None:
    """lr 0.1, updates 1, 0.5, -0.25. Adagrad (beta1 0, tau 0.001): v 1, 1.25, 1.3125, steps 0.1 u/(sqrt v + 0.001).
    Yogi (0.9, 0.99): v 0.01, then 0.01 + 0.0025, then 0.0125 + 0.000625; m 0.1, 0.14, 0.101."""
    x, expected = 0.0, []
    for u, v in zip((1.0, 0.5, -0.25), (1.0, 1.25, 1.3125), strict=True):
        x += 0.1 * u / (v**0.5 + 1e-3)
        expected.append(x)
    assert trace(FedAdagrad(lr=0.1), [1.0, 0.5, -0.25], m=0.0, v=0.0) == pytest.approx(expected, abs=2e-7)
    x, expected = 0.0, []
    for m, v in zip((0.1, 0.14, 0.101), (0.01, 0.0125, 0.013125), strict=True):
        x += 0.1 * m / (v**0.5 + 1e-3)
        expected.append(x)
    assert trace(FedYogi(lr=0.1), [1.0, 0.5, -0.25], m=0.0, v=0.0) == pytest.approx(expected, abs=2e-7)


def test_fedavgm_heavy_ball_and_nesterov() -> None:
    """Updates 1, 1: m 1, 1.9; Nesterov steps along u + 0.9 m: 1.9, 2.71. A linear schedule over two rounds: 1, 1/2."""
    assert trace(Apply(momentum=0.9), [1.0, 1.0]) == pytest.approx([1.0, 2.9])
    assert trace(Apply(momentum=0.9, nesterov=True), [1.0, 1.0]) == pytest.approx([1.9, 4.61])
    assert trace(Apply(lr=0.4, schedule=Linear()), [1.0, 1.0]) == pytest.approx([0.4, 0.6])
    t = torch.nn.Parameter(torch.zeros(1))
    for nesterov in (False, True):
        t.data.zero_()
        sgd = torch.optim.SGD([t], lr=0.3, momentum=0.8, nesterov=nesterov)
        seen = []
        for u in (1.0, -0.5, 2.0):
            t.grad = torch.tensor([-u])
            sgd.step()
            seen.append(float(t.detach()))
        assert trace(Apply(lr=0.3, momentum=0.8, nesterov=nesterov), [1.0, -0.5, 2.0]) == pytest.approx(
            seen, abs=1e-6
        )


@pytest.mark.parametrize("server", [FedAdam(), FedYogi(), FedAdagrad()], ids=repr)
def test_one_huge_update_does_not_deafen_the_server(server: Any, drive: Any) -> None:
    """1e30 squared is beyond fp32: the round fails and the state is kept; 1e10 is taken, and noted."""
    state = server.init(Quadratic().open(None), Ctx(0))
    agg = Aggregate(torch.ones(16), 2, ("a", "b"), 2)
    state = server.step(state, agg, Ctx(0, 0, events=[]))
    with pytest.raises(RoundFailed, match="1e\\+30"):
        server.step(state, Aggregate(1e30 * agg.x, 2, ("a", "b"), 2), Ctx(0, 1))
    ctx = Ctx(0, 1, events=[])
    server.step(state, Aggregate(1e10 * agg.x, 2, ("a", "b"), 2), ctx)
    assert [(e["kind"], e["share"]) for e in ctx.events or []] == [("stalled", 1.0)]
    quiet = Ctx(0, 1, events=[])
    server.step(state, Aggregate(3.0 * agg.x, 2, ("a", "b"), 2), quiet)
    assert quiet.events == []


def test_open_ends_of_ranges() -> None:
    for make, why in [
        (lambda: FedAdam(tau=0.0), "tau must be above 0"),
        (lambda: FedYogi(tau=0.0), "tau must be above 0"),
        (lambda: FedAdagrad(tau=0.0), "tau must be above 0"),
        (lambda: FedAdam(beta1=1.0), "beta1 must be below 1"),
        (lambda: FedYogi(beta2=1.0), "beta2 must be below 1"),
    ]:
        with pytest.raises(ValueError, match=why):
            make()


def test_signs_and_votes_learn(drive: Any) -> None:
    """signSGD with majority vote and a rate that falls: three of five parties say where it goes."""
    fed = quadratics(
        uplink=Sign(), aggregate=MajorityVote(), server=Apply(lr=0.05, schedule=Linear()), rounds=60
    )
    played = drive(fed)
    assert not played.failed and torch.allclose(
        played.model[:3], torch.full((3,), 0.5), atol=0.06
    )  # their median
