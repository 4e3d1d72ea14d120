"""Every registered method keeps the laws of its slot, and every recipe builds; both driven by the registry."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedfm import laws
from fedfm.cards.registry import knob, load, methods, recipes
from fedfm.checks.rules import check
from fedfm.config.building import from_config
from fedfm.config.compose import resolve
from fedfm.config.record import digest, to_config
from fedfm.config.text import dump, parse
from fedfm.core.combine import ByPath, Pipe
from fedfm.core.context import Ctx, Terms
from fedfm.core.federation import Federation
from fedfm.core.message import Message
from fedfm.core.protocols import (
    Adversary,
    Aggregator,
    Client,
    Lift,
    Pace,
    Plan,
    Reward,
    Selector,
    Server,
    State,
    Valuer,
    Wire,
)
from fedfm.efficiency.communication.codec.entropy import Entropy
from fedfm.efficiency.communication.codec.error_feedback import ErrorFeedback
from fedfm.efficiency.communication.codec.qsgd import QSGD
from fedfm.efficiency.communication.codec.randk import RandK
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.communication.submodel.heterofl import HeteroFL
from fedfm.efficiency.training.fedprox import FedProx
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.personal.by_client import ByClient
from fedfm.incentives.selection.uniform import Uniform
from fedfm.laws.reduction import parsed, target
from fedfm.pace import Buffered, Quorum, Speed
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.robustness.rule.krum import Krum

LONG = {"own-loop"}  # its parties' trainers are the library's: a minute


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG)) for n in sorted(methods())]
)
def test_a_method_keeps_its_laws(name: str) -> None:
    cls = load(name)
    broken: dict[str, str] = {}
    for spec in laws.examples(cls):
        found = laws.laws_of(spec)
        assert len(found) >= 5, f"only {len(found)} laws bind {name}"
        broken |= {law.name: f"{spec!r}: {why}" for law in found if (why := law.broken(spec))}
    assert not broken, "\n".join([f"{name} breaks:", *(f"  {k}: {v}" for k, v in broken.items())])


def test_the_registry_is_not_empty() -> None:
    """The laws above are driven by it: no method slips past them."""
    assert len([c for c in methods().values() if c.module.startswith("fedfm.")]) >= 60


@pytest.mark.parametrize(
    "spec",
    [
        Pipe(),
        Pipe(TopK(0.5), QSGD(7), Entropy()),
        Pipe(QSGD(), Entropy()),
        ErrorFeedback(Pipe(TopK(0.3), QSGD(3))),
        ErrorFeedback(RandK(0.5, unbiased=False)),
        Pipe(RandK(0.5), ClipNoise()),
        Wire(),
        QSGD(levels=1, bucket=4),
        TopK(count=2),
        ByPath({"a*": TopK(0.5), "*": QSGD(7)}),
        FedProx(mu=1.0, local=Local(optimizer="adamw", momentum=0.0)),
        Krum(f=2, m=3),
        ByClient({"party-0": FedProx(), "*": Local()}),
        Uniform(count=2),
        HeteroFL(widths=(1.0, 0.4), inner=Uniform(fraction=0.5)),
        Quorum(0.6, deadline_s=2.0, speed=Speed(1.0, 0.5), dropout=0.2),
        Buffered(2, 4),
        Selector(),
        Adversary(),
    ],
    ids=repr,
)
def test_combinations_keep_the_laws(spec: Any) -> None:
    """All but what is said of a registered class alone: the identities of the slots are plain classes."""
    formal = {"it is a frozen dataclass", "it says what it is", "every field says what it is"}
    formal = set() if dataclasses.is_dataclass(spec) else {*formal, "it equals its like and hashes alike"}
    broken = {
        law.name: why for law in laws.laws_of(spec) if law.name not in formal and (why := law.broken(spec))
    }
    assert not broken


@pytest.mark.parametrize("name", sorted(recipes()))
def test_a_recipe_builds_and_comes_back_from_yaml(name: str) -> None:
    fed = load(name, "recipe")()
    assert isinstance(fed, Federation) and check(fed) == []
    plain = to_config(fed)
    again = to_config(from_config(parse(dump(plain), name)))
    assert again == plain
    twice = to_config(from_config(parse(dump(again), name)))
    assert twice == again and digest(twice) == digest(again)  # alpha=16 is alpha=16.0 from the first time on
    resolved = resolve({"recipe": name})
    assert resolved == {"recipe": name, **plain} and to_config(from_config(resolved)) == plain
    card = recipes()[name]
    assert card.summary.endswith(".") and card.section


@pytest.mark.parametrize("name", sorted(n for n, c in methods().items() if c.reduces_to))
def test_a_special_case_can_be_read(name: str) -> None:
    left, _, right = parsed(methods()[name].reduces_to)
    assert left == name and right


def test_most_special_cases_are_run() -> None:
    claimed = [n for n, c in methods().items() if c.reduces_to]
    run = [n for n in claimed if target(laws.examples(load(n))[0]) is not None]
    assert len(run) >= len(claimed) - 1 and {"fedprox", "fedbuff", "heterofl", "uniform", "buffered"} <= set(
        run
    )


def test_laws_have_names_and_sentences() -> None:
    every = laws.every()
    assert (
        len({law.name for law in every if law.protocol is Wire})
        == sum(law.protocol is Wire for law in every)
        >= 11
    )
    assert all(law.doc.endswith((".", ")")) for law in every) and len(every) >= 45


# ---- the laws catch what they are for -----------------------------------------------------------------------------
@dataclass(frozen=True)
class Lossy(Wire):
    """Claims to be lossless and linear, and rounds."""

    lossless = True
    linear = True

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> Any:
        return x.round().to(torch.int8), {}, state

    def decode(self, x: Tensor, side: Any, state: State, ctx: Ctx) -> Any:
        return x.float().square(), state


@dataclass(frozen=True)
class Biased(Wire):
    """Claims to be unbiased, draws from the global generator, changes its input and its state."""

    unbiased = True

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> Any:
        x += 0.3
        state["seen"] = state.get("seen", 0) + 1
        return x + torch.rand(x.shape), {}, state


@dataclass(frozen=True)
class Forgetful(Wire):
    """Keeps a set, which no disk takes, and loses the last value."""

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> Any:
        return x[:-1], {}, {"ids": {1, 2}}


@dataclass(frozen=True)
class LastOne(Aggregator):
    """The last message in place of a mean: order, weights and other promises are broken."""

    plain = True
    shares = True

    def lift(self, m: Message, ctx: Ctx) -> Lift:
        return Lift(m.x * 2, m.mass, 1.0)

    def share(self, m: Message, ctx: Ctx) -> Lift:
        return Lift(m.x, 1.0, 1.0)

    def lifted(self, layout: Any) -> int:
        return 3

    def finish(self, x: Tensor, mass: Any, count: int, state: State, ctx: Ctx) -> Any:
        return x / mass, state


@dataclass(frozen=True)
class Average(Aggregator):
    """The plain mean under a claim of robustness."""

    f: int = knob(1, "malicious messages to withstand")
    form = "all"

    def combine(self, messages: Any, state: State, ctx: Ctx) -> Any:
        return torch.stack([m.x for m in messages]).mean(0), state


@dataclass(frozen=True)
class Restless(Client):
    """Moves without steps, and by as much as it was called before."""

    steps: int = knob(1, "local steps")
    epochs: float = knob(1.0, "passes")

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Any) -> Any:
        bound.params.add_(1.0)
        return Message(bound.params.clone()[:-1], "delta"), state


@dataclass(frozen=True)
class Mutable(Server):
    """Steps in place."""

    def step(self, state: State, agg: Any, ctx: Ctx) -> State:
        state["w"] += agg.x
        return state


@dataclass(frozen=True)
class Strangers(Selector):
    """Plans whom nobody knows, twice, and another each time."""

    def select(self, pool: Any, state: State, ctx: Ctx, answers: Any) -> Any:
        return Plan((("nobody", Terms()), (f"p{torch.rand(()).item()}", Terms()))), state


@dataclass(frozen=True)
class Hasty(Pace):
    """Finishes before it begins, and wants more than all."""

    def due(self, now: float, ctx: Ctx) -> float:
        return now - 1

    def quorum(self, planned: int) -> int:
        return planned + 1

    def enough(self, arrived: int, planned: int, waited_s: float) -> bool:
        return True


@dataclass(frozen=True)
class Generous(Reward):
    """Pays everybody more than there is."""

    budget: float = knob(10.0, "money")

    def pay(self, plan: Plan, delivered: Any, values: Any, state: State, ctx: Ctx) -> Any:
        return {i: self.budget for i, _ in plan.jobs}, state


@dataclass(frozen=True)
class Favourite(Valuer):
    """The first party gets everything."""

    reads = True
    exact = True

    def value(self, ids: Any, state: State, ctx: Ctx) -> Any:
        return {i: float(k == 0) for k, i in enumerate(ids)}, state


@dataclass(frozen=True)
class Vandal(Adversary):
    """Changes everybody's message, in place, without saying so."""

    def forge(self, messages: dict[str, Message], members: Any, state: State, ctx: Ctx) -> Any:
        for m in messages.values():
            m.x.mul_(2)
        return {i: replace(m, x=m.x.clone()) for i, m in messages.items()}, state


class Bare(Wire):
    bits: int = 3


@dataclass(frozen=True)
class Trusting(Wire):
    """Scales by what the sender says, and makes as much room as the sender says."""

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> Any:
        return x, {"scale": torch.ones(1), "room": torch.tensor([x.numel()])}, state

    def decode(self, x: Tensor, side: Any, state: State, ctx: Ctx) -> Any:
        out = torch.zeros(min(int(side["room"]), 1 << 23))
        out[: x.numel()] = x * side["scale"]
        return out, state


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (
            Lossy(),
            {
                "lossless means exact",
                "linear means that decode commutes with the sum",
                "what is not finite raises",
            },
        ),
        (Biased(), {"it is pure", "unbiased means that the mean is right", "padding stays zero"}),
        (Forgetful(), {"shapes survive", "states can be stored", "padding stays zero"}),
        (
            LastOne(),
            {
                "scale of the weights does not matter",
                "agreement is kept",
                "lifts have the declared length",
                "plain means that the lift only scales",
                "what the client lifts is what the server would lift",
            },
        ),
        (Average(), {"f arbitrary messages do not carry it away", "too few messages fail the round"}),
        (Restless(), {"no steps no change", "the message is whole", "sessions leave no trace"}),
        (Mutable(), {"its step is pure"}),
        (
            Strangers(),
            {
                "plans name free parties once",
                "a plan follows from its context",
                "codecs do not change who is selected",
            },
        ),
        (Hasty(), {"a pace is sound"}),
        (Generous(), {"only who delivered is paid"}),
        (Favourite(), {"an additive game is worth its parts", "shapley values sum to the whole"}),
        (Vandal(), {"only members messages change"}),
        (Bare(), {"it is a frozen dataclass", "it says what it is"}),
        (Trusting(), {"a strangers sides are not believed"}),
    ],
    ids=lambda x: type(x).__name__ if not isinstance(x, set) else "",
)
def test_the_laws_catch_who_breaks_them(spec: Any, names: set[str]) -> None:
    with pytest.raises(AssertionError) as e:
        laws.check(spec)
    missed = {n for n in names if n not in str(e.value)}
    assert not missed, f"not caught: {missed}\n{e.value}"


@dataclass(frozen=True)
class Widens(Wire):
    """Claims to be lossless, and gives every type back as float64 (or, with `nudge`, as it was but for one value)."""

    lossless = True
    nudge: bool = False

    def decode(self, x: Tensor, side: Any, state: State, ctx: Ctx) -> Any:
        if not self.nudge:
            return x.double(), state
        out = x.clone()
        out[:1] += 1
        return out, state


def test_lossless_says_what_changed() -> None:
    (law,) = [law for law in laws.laws_of(Widens()) if law.name == "lossless means exact"]
    assert law.broken(Widens()) == (
        "a vector of 0 values went in as torch.float32 and came out as torch.float64: the type changed"
    )
    assert law.broken(Widens(nudge=True)) == "1 of 1 values of torch.float32 changed"
    assert not law.broken(Entropy())
