"""The geometric median against its first-order condition, known points, and attackers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fedfm import laws
from fedfm.core.context import Ctx
from fedfm.core.errors import RoundFailed
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregator
from fedfm.trust.robustness.rule.geometric_median import GeometricMedian


def median(rows: Any, mass: Any = None, **knobs: Any) -> Tensor:
    rows = torch.as_tensor(rows, dtype=torch.float32)
    masses = [1.0] * len(rows) if mass is None else mass
    sent = [Message(x, mass=w, sender=f"p{i}") for i, (x, w) in enumerate(zip(rows, masses, strict=True))]
    return GeometricMedian(**knobs).combine(sent, {}, Ctx(0))[0]


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_known_points() -> None:
    square = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    assert median(square).tolist() == pytest.approx([0.5, 0.5])
    assert median([[1.0], [2.0], [10.0]]).tolist() == pytest.approx(
        [2.0], abs=1e-4
    )  # in one dimension, the median
    assert median([[3.0, 4.0]] * 3).tolist() == [3.0, 4.0]  # nothing lies between
    assert median([[0.0, 0.0], [4.0, 2.0]], mass=[3.0, 1.0], weights="examples").tolist() == pytest.approx(
        [0.0, 0.0], abs=1e-4
    )  # most of the weight is there


@pytest.mark.parametrize("seed", range(5))
def test_the_pulls_of_all_messages_cancel(seed: int) -> None:
    """sum_i (y - u_i) / ||y - u_i|| = 0, and no point near y has a smaller sum of distances."""
    rows = normal(9, 30, seed)
    y = median(rows).double()
    away = y - rows.double()
    pull = (away / away.norm(dim=1, keepdim=True)).sum(0)
    assert float(pull.norm()) < 1e-3
    least = float(away.norm(dim=1).sum())
    for k in range(20):
        other = y + 0.1 * normal(1, 30, 100 + k)[0].double()
        assert float((other - rows.double()).norm(dim=1).sum()) > least


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_no_scale_is_built_in_and_it_turns_with_the_coordinates(scale: float) -> None:
    rows = normal(7, 12, 3)
    turn = torch.linalg.qr(normal(12, 12, 4))[0]
    assert torch.allclose(median(rows * scale) / scale, median(rows), atol=1e-5)
    assert torch.allclose(median(rows @ turn), median(rows) @ turn, atol=1e-4)


@pytest.mark.parametrize("size", [10.0, 1e6, 1e20])
def test_fewer_than_half_move_it_no_further_than_a_bound(size: float) -> None:
    """Minsker's bound: with a share e < 1/2 of attackers, at most 2 (1 - e) / (1 - 2 e) times the honest radius."""
    honest = normal(6, 20, 5)
    centre = honest.mean(0)
    radius = float((honest - centre).norm(dim=1).max())
    rows = torch.cat([honest, torch.full((4, 20), size)])
    assert float((median(rows) - centre).norm()) <= 2 * 0.6 / 0.2 * radius


def test_whoever_claims_much_counts_once_unless_weights_are_asked_for() -> None:
    rows, mass = [[0.0], [1.0], [2.0], [50.0]], [1.0, 1.0, 1.0, 1e9]
    assert float(median(rows, mass)) < 3.0
    assert float(median(rows, mass, weights="examples")) == pytest.approx(50.0, abs=1e-3)
    with pytest.raises(RoundFailed, match="all weights are 0"):
        median(rows, [0.0] * 4, weights="examples")


def test_it_keeps_the_laws_of_a_rule() -> None:
    rule: Aggregator = GeometricMedian()
    assert [law.name for law in laws.laws_of(rule) if law.broken(rule)] == []
