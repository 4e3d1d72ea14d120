"""Learning rates over the run: constant, linear or cosine, with a warm-up; at clients and at servers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.errors import Problem
from fedfm.core.protocols import Slot

if TYPE_CHECKING:
    from fedfm.core.federation import Federation


class Schedule(Slot):
    """By what factor a rate is multiplied in a round.

    Round t of T (t from 0; T is the run's horizon; in a run of several stages, both are the stage's own). A
    warm-up of w rounds climbs (t + 1)/(w + 1), so round w is the first at the full rate; what follows has
    gone p = (t - w)/(T - w) of its way: no round is without a rate unless `end` is 0 and the run goes on
    beyond its horizon.
    """

    warmup: int = 0

    def shape(self, p: float) -> float:
        """The factor at the share `p` of the way, 0 <= p <= 1."""
        return 1.0

    def factor(self, round: int, horizon: int) -> float:
        """The factor of a round; a horizon of 0 (nobody said how long the run is) stays at the full rate."""
        if round < self.warmup:
            return (round + 1) / (self.warmup + 1)
        return self.shape(
            min(1.0, max(0, round - self.warmup) / max(1, horizon - self.warmup)) if horizon else 0.0
        )

    def rate(self, lr: float, ctx: Ctx, later: int = 0) -> float:
        """The rate of this round (of the one `later` rounds on)."""
        return lr * self.factor(max(0, ctx.round - ctx.since) + later, ctx.horizon)


@method("constant", slot="schedule", section="IV.A", also=("none",))
@dataclass(frozen=True)
class Constant(Schedule):
    """The same rate in every round, after the warm-up."""

    warmup: int = knob(0, "rounds in which the rate climbs to its full value", low=0)


@method("linear", slot="schedule", section="IV.A", reduces_to="linear(end=1.0) is constant")
@dataclass(frozen=True)
class Linear(Schedule):
    """The rate falls in equal steps from its full value to `end` of it: factor 1 - (1 - end) p."""

    warmup: int = knob(0, "rounds in which the rate climbs to its full value", low=0)
    end: float = knob(0.0, "share of the rate that is left at the end of the run", low=0.0, high=1.0)

    def shape(self, p: float) -> float:
        return 1.0 - (1.0 - self.end) * p


@method(
    "cosine",
    slot="schedule",
    section="IV.A",
    paper="Loshchilov, Hutter, SGDR: stochastic gradient descent with warm restarts, ICLR 2017",
    reduces_to="cosine(end=1.0) is constant",
    departs="One half wave over the run, no restarts.",
)
@dataclass(frozen=True)
class Cosine(Schedule):
    """The rate falls along half a cosine to `end` of it: factor end + (1 - end) (1 + cos(pi p))/2."""

    warmup: int = knob(0, "rounds in which the rate climbs to its full value", low=0)
    end: float = knob(0.0, "share of the rate that is left at the end of the run", low=0.0, high=1.0)

    def shape(self, p: float) -> float:
        return self.end + (1.0 - self.end) * (1.0 + math.cos(math.pi * p)) / 2


def standing(fed: Federation) -> Iterator[Problem]:
    """Rounds beyond the horizon whose rate is 0, which would train, send and change nothing; a warm-up without an end."""
    for slot, filled in fed.methods().items():
        for where, schedule in _within(filled, slot):
            if fed.rounds > fed.span and schedule.factor(fed.span, fed.span) == 0.0:
                what = f"its rate has fallen to 0 after {fed.span} rounds, and {fed.rounds} are asked for"
                why = "a schedule belongs to the horizon: rounds beyond it change nothing"
                fix = f"rounds={fed.span}; or a new run of {fed.rounds} rounds, or one whose schedule has end > 0"
                yield Problem(where, what, why, fix)
            if 0 < fed.span <= schedule.warmup:
                what = f"a warm-up of {schedule.warmup} rounds never ends in a run of {fed.span}"
                why = "no round would have the full rate"
                fix = f"warmup={max(0, fed.span - 1)} at most; or horizon={schedule.warmup + 1} or more"
                yield Problem(where, what, why, fix)


def _within(spec: Any, where: str) -> Iterator[tuple[str, Schedule]]:
    """The schedules of a method and of what it is made of."""
    if isinstance(spec, Schedule):
        yield where, spec
    elif isinstance(spec, Mapping):
        for key, value in spec.items():
            yield from _within(value, f"{where}.{key}")
    elif dataclasses.is_dataclass(spec) and not isinstance(spec, type):
        for f in dataclasses.fields(spec):
            yield from _within(getattr(spec, f.name, None), f"{where}.{f.name}")
