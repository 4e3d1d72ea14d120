"""From what somebody gives, on the command line or in Python, to a federation that passed its checks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedfm.cards.registry import load, recipes
from fedfm.checks.rules import check
from fedfm.config import text
from fedfm.config.building import from_config
from fedfm.config.compose import Composition, resolved, twice
from fedfm.config.marker import live, plain_scalar
from fedfm.config.places import anchor
from fedfm.config.setup import Setup
from fedfm.config.stages import joined, left
from fedfm.core.errors import ConfigError, Problem
from fedfm.core.federation import Federation
from fedfm.data.arrays import as_source


def configure(
    what: str | Path | Mapping[str, Any] | Federation | Sequence[Federation] | Setup,
    settings: str | Iterable[str] | Mapping[str, Any] = (),
    *,
    rounds: int | None = None,
    seed: int | None = None,
    engine: Any = None,
    slots: Mapping[str, Any] | None = None,
    also: Mapping[str, Any] | None = None,
) -> Setup:
    """A checked federation from a recipe's name, a YAML file, a mapping or a Federation.

    `settings`: "client.lr=0.1" (values are YAML), or a mapping of paths to values. `slots`: values of whole slots, as
    a config says them or as objects, which stay the objects that they are. `also`: more settings by path.
    Raises ConfigError with all problems.
    """
    made, recipe = _begin(what)
    for slot, value in (slots or {}).items():
        made.put(slot, given(value) if slot == "data" else value)
    for path, value in (also or {}).items():
        made.put(path, value)
    said = _put(made, settings)
    for key, value in {"rounds": rounds, "seed": seed, "engine": engine}.items():
        if isinstance(value, int | str) and str(said.get(key, value)) != str(value):
            made.notes.append(f"{key}={said[key]} gives way to --{key} {value}")
    for key, number in (("rounds", rounds), ("seed", seed)):
        if number is not None:
            made.put(key, plain_scalar(number))
    anchor(made)
    if engine is not None:
        made.put("engine", {"name": engine} if isinstance(engine, str) else engine)
    fed = from_config(made.done())
    if problems := check(fed):
        raise ConfigError(problems)
    before = load(recipe, "recipe")() if recipe else what
    stay = left(before, fed) if isinstance(before, Federation) else ()
    return Setup(fed, recipe, (*made.notes, *stay))


def _put(made: Composition, settings: str | Iterable[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Apply the settings; returns them by path."""
    if isinstance(settings, Mapping):
        made.problems += twice(settings)
        for path, value in settings.items():
            made.put(str(path), value)
        return {str(path): value for path, value in settings.items()}
    lines = [settings] if isinstance(settings, str) else [*map(str, settings)]
    text.apply(made, lines)
    return {path.strip(): value for path, _, value in (line.partition("=") for line in lines)}


def _begin(what: Any) -> tuple[Composition, str | None]:
    if isinstance(what, Setup):
        return _begin(what.fed)[0], what.recipe
    if isinstance(what, list | tuple) and what and all(isinstance(f, Federation) for f in what):
        what = joined(what)
    if isinstance(what, Federation):
        made = Composition(what)
        made.config["data"] = given(what.data)
        return made, None
    if isinstance(what, Mapping):
        return _resolved(what)
    if not isinstance(what, str | Path):
        why = "a recipe's name, a YAML file, a mapping, a Federation or a list of these is expected"
        raise ConfigError([Problem("run", f"{type(what).__name__} cannot be run", why, "give one of these")])
    if str(what) in recipes() or not (Path(what).suffix in (".yaml", ".yml") or Path(what).is_file()):
        return _resolved({"recipe": str(what)})  # an unknown name raises, and names the nearest
    return _resolved(text.load(what))


def _resolved(config: Mapping[str, Any]) -> tuple[Composition, str | None]:
    return resolved(config), config.get("recipe")


def given(value: Any) -> Any:
    """What the data slot holds, from whatever somebody has: a source, a config of one, paths, or rows in memory."""
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return value
    if value is None or isinstance(value, type) or (live(value) and hasattr(value, "open")):
        return value
    if (
        live(value)
        and hasattr(value, "__getitem__")
        and hasattr(value, "__len__")
        and not hasattr(value, "columns")
    ):
        with contextlib.suppress(Exception):  # a torch Dataset of rows; what it is not, as_source says
            if isinstance(value[0], Mapping) and not hasattr(value, "column_names"):
                value = [value[k] for k in range(len(value))]
    source = as_source(value)
    if hasattr(source, "open"):
        return source
    why = "a source, paths, a table, a data set, rows, or a mapping party -> such rows is expected"
    what = f"{type(value).__name__} is no data set that can be opened"
    raise ConfigError([Problem("data", what, why, "for arrays: {party: (x, y)}; for files: their paths")])
