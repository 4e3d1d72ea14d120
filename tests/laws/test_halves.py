"""What a law test of one half sees of the other, and what a rule sees of the server it is tried at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from torch import Tensor

from fedfm import laws
from fedfm.core.context import Ctx
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregate, Aggregator, Bound, Client, Server, State
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.personal.fedrep import FedRep
from fedfm.efficiency.training.scaffold import Scaffold
from fedfm.efficiency.training.servers import Apply

LAW = "its server half keeps the laws of a server"


@dataclass(frozen=True)
class Crashes(Apply):
    def step(self, state: State, agg: Aggregate, ctx: Ctx) -> State:
        return state | {"w": state["w"] + agg.x.floatt()}  # type: ignore[operator]


@dataclass(frozen=True)
class InPlace(Apply):
    def step(self, state: State, agg: Aggregate, ctx: Ctx) -> State:
        state["w"] += agg.x
        return state


@dataclass(frozen=True)
class With(Client):
    half: Server

    def server_half(self) -> Server:
        return self.half

    def work(self, *a: Any) -> Any:
        return Local(lr=0.05, steps=2, batch=2).work(*a)


@pytest.mark.parametrize(
    ("client", "says"),
    [
        (With(Crashes()), "floatt"),
        (With(InPlace()), "InPlace breaks 'its vectors have their lengths'"),
        (With(Apply()), ""),
        (FedRep(), ""),
        (Scaffold(), ""),
    ],
    ids=["crashes", "in place", "sound", "fedrep", "scaffold"],
)
def test_a_client_answers_for_its_server_half(client: Client, says: str) -> None:
    (law,) = [found for found in laws.laws_of(client) if found.name == LAW]
    why = law.broken(client)
    assert says in why and bool(says) == bool(why)


def test_a_client_without_a_half_is_not_asked() -> None:
    assert LAW not in {found.name for found in laws.laws_of(Local())}


@dataclass(frozen=True)
class Writes(Local):
    """Into what was sent to it, by `how`: every later party of the process would begin from that."""

    how: str = "mul_"

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> Any:
        out = super().work(brief, data, state, ctx, bound)
        getattr(brief.x, self.how)(*((0.5,) if self.how != "zero_" else ()))
        return out


@pytest.mark.parametrize("how", ["mul_", "add_", "zero_"])
def test_a_client_leaves_what_was_sent_to_it(how: str) -> None:
    """The example begins at zero, where a half is what it was."""
    (law,) = [found for found in laws.laws_of(Local()) if found.name == "what it runs alone needs no server"]
    assert "writes into what it was given" in law.broken(Writes(how=how))
    assert law.broken(Local()) == law.broken(Writes(how="mul")) == ""


@dataclass(frozen=True)
class Weighs(Aggregator):
    """Weights by what `by` says on the server's rows."""

    by: str = "risk"
    form = "all"
    takes = ("delta",)
    needs = frozenset({"server rows"})

    def combine(self, messages: Sequence[Message], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        house = ctx.house
        told = [self.told(house, house.model + m.x.float()) for m in messages]
        found = sum(
            (m.x.double() / (1 + t) for m, t in zip(messages, told, strict=True)), 0 * messages[0].x.double()
        )
        return found.float() / sum(1 / (1 + t) for t in told), state

    def told(self, house: Any, model: Tensor) -> float:
        said = getattr(house, self.by)(model)
        return abs(float(said if isinstance(said, float) else said.norm()))


@pytest.mark.parametrize("by", ["risk", "score", "gradient"])
def test_rules_may_ask_the_house_for_a_models_worth(by: str) -> None:
    broken = {found.name: why for found in laws.laws_of(Weighs()) if (why := found.broken(Weighs(by)))}
    assert "AttributeError" not in " ".join(broken.values()) and "it is pure" not in broken, broken


def test_what_the_house_of_the_laws_lacks_is_said() -> None:
    asks = replace(Weighs(), by="bound")
    why = " ".join(found.broken(asks) for found in laws.laws_of(asks))
    assert "not 'bound'; try what needs it with laws.play(federation)" in why
