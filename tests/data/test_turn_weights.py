"""Turns of weight 0 are context; they are no answers to learn."""

from __future__ import annotations

import pytest

from fedfm.core.schema import Unfit
from fedfm.data.kinds import Chat, Wrong


def chat(**told):
    return [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "wrong", **told},
        {"role": "user", "content": "again"},
        {"role": "assistant", "content": "right", "weight": 1},
    ]


@pytest.mark.parametrize("told", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"training": False}])
def test_a_turn_of_weight_0_is_context(told):
    kind = Chat()
    turns = kind.clean(chat(**told))
    found = kind.spread(turns)
    assert [r["answer"] for r in found] == ["right"]
    assert found[0]["history"] == (
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "wrong"},
    )
    assert kind.passed(turns) == ["no answer to a user: an assistant's turn of weight 0"]


@pytest.mark.parametrize("told", [{}, {"weight": 1}, {"weight": None}, {"train": True}])
def test_any_other_turn_is_learnt(told):
    assert [r["answer"] for r in Chat().spread(Chat().clean(chat(**told)))] == ["wrong", "right"]


def test_a_weight_between_is_refused():
    with pytest.raises(Wrong, match="a turn of weight 0.5"):
        Chat().clean(chat(weight=0.5))


def test_a_chat_of_nothing_to_learn_is_left_out():
    with pytest.raises(Unfit):
        Chat().spread(Chat().clean(chat(weight=0)[:2]))
