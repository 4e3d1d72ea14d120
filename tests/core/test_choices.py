"""Whoever chooses among parties chooses some of those that it was given, each once: anything else ends the run by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from fedfm import laws
from fedfm.core.context import Ctx, Terms
from fedfm.core.errors import MethodFault
from fedfm.core.message import Message
from fedfm.core.protocols import Bound, Detector, Plan, Selector, State, Valuer
from fedfm.laws.homes import play, quadratics
from fedfm.pace import Buffered

Answers = Mapping[str, Message]


@dataclass(frozen=True)
class Named(Selector):
    """These parties, whoever is free; round after round."""

    ids: tuple[str, ...] = ()

    def select(self, pool: Mapping[str, int], state: State, ctx: Ctx, answers: Answers) -> tuple[Plan, State]:
        return Plan(tuple((i, Terms()) for i in self.ids)), state


@dataclass(frozen=True)
class Asking(Named):
    """Asks these parties, and plans everybody."""

    asks = True

    def candidates(self, pool: Mapping[str, int], state: State, ctx: Ctx) -> Sequence[str]:
        return self.ids

    def answer(self, question: Message, data: Any, ctx: Ctx, bound: Bound) -> Message:
        return Message(torch.zeros(1), "answer")

    def select(self, pool: Mapping[str, int], state: State, ctx: Ctx, answers: Answers) -> tuple[Plan, State]:
        return Plan(tuple((i, Terms()) for i in pool)), state


@dataclass(frozen=True)
class Flagging(Detector):
    reads = True

    def flag(self, messages: Answers, state: State, ctx: Ctx) -> tuple[dict[str, str], State]:
        return {"nobody": "a stranger"}, state


@dataclass(frozen=True)
class AskingTwice(Valuer):
    asks = True

    def value(self, ids: Sequence[str], state: State, ctx: Ctx) -> tuple[dict[str, float], State]:
        ctx.house.ask("value", [*ids, ids[0]], Message(torch.zeros(1), "question"))
        return {}, state

    def answer(self, question: Message, data: Any, ctx: Ctx, bound: Bound) -> Message:
        return question


@dataclass(frozen=True)
class Replaced(Selector):
    """Draws with replacement; from nobody it cannot."""

    def select(self, pool: Mapping[str, int], state: State, ctx: Ctx, answers: Answers) -> tuple[Plan, State]:
        ids, rng = list(pool), ctx.rng("select")
        drawn = [ids[int(torch.randint(len(ids), (), generator=rng))] for _ in range(4)]
        return Plan(tuple((i, Terms()) for i in drawn)), state


@pytest.mark.parametrize(
    ("slot", "method", "words"),
    [
        ("select", Named(("party-0", "party-2", "party-0")), "Named plans 'party-0' 2 times in one round"),
        ("select", Named(("party-0", "party-9")), "Named plans 'party-9', which is not among"),
        ("select", Asking(("party-1", "party-1")), "Asking asks 'party-1' 2 times"),
        ("select", Asking(("nobody",)), "Asking asks 'nobody', which is not among"),
        ("detect", Flagging(), "Flagging flags 'nobody', which is not among"),
        ("value", AskingTwice(), "AskingTwice asks 'party-0' 2 times"),
    ],
)
def test_a_choice_that_is_none_is_the_methods_fault(slot: str, method: Any, words: str) -> None:
    with pytest.raises(MethodFault, match=words) as e:
        play(quadratics(**{slot: method}))
    assert e.value.slot == slot


def test_a_party_that_is_still_at_work_cannot_be_planned_again() -> None:
    fed = quadratics(
        select=Named(("party-0", "party-1", "party-2")), pace=Buffered(size=1, concurrency=3), rounds=3
    )
    with pytest.raises(MethodFault, match="Named plans 'party-.', which is not among"):
        play(fed)


def test_the_law_says_it_before_it_tries_an_empty_pool() -> None:
    with pytest.raises(AssertionError) as e:
        laws.check(Replaced())
    assert "were planned of" in str(e.value)
