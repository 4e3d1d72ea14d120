"""Who overrides a method states anew what a guarantee reads of it: a base class speaks of its own methods alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from torch import Tensor

from fedfm import laws
from fedfm.checks.rules import check
from fedfm.core.combine import Pipe
from fedfm.core.context import Ctx, Terms
from fedfm.core.errors import ConfigError, Problem
from fedfm.core.federation import Federation
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregate, Evaluator, Lift, Pace, Plan, Selector, State
from fedfm.efficiency.communication.codec.randk import RandK
from fedfm.efficiency.training.hierarchy import Edges
from fedfm.efficiency.training.mean import Mean
from fedfm.efficiency.training.servers import Apply
from fedfm.evaluation.held_out import HeldOut
from fedfm.incentives.selection.poisson import Poisson
from fedfm.laws.homes import quadratics
from fedfm.running.entry import run
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian
from fedfm.trust.privacy.secure.secagg import SecAgg

CENTRAL: dict[str, Any] = {"uplink": ClipNoise(), "aggregate": Mean("equal", denominator=5.0)}
LOCAL: dict[str, Any] = {"uplink": LocalGaussian(), "aggregate": Mean("equal")}
Planned = tuple[Plan, State]


@dataclass(frozen=True)
class Largest(Poisson):
    """Poisson, and the largest party always."""

    def select(
        self, pool: Mapping[str, int], state: State, ctx: Ctx, answers: Mapping[str, Message]
    ) -> Planned:
        plan, state = super().select(pool, state, ctx, answers)
        first = max(pool, key=pool.__getitem__)
        rest = tuple(job for job in plan.jobs if job[0] != first)
        return dataclasses.replace(plan, jobs=((first, Terms()), *rest)), state


@dataclass(frozen=True)
class Reversed(Poisson):
    """Poisson in another order, which it says."""

    draws = Poisson.draws
    random_size = Poisson.random_size

    def select(
        self, pool: Mapping[str, int], state: State, ctx: Ctx, answers: Mapping[str, Message]
    ) -> Planned:
        plan, state = super().select(pool, state, ctx, answers)
        return dataclasses.replace(plan, jobs=plan.jobs[::-1]), state


@dataclass(frozen=True)
class Bare(ClipNoise):
    """Noise for a norm that it does not bound."""

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        return x, {}, state


@dataclass(frozen=True)
class Faint(ClipNoise):
    """Less noise than its event tells."""

    @property
    def std(self) -> float:
        return 0.01


@dataclass(frozen=True)
class BareLocal(LocalGaussian):
    """No noise at all."""

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        return x, {}, state


@dataclass(frozen=True)
class Open(SecAgg):
    """Masks that it leaves out."""

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        return x, {}, state


@dataclass(frozen=True)
class Telling(RandK):
    """A linear code whose side says something of the values."""

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        y, side, state = super().encode(x, state, ctx)
        return y, {**side, "norm": x.norm()[None]}, state


@dataclass(frozen=True)
class Squared(Mean):
    """A weight without a bound, an update that is longer than it was clipped to."""

    def lift(self, m: Message, ctx: Ctx) -> Lift:
        return Lift(m.x * 9.0, m.mass**2, m.mass**2)


@dataclass(frozen=True)
class ByMass(Mean):
    """Divides by private weights."""

    def finish(
        self, x: Tensor, mass: float | Tensor, count: int, state: State, ctx: Ctx
    ) -> tuple[Tensor, State]:
        return x / mass, state


@dataclass(frozen=True)
class First(Pace):
    """Closes at the first arrival, and says nothing."""

    def enough(self, arrived: int, planned: int, waited_s: float) -> bool:
        return arrived >= 1


@dataclass(frozen=True)
class Counting(Apply):
    """A step by how many contributed."""

    def step(self, state: State, agg: Aggregate, ctx: Ctx) -> State:
        return super().step(state, dataclasses.replace(agg, x=agg.x * agg.count), ctx)


@dataclass(frozen=True)
class Gathering(Evaluator):
    """Scores that parties' own rows are moved for."""

    def rows(self, case: str, parties: Any) -> Any:
        return parties.train(next(iter(parties.ids)))


def wrong(slots: Mapping[str, Any], **more: Any) -> list[Problem]:
    """What is refused of inherited facts."""
    fed = quadratics(**{**slots, **more})
    return [p for p in check(fed) if " overrides `" in p.what]


@pytest.mark.parametrize(
    ("slots", "slot", "line"),
    [
        (CENTRAL | {"select": Largest(0.5), "server": Apply()}, "select", "draws = Poisson.draws"),
        (CENTRAL | {"select": Edges(inner=Largest(0.5))}, "select", "random_size = Poisson.random_size"),
        (CENTRAL | {"uplink": Bare()}, "uplink.0", "event = ClipNoise.event"),
        (CENTRAL | {"uplink": Faint()}, "uplink.0", "event = ClipNoise.event"),
        (LOCAL | {"uplink": BareLocal()}, "uplink.0", "covers = LocalGaussian.covers"),
        ({"uplink": Open()}, "uplink.0", "covers = SecAgg.covers"),
        ({"uplink": SecAgg(), "pace": First()}, "pace", "partial = Pace.partial"),
        (
            CENTRAL | {"aggregate": Squared("equal", denominator=5.0)},
            "aggregate",
            "alpha_max = Mean.alpha_max",
        ),
        (CENTRAL | {"aggregate": ByMass("equal", denominator=5.0)}, "aggregate", "divisor = Mean.divisor"),
        (CENTRAL | {"pace": First()}, "pace", "partial = Pace.partial"),
        (CENTRAL | {"server": Counting()}, "server", "counts = Apply.counts"),
        (LOCAL | {"evaluate": Gathering()}, "evaluate", "collects = Evaluator.collects"),
    ],
)
def test_an_override_does_not_keep_what_another_method_promised(
    slots: dict[str, Any], slot: str, line: str
) -> None:
    (found,) = wrong(slots)
    assert found.where == slot and line in found.fix and "in class" in found.fix


def test_what_stands_before_masks_states_that_it_is_linear() -> None:
    (found,) = wrong({"uplink": Pipe(Telling(0.5), SecAgg())})
    assert found.where == "uplink.0" and "linear = RandK.linear" in found.fix


def test_the_line_of_the_fix_is_a_fix() -> None:
    assert not wrong(CENTRAL, select=Reversed(0.5))


@pytest.mark.parametrize(
    "slots", [{}, LOCAL, {"uplink": SecAgg()}], ids=["no guarantee", "each upload by itself", "masks"]
)
def test_how_a_cohort_is_drawn_is_nobodys_business_without_noise_on_a_sum(slots: dict[str, Any]) -> None:
    assert not wrong(slots, select=Largest(0.5))


def test_a_method_of_ones_own_whose_base_promises_nothing_states_nothing() -> None:
    @dataclass(frozen=True)
    class Own(Selector):
        def select(
            self, pool: Mapping[str, int], state: State, ctx: Ctx, answers: Mapping[str, Message]
        ) -> Planned:
            return Plan(tuple((i, Terms()) for i in pool)), state

    assert not wrong({"uplink": SecAgg()}, select=Own())


def test_a_run_is_refused_before_its_work(tmp_path: Any) -> None:
    fed: Federation = quadratics(**CENTRAL, select=Largest(0.5))
    with pytest.raises(ConfigError, match="draws = Poisson.draws"):
        run(fed, out=tmp_path / "run")


@pytest.mark.parametrize("spec", [Largest(0.5), Squared(), First(), Counting()])
def test_a_law_says_so_too(spec: Any) -> None:
    (own,) = [law for law in laws.laws_of(spec) if law.name.startswith("a fact behind a guarantee")]
    assert "if they are still true" in own.broken(spec)
    assert not own.broken(HeldOut()) and not own.broken(Reversed(0.5))
