"""Greedy soup: at least as good as its best ingredient, by construction."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfm.core.context import Ctx
from fedfm.core.message import Message
from fedfm.efficiency.training.soup import GreedySoup

TARGET = torch.tensor([1.0, 0.0])


def soup(updates: list[list[float]], strict: bool = False) -> tuple[torch.Tensor, list[str]]:
    house = SimpleNamespace(after=lambda x: x, score=lambda m: -float((m - TARGET).norm()))
    events: list[dict[str, object]] = []
    ms = [Message(torch.tensor(u), sender=f"p{k}") for k, u in enumerate(updates)]
    x, _ = GreedySoup(strict=strict).combine(ms, {}, Ctx(0, house=house, events=events))
    return x, events[0]["chosen"]  # type: ignore[return-value]


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_never_worse_than_the_best_single_one(updates: list[tuple[float, float]]) -> None:
    x, chosen = soup([list(u) for u in updates])
    best = min(float((torch.tensor(u) - TARGET).norm()) for u in updates)
    assert float((x - TARGET).norm()) <= best + 1e-5 and chosen
    members = torch.tensor([updates[int(name[1:])] for name in chosen])
    assert torch.allclose(x, members.mean(0), atol=1e-5)


def test_helpers_join_and_spoilers_do_not() -> None:
    x, chosen = soup([[1.0, 0.4], [1.0, -0.4], [-5.0, 0.0]])
    assert set(chosen) == {"p0", "p1"} and x.tolist() == pytest.approx([1.0, 0.0], abs=1e-6)


def test_duplicates_change_nothing_and_strict_leaves_them_out() -> None:
    assert soup([[2.0, 1.0]] * 3)[0].tolist() == [2.0, 1.0]
    assert soup([[2.0, 1.0]] * 3, strict=True)[1] == ["p0"]
