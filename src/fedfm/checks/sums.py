"""Noise on a sum: what one party may move, what the sum is divided by, who is drawn, for how many rounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedfm.cards.registry import name_of
from fedfm.core.combine import stages_of
from fedfm.core.errors import Problem
from fedfm.core.protocols import Wire
from fedfm.core.spending import TRIAL, noises

if TYPE_CHECKING:
    from fedfm.core.federation import Federation


def central(fed: Federation) -> Iterator[Problem]:
    """Noise on a sum: one party must move it by no more than the accountant believes."""
    yield from _beyond(fed)
    yield from _ends(fed)
    stage = next((s for s in noises(fed) if s.after_sum), None)
    if stage is None:
        return
    aggregate, select, pace, name = fed.aggregate, fed.select, fed.pace, name_of(stage)
    if aggregate.alpha_max is None or aggregate.alpha_max > 1.0:
        what = f"{name_of(aggregate)} gives a party a weight that has no public bound of 1 (`alpha_max`)"
        why = (
            f"one party could move the sum by its weight times clip_norm, but {name} adds noise for clip_norm"
        )
        fix = "aggregate.weights=equal, or aggregate.cap=ROWS with aggregate.denominator"
        yield Problem("aggregate", what, why, fix)
    if aggregate.divisor != "public":
        yield from _divisor(fed, name, stage.relation)
    if not pace.independent:
        what = f"under {name_of(pace)} whether a party counts depends on the others (`independent`)"
        why = (
            "a party that joins pushes another one out, or mixes rounds: the sum moves by 2 clip_norm or more"
        )
        yield Problem(
            "pace", what, why, "pace=synchronous, or quorum with a deadline, eager=false and late=cancel"
        )
    if (stage.relation == "add-or-remove" or select.random_size) and pace.quorum(TRIAL) > 1:
        what, why = (
            f"{name_of(pace)} gives up below a quorum",
            "whether a round succeeds tells how many took part",
        )
        fix = "pace=synchronous, or quorum with fraction=0"
        fix += "" if select.random_size else f", or {name}.relation=zero-out"
        yield Problem("pace", what, why, fix)
    yield from _drawn(fed, stage)


def _drawn(fed: Federation, stage: Wire) -> Iterator[Problem]:
    """What the draw of a cohort would tell."""
    select, name = fed.select, name_of(stage)
    if stage.relation == "add-or-remove" and select.draws == "uniform":
        what = f"{name_of(select)} draws so many of all parties, and {name} hides how many there are"
        why = (
            "epsilon, the noise that is made for it and the ledger's plan depend on that number, and are told"
        )
        yield Problem("select", what, why, f"select=poisson or everybody, or {name}.relation=zero-out")
    if select.random_size and any(s.opaque for s in stages_of(fed.uplink)):
        what = f"{name_of(select)} draws cohorts of random size under masks"
        why = "a cohort below 3 cannot be masked, so a failed round tells the size that must stay secret"
        yield Problem("select", what, why, "select=uniform, or everybody")
    if (select.random_size or stage.relation == "add-or-remove") and fed.serving.counts:
        what = f"{name_of(fed.serving)} looks at how many contributed, or does not say that it does not (`counts`)"
        hidden = "under Poisson sampling" if select.random_size else "where a party may be there or not"
        fix = "server=apply" + (
            ", or select=uniform" if select.random_size else f", or {name}.relation=zero-out"
        )
        yield Problem("server", what, f"that number is private {hidden}", fix)
    if select.draws == "unknown":
        what = f"{name_of(select)} draws parties in a way that no accountant knows (`draws`)"
        why = f"the epsilon of {name} depends on how a round's cohort was drawn"
        yield Problem("select", what, why, "select=poisson, uniform or everybody")


def _divisor(fed: Federation, name: str, change: str) -> Iterator[Problem]:
    """What the noisy sum is divided by is published with it: it must not depend on who contributed what."""
    aggregate, fix = fed.aggregate, "aggregate.denominator = expected number of contributors (rate x parties)"
    what, why = "", ""
    if fed.select.cuts:
        what, why = (
            "by the parties that hold a coordinate",
            "a coordinate of few parties is known to be theirs",
        )
    elif aggregate.divisor != "count":
        what, why = "by the sum of the weights", "the sum of private weights is a release without noise"
    elif fed.select.random_size:
        what, why = "by the cohort's random size", "that size is private under Poisson sampling"
    elif fed.pace.loses:
        what, why = "by who delivered", "who delivered changes the scale of the published noise"
    elif change == "add-or-remove":
        what, why = (
            "by the contributors",
            "the spread of the published values tells whether a party took part",
        )
        fix += f", or {name}.relation=zero-out"
    if what:
        yield Problem("aggregate.denominator", f"{name_of(aggregate)} divides {what}", why, fix)


def _ends(fed: Federation) -> Iterator[Problem]:
    """An epsilon is of a plan, whatever ends the run."""
    if noises(fed) and fed.evaluate.stop_after:
        what = "the run ends at a round that its results choose"
        why = "an epsilon of the rounds so far would be told, and only that of the whole plan holds"
        yield Problem(
            "evaluate.stop_after", what, why, "evaluate.stop_after=0; evaluate.keep_best=true is free"
        )


def _beyond(fed: Federation) -> Iterator[Problem]:
    """Noise that is made for an epsilon over the horizon has spent it there."""
    for i, stage in enumerate(stages_of(fed.uplink)):
        if stage in noises(fed) and stage.epsilon is not None and fed.rounds > fed.span:
            what = f"{name_of(stage)} spends epsilon {stage.epsilon:g} in {fed.span} rounds, and {fed.rounds} are asked for"
            why = "its noise is made for the horizon; each round beyond would spend more than was promised"
            fix = f"rounds={fed.span}; or a new run of {fed.rounds} rounds, with noise for all of them"
            yield Problem(f"uplink.{i}.epsilon", what, why, fix)
