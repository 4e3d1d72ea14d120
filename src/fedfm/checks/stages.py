"""Runs of several stages: what each of them refuses, and what they must have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from fedfm.cards.registry import name_of
from fedfm.core.errors import FedfmError, Problem
from fedfm.core.federation import Federation
from fedfm.core.spending import TRIAL, guards, noises, planned


def staged(fed: Federation, check: Callable[[Federation], list[Problem]]) -> Iterator[Problem]:
    """The problems of the stages before the last, by `check`, and of the way from one to the next."""
    wrong = [
        replace(p, where=f"stages.{k}.{p.where}") for k, stage in enumerate(fed.stages) for p in check(stage)
    ]
    yield from wrong
    for k, stage in enumerate(fed.stages):
        if stage.evaluate.stop_after:
            yield Problem(
                f"stages.{k}.evaluate.stop_after",
                "a stage before the last would stop early",
                "rounds are numbered through, so the next stage would take the rounds that are left over",
                "stop_after in the last stage alone",
            )
        if stage.evaluate.keep_best:
            yield Problem(
                f"stages.{k}.evaluate.keep_best",
                "a stage before the last would keep its best round",
                "rounds are numbered through, and the next stage begins from the last one",
                "keep_best in the last stage alone",
            )
        if not stage.serving.whole:
            yield Problem(
                f"stages.{k}.server",
                f"{name_of(stage.serving)} has no one model",
                "the next stage begins from the model of this one",
                "put this stage last",
            )
    if not wrong:
        yield from _protected(fed)


def _protected(fed: Federation) -> Iterator[Problem]:
    """What one stage hides, another must not show; an epsilon is the whole run's."""
    promised = [{(g.against, g.relation, g.budget) for g in guards(s)} for s in fed.each]
    if len({frozenset(p) for p in promised}) > 1:
        said = "; ".join(
            f"stage {k + 1}: {', '.join(map(name_of, guards(s))) or 'none'}" for k, s in enumerate(fed.each)
        )
        yield Problem(
            "stages",
            f"the stages do not promise the same ({said})",
            "all of them learn from the same rows: whoever gets the model of one stage gets the others', and what one does not "
            "cover is in no account of the run",
            "the same protection in every stage, with one relation and one budget",
        )
        return
    try:
        ready = planned(fed, TRIAL)
    except FedfmError:
        return  # what cannot be planned is said where the number of parties is known
    calibrated = [noises(was) != noises(now) for was, now in zip(fed.each, ready.each, strict=True)]
    events = {str([n.release().get("event") for n in noises(s)]) for s in ready.each}
    if any(calibrated) and (not all(calibrated) or len(events) > 1):
        yield Problem(
            "stages",
            "an epsilon is given, and the stages do not add the same noise",
            "an epsilon is the whole run's: it becomes one noise for all of its rounds",
            "the same epsilon and mechanism in every stage, or a noise_multiplier in each",
        )
