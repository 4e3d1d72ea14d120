"""Settings that say where something lies (`knob(place=...)`), at any depth of a config."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fedfm.cards.registry import load, methods
from fedfm.config.compose import Composition
from fedfm.models import catalog

ROWS = "rows"  # of `knob(place=...)`: files of rows; else a folder, or what is known by a name
Place = tuple[str, Any, str]


def places(node: Any, at: str = "") -> Iterator[Place]:
    """Dotted path, value and sort of every setting that says where something lies; `node`: a config, objects among it."""
    sorts = dict(_sorts(node))
    for key, value in _items(node):
        here = f"{at}.{key}" if at else str(key)
        if key in sorts and value is not None:
            yield here, value, sorts[key]
        else:
            yield from places(value, here)


def anchor(made: Composition) -> None:
    """Paths that exist from here become absolute: a run is resumed, and its model loaded, from anywhere."""
    for at, value, sort in list(places(made.config)):
        several = [value] if isinstance(value, str | Path) else value
        if not isinstance(several, list | tuple) or not all(isinstance(v, str | Path) for v in several):
            continue
        if sort != ROWS and str(value) in catalog():
            continue  # a packaged model wins over a folder of its name
        placed = [_absolute(str(v)) for v in several]
        if placed != list(several):
            made.put(at, placed[0] if isinstance(value, str | Path) else placed)


def unplaced(node: Any) -> Any:
    """A config in which a path of this machine is its last part alone: where things lie here is nobody else's business."""
    if isinstance(node, list):
        return [unplaced(v) for v in node]
    if not isinstance(node, Mapping):
        return node
    sorts = dict(_sorts(node))
    return {k: _last(v) if k in sorts else unplaced(v) for k, v in node.items()}


def _last(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_last(v) for v in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _items(node: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(node, Mapping):
        return node.items()
    if isinstance(node, list | tuple):
        return enumerate(node)
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return (
            (f.name, getattr(node, f.name)) for f in dataclasses.fields(node) if f.repr
        )  # rows in memory are no config
    return ()


def _sorts(node: Any) -> Iterator[tuple[str, str]]:
    """The fields of a method's spec that are places, and of what."""
    name = node.get("name") if isinstance(node, Mapping) else None
    of = load(name) if isinstance(name, str) and name in methods() else type(node)
    for f in dataclasses.fields(of) if dataclasses.is_dataclass(of) else ():
        if sort := f.metadata.get("place"):
            yield f.name, sort


def _absolute(path: str) -> str:
    try:
        there = bool(path) and next(iter(glob.iglob(path)), None) is not None
    except (OSError, ValueError):  # no path at all
        there = False
    return str(Path(path).absolute()) if there else path
