"""The fold: exact in any order in fixed point, to a tolerance in floats."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from effort import few
from fedfm.core.errors import MessageRefused
from fedfm.core.fold import Fold
from fedfm.core.protocols import Lift
from fedfm.core.protocols.scoring import means as merge
from fedfm.laws.compare import same

values = st.floats(-1000, 1000, width=32)
lifts = st.lists(
    st.tuples(st.lists(values, min_size=6, max_size=6), st.integers(1, 500)), min_size=1, max_size=6
)


def folded(rows: list[tuple[list[float], float]], kind: str) -> Fold:
    fold = Fold(kind)
    for k, (x, mass) in enumerate(rows):
        fold.add(Lift(torch.tensor(x), mass, mass), f"p{k}")
    return fold


@few
@given(lifts, st.randoms())
def test_fixed_is_exact_in_any_order_and_float_to_a_tolerance(rows: list[Any], random: Any) -> None:
    other = random.sample(rows, len(rows))
    a, b = folded(rows, "fixed"), folded(other, "fixed")
    assert same(a.total(), b.total()) and a.mass == b.mass
    # fp32: each partial sum is off by 2^-24 of the largest in sight, so n of them by n 2^-24 sum |alpha x|.
    size = sum(abs(m) * max(map(abs, x)) for x, m in rows)
    error = float((folded(rows, "float").total().double() - a.total().double()).abs().max())
    assert error <= (len(rows) + 1) * 2.0**-23 * size + len(rows) * 2.0**-33  # and fixed point by half a unit


def test_fixed_refuses_what_lies_beyond_its_range() -> None:
    with pytest.raises(MessageRefused, match="declared range"):
        folded([([2.0**21] * 6, 1.0)], "fixed")
    assert folded([([2.0**20] * 6, 1.0)], "fixed").total().tolist() == [2.0**20] * 6


def test_fixed_is_exact_in_the_weights_too() -> None:
    rows = [([1.0] * 6, m) for m in (0.1, 0.2, 0.3, 0.7)]
    assert len({folded(list(p), "fixed").mass for p in itertools.permutations(rows)}) == 1


def test_scores_merge_by_sums_and_counts() -> None:
    assert merge([{"a": (3.0, 4)}, {"a": (1.0, 1), "b": (0.0, 0)}]) == {"a": 0.8}
