"""A plan and its cost: how cohorts will be drawn, the noise that an epsilon needs for them, what they will spend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedfm.core.combine import Pipe, stages_of
from fedfm.core.context import Ctx
from fedfm.core.exposure import noises
from fedfm.core.federation import Federation, replace

Sampling = Mapping[str, Any]
HIGHEST = 20.0  # beyond this epsilon (e^20 = 5e8) no meaningful guarantee is left


def schedule(fed: Federation, parties: int) -> tuple[Sampling, ...]:
    """How the cohort of each planned round is drawn, by trying the selector on so many equal parties."""
    ctx, pool = Ctx(fed.seed), {f"party-{i}": 1 for i in range(parties)}
    if fed.select.asks:  # what is answered decides, so nothing is known beforehand
        return ({"kind": "by answers"},) * horizon(fed)
    state, found = fed.select.init(pool, ctx), []
    for t in range(horizon(fed)):
        plan, state = fed.select.select(pool, state, ctx.at(round=t), {})
        found.append(dict(plan.sampling))
    return tuple(found)


def horizon(fed: Federation) -> int:
    """Rounds of the whole run, to which calibrated noise belongs."""
    return fed.rounds


def planned(fed: Federation, parties: int) -> Federation:
    """The federation with every epsilon turned into the noise that it needs; `parties`: how many there are."""
    stages = stages_of(fed.uplink)
    if not any(s.accountant is not None for s in stages):
        return fed
    draws = schedule(fed, parties)
    ready = tuple(s if s.accountant is None else s.accountant.planned(s, draws) for s in stages)
    return fed if ready == stages else replace(fed, uplink=ready[0] if len(ready) == 1 else Pipe(*ready))


def promise(fed: Federation, parties: int) -> str:
    """What the plan's epsilon is, and whom it protects, before anything runs; empty without a guarantee."""
    stages = noises(planned(fed, parties))
    if not stages:
        return ""
    spent = stages[0].accountant.planned_cost(stages, schedule(fed, parties), parties)
    budget = min((s.budget for s in stages if s.budget is not None), default=None)
    stop = (
        f"; the run stops before epsilon {budget:g}" if budget is not None and budget < spent.epsilon else ""
    )
    return f"{fed.rounds} rounds would spend {spent}{stop}"
