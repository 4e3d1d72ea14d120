"""Codes of a few bits against closed forms and slow oracles: values, variances, bytes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fedfm.core.combine import Pipe
from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed, MessageRefused
from fedfm.core.message import Message
from fedfm.core.protocols import Wire
from fedfm.efficiency.communication.coarse.natural import Natural
from fedfm.efficiency.communication.coarse.rotation import Rotation, hadamard
from fedfm.efficiency.communication.coarse.sign import Sign
from fedfm.efficiency.communication.coarse.terngrad import TernGrad
from fedfm.efficiency.communication.codec.error_feedback import ErrorFeedback
from fedfm.efficiency.communication.codec.quantise import Quantise
from fedfm.efficiency.communication.lowrank.powersgd import PowerSGD
from fedfm.efficiency.training.majority_vote import MajorityVote
from fedfm.laws.compare import normal
from fedfm.vectors.layout import Entry, Layout


def ctx(d: int, round: int = 0) -> Ctx:
    return Ctx(7, round, client="a", layout=Layout((Entry("x", (d,), 0),), d))


def there_and_back(wire: Wire, x: Tensor, c: Ctx) -> tuple[Tensor, int]:
    y, side, _ = wire.encode(x, {}, c)
    return wire.decode(y, side, {}, c)[0], sum(t.nbytes for t in (y, *side.values()))


def variance(wire: Wire, x: Tensor, rounds: int = 300) -> float:
    """The mean squared error over rounds."""
    off = [there_and_back(wire, x, ctx(x.numel(), t))[0] - x for t in range(rounds)]
    return float(torch.stack(off).double().square().sum(1).mean())


def test_sign_by_hand() -> None:
    """|1| + |-3| + |0| + |4| over 4 is 2."""
    out, nbytes = there_and_back(Sign(), torch.tensor([1.0, -3.0, 0.0, 4.0]), ctx(4))
    assert out.tolist() == [2.0, -2.0, 2.0, 2.0] and nbytes == 4 + 1
    x = normal(1000, 3)
    out, nbytes = there_and_back(Sign(), x, ctx(1000))
    exact = float(x.square().sum() - x.abs().sum() ** 2 / 1000)
    assert float((x - out).square().sum()) == pytest.approx(exact, rel=1e-4) and nbytes == 4 + 125


@pytest.mark.parametrize("d", [1, 4, 5, 6, 1000])
def test_terngrad_values_and_bytes(d: int) -> None:
    x = normal(d, 1)
    out, nbytes = there_and_back(TernGrad(), x, ctx(d))
    s = float(x.abs().max())
    assert nbytes == 4 + -(-d // 5)
    assert all(abs(v) in (0.0, pytest.approx(s)) for v in out.tolist())
    assert bool((out * x >= 0).all()) and float(out[x.abs().argmax()]) == float(x[x.abs().argmax()])


def test_terngrad_variance() -> None:
    """sum_i |x_i| (s - |x_i|); cutting at 1 root mean square makes it smaller, and the mean wrong."""
    x = normal(400, 5)
    s = x.double().abs().max()
    exact = float((x.double().abs() * (s - x.double().abs())).sum())
    assert variance(TernGrad(), x) == pytest.approx(exact, rel=0.05)
    assert TernGrad().unbiased and not TernGrad(clip=1.0).unbiased
    out, _ = there_and_back(TernGrad(clip=1.0), x, ctx(400))
    assert float(out.abs().max()) == pytest.approx(float(x.double().square().mean().sqrt()), rel=1e-5)
    with pytest.raises(MessageRefused):
        TernGrad().decode(torch.tensor([250], dtype=torch.uint8), {"scale": torch.ones(1)}, {}, ctx(5))


def test_natural_by_hand() -> None:
    """Powers of two are themselves; 3 is 2 or 4 with 1/2 each, 5 is 4 or 8 with 3/4 and 1/4."""
    powers = torch.tensor([0.0, 1.0, -0.5, 2.0**-126, -(2.0**127), 1024.0])
    out, nbytes = there_and_back(Natural(), powers, ctx(6))
    assert torch.equal(out, powers) and nbytes == math.ceil(9 * 6 / 8)
    draws = torch.stack(
        [there_and_back(Natural(), torch.tensor([3.0, -5.0]), ctx(2, t))[0] for t in range(400)]
    )
    assert set(draws[:, 0].tolist()) == {2.0, 4.0} and set(draws[:, 1].tolist()) == {-4.0, -8.0}
    assert draws.mean(0).tolist() == pytest.approx([3.0, -5.0], abs=0.4)
    assert float((draws[:, 1] == -8).float().mean()) == pytest.approx(0.25, abs=0.08)
    tiny = torch.tensor([2.0**-130, -(2.0**-149)])
    out, _ = there_and_back(Natural(), tiny, ctx(2))
    assert bool(((out == 0) | (out.abs() == 2.0**-126)).all())
    with pytest.raises(ClientFailed, match="beyond"):
        there_and_back(Natural(), torch.tensor([3e38]), ctx(1))


def test_natural_variance() -> None:
    """sum (u - x)(x - l) between the neighbours l and u; at most 1/8 of ||x||^2, also over ten decades."""
    x = normal(300, 2) * torch.logspace(-6, 4, 300)
    low = 2.0 ** x.double().abs().log2().floor()
    exact = float(((2 * low - x.double().abs()) * (x.double().abs() - low)).sum())
    assert variance(Natural(), x, 600) == pytest.approx(exact, rel=0.15)
    assert exact <= float(x.double().square().sum()) / 8


@pytest.mark.parametrize("d", [1, 2, 5, 64, 100])
def test_rotation_is_a_rotation(d: int) -> None:
    x = normal(d, d)
    y, side, _ = Rotation().encode(x, {}, ctx(d))
    assert y.numel() == 2 ** math.ceil(math.log2(d)) and float(y.norm()) == pytest.approx(
        float(x.norm()), rel=1e-5
    )
    assert torch.allclose(Rotation().decode(y, side, {}, ctx(d))[0], x, atol=1e-5)


def test_hadamard_against_its_matrix() -> None:
    h = np.array([[1.0]])
    for _ in range(4):
        h = np.block([[h, h], [h, -h]])
    x = normal(16, 1)
    assert np.allclose(hadamard(x).numpy(), h @ x.numpy() / 4, atol=1e-6)


def test_rotation_helps_where_one_value_is_large() -> None:
    """A one-hot vector in one bit: its range is 1 whoever rounds, after rotation every value is +-1/sqrt(n)."""
    x = torch.zeros(1024)
    x[17] = 1.0
    x[3] = -1.0
    assert variance(Pipe(Rotation(), Quantise(1)), x, 20) < 0.05 * variance(Quantise(1), x, 20)


# ---- low rank -----------------------------------------------------------------------------------------------------
SHAPES = Layout.of({"w": (30, 20), "conv": (8, 3, 5, 5), "b": (7,), "small": (2, 3)})


def test_low_rank_bytes_and_exactness() -> None:
    """Rank 2: 2 (30 + 20) + 2 (8 + 75) values and the 7 and 6 that travel whole; what has rank 2 comes back."""
    tensors = {e.name: normal(e.size, k).view(e.shape) for k, e in enumerate(SHAPES.entries)}
    tensors["w"] = normal(60, 9).view(30, 2) @ normal(40, 8).view(2, 20)
    x, c = SHAPES.pack(tensors), Ctx(7, client="a", layout=SHAPES)
    y, side, state = PowerSGD(2).encode(x, {}, c)
    assert y.numel() == 2 * 50 + 2 * 83 + 7 + 6 and not side and set(state) == {"w", "conv"}
    out = SHAPES.views(PowerSGD(2).decode(y, side, {}, c)[0])
    for name in ("w", "b", "small"):
        assert torch.allclose(out[name], tensors[name], atol=1e-4), name
    assert not torch.allclose(out["conv"], tensors["conv"], atol=1e-2)


def test_power_iteration_finds_the_leading_directions() -> None:
    """Over rounds on one matrix the error comes down to the best of its rank (Eckart-Young, by SVD)."""
    c, m = Ctx(7, client="a", layout=Layout.of({"w": (40, 30)})), normal(1200, 4).view(40, 30)
    m = m @ torch.diag(0.8 ** torch.arange(30.0))
    s = torch.linalg.svdvals(m.double())
    best, errors, state = float(s[3:].square().sum().sqrt()), [], {}
    for _ in range(25):
        x = c.layout.pack({"w": m})  # type: ignore[union-attr]
        y, side, state = PowerSGD(3).encode(x, state, c)
        errors.append(float((PowerSGD(3).decode(y, side, {}, c)[0] - x).norm()))
    assert errors[0] > 1.02 * best and errors[-1] == pytest.approx(best, rel=1e-3)
    zero, side, state = PowerSGD(3).encode(torch.zeros(c.layout.size), state, c)  # type: ignore[union-attr]
    assert not bool(PowerSGD(3).decode(zero, side, {}, c)[0].any())
    y, side, _ = PowerSGD(3).encode(c.layout.pack({"w": m}), state, c)  # type: ignore[union-attr]
    assert float((PowerSGD(3).decode(y, side, {}, c)[0]).norm()) > 0.9 * float(
        s[:3].norm()
    )  # not deaf after it


def test_low_rank_under_feedback_loses_nothing_for_good() -> None:
    """The telescoping sum: what arrived plus what waits is what was sent."""
    layout = Layout.of({"w": (12, 10)})
    wire, state, arrived, sent = (
        ErrorFeedback(PowerSGD(1)),
        {},
        torch.zeros(layout.size),
        torch.zeros(layout.size),
    )
    for t in range(20):
        c = Ctx(7, t, client="a", layout=layout)
        x = layout.blank(normal(layout.size, t))
        y, side, state = wire.encode(x, state, c)
        arrived += wire.decode(y, side, {}, c)[0]
        sent += x
    assert torch.allclose(arrived + state["residual"], sent, atol=1e-4)


# ---- votes --------------------------------------------------------------------------------------------------------
def test_majority_by_hand_and_under_attack() -> None:
    from fedfm.core.fold import Fold

    rule, rows = MajorityVote(), [[1.0, -2.0, 0.5, 0.0], [3.0, -1.0, -0.1, 0.0], [-1e30, 1e30, 1e30, 1.0]]
    fold = Fold("float")
    for i, row in enumerate(rows):
        fold.add(rule.lift(Message(torch.tensor(row), mass=1e9), Ctx(0)), str(i))
    assert rule.finish(fold.total(), fold.mass, 3, {}, Ctx(0))[0].tolist() == [1.0, -1.0, 1.0, 1.0]
