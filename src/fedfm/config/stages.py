"""`stages:` of a config: each names what it does otherwise than the run, and is laid over the rest of the config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedfm.cards.registry import load
from fedfm.config.compose import Composition, Opened
from fedfm.config.marker import live
from fedfm.config.record import to_config
from fedfm.core.errors import ConfigError, Problem
from fedfm.core.federation import SHARED, Federation

_NOT_ONES_OWN = (*SHARED, "stages", "recipe")


def completed(config: Mapping[str, Any], problems: list[Problem]) -> Mapping[str, Any]:
    """The config with every stage complete; adds to `problems` what a stage may not say."""
    stages = config.get("stages")
    if not isinstance(stages, list | tuple) or not any(
        isinstance(s, Mapping) and not live(s) for s in stages
    ):
        return config
    rest = {k: v for k, v in config.items() if k not in ("stages", "recipe")}
    return {**config, "stages": [_over(rest, s, f"stages.{k}", problems) for k, s in enumerate(stages)]}


def _over(rest: Mapping[str, Any], stage: Any, where: str, problems: list[Problem]) -> Any:
    if not isinstance(stage, Mapping) or isinstance(stage, Opened) or live(stage):
        return stage
    for key in stage:
        if (first := str(key).partition(".")[0]) in (*SHARED, "stages"):
            why = "all stages of a run have it in common" if first in SHARED else "stages have no stages"
            problems.append(
                Problem(
                    f"{where}.{key}", f"a stage has no {first} of its own", why, f"set {first} beside stages"
                )
            )
    base = dict(rest)
    if isinstance(name := stage.get("recipe"), str):
        base |= {k: v for k, v in to_config(load(name, "recipe")()).items() if k not in _NOT_ONES_OWN}
    made = Composition(base)
    made.lay({k: v for k, v in stage.items() if str(k).partition(".")[0] not in _NOT_ONES_OWN})
    problems += made.problems
    return made.config


def joined(federations: Sequence[Federation]) -> Federation:
    """One federation from a list of stages, the last of them with the others before it.

    Raises ConfigError where they do not have in common what a run's stages must.
    """
    *before, last = federations
    for k, fed in enumerate(before):
        if unlike := [name for name in SHARED if getattr(fed, name) != getattr(last, name)]:
            what = f"stage {k + 1} has another {' and '.join(unlike)} than the last one"
            fix = "make it of the last one: replace(last, ...)"
            raise ConfigError([Problem("stages", what, "all stages of a run have it in common", fix)])
    return replace(last, stages=(*before, *last.stages))
