"""`stages:` of a config: each names what it does otherwise than the run, and is laid over the rest of the config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedfm.cards.registry import load
from fedfm.config.compose import Composition, Opened
from fedfm.config.marker import live
from fedfm.config.record import to_config
from fedfm.core.errors import ConfigError, Problem
from fedfm.core.federation import SHARED, Federation

_NOT_ONES_OWN = (*SHARED, "stages", "recipe")
MOST = 100  # stages of a run: each is compared with all before it


def many(n: int) -> Problem:
    why = f"{MOST} are the most: each is checked against all before it"
    fix = "a schedule of client.lr, or several runs of which each starts from the model of the one before"
    return Problem("stages", f"{n:,} stages", why, fix)


def completed(config: Mapping[str, Any], problems: list[Problem]) -> Mapping[str, Any]:
    """The config with every stage complete; adds to `problems` what a stage may not say."""
    stages = config.get("stages")
    if not isinstance(stages, list | tuple) or not any(
        isinstance(s, Mapping) and not live(s) for s in stages
    ):
        return config
    if len(stages) > MOST:
        raise ConfigError([many(len(stages))])
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


def left(before: Federation, after: Federation) -> Iterator[str]:
    """What was set beside the stages, where a stage goes on with what it shared before: said, for nobody can guess it."""
    if not after.stages:
        return
    old, new = to_config(before), to_config(after)
    for k, stage in enumerate(new.get("stages", ())):
        for path, now, stays in _apart(old, new, stage):
            yield f"{path}={now} is for the last stage; stages.{k}.{path} stays {stays}, until it is set too"


def _apart(old: Any, new: Any, stage: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, str, str]]:
    for key, value in stage.items():
        if not at and key in (*_NOT_ONES_OWN, "rounds", "horizon"):
            continue
        was, now = old.get(key), new.get(key)
        maps = all(isinstance(v, Mapping) for v in (value, was, now))
        if maps and value.get("name") == was.get("name") == now.get("name"):
            yield from _apart(was, now, value, f"{at}{key}.")
        elif value == was != now:
            yield f"{at}{key}", _short(now), _short(value)


def _short(value: Any) -> str:
    return str(value.get("name", value) if isinstance(value, Mapping) else value)[:80]


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
