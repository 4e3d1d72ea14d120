"""What stands in a slot is an object of that slot: from Python anything can be given, and every rule reads its facts."""

from __future__ import annotations

import functools
import typing
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from fedfm.cards.registry import SLOT_OF, load
from fedfm.checks.ranges import ranges
from fedfm.config.building import examine
from fedfm.core.errors import ConfigError, Problem
from fedfm.core.federation import Federation
from fedfm.core.protocols import Slot, Wire

NULL = "null in a config is the slot's default; from Python the slot is left out"


def filled(fed: Federation) -> Iterator[Problem]:
    """Slots that hold something else than an object of their own kind; other rules cannot be asked of those."""
    for slot, kind in _kinds().items():
        held = getattr(fed, slot)
        if not isinstance(held, kind):
            yield Problem(
                slot, _told(held), f"an object of {kind.__name__} is read here", _fix(slot, kind, held)
            )
    if isinstance(fed.engine, type) or not callable(getattr(fed.engine, "make", None)):
        why = "an object with `make`, which opens it, is read here"
        yield Problem("engine", _told(fed.engine), why, _fix("engine", object, fed.engine))


def typed(fed: Federation) -> list[Problem]:
    """Values of another type than their fields have: a config's reader refuses them, and an object may hold any."""
    found: list[Problem] = []
    examine(replace(fed, stages=()), "", found)
    known = [*map(str, ranges(fed))] if found else []
    return [p for p in found if p.where != "data" and str(p) not in known]  # data may be given as it is


@functools.cache
def _kinds() -> Mapping[str, type[Slot]]:
    hints = typing.get_type_hints(Federation)
    return {n: h for n, h in hints.items() if isinstance(h, type) and issubclass(h, Slot)}


def _told(held: Any) -> str:
    if held is None or isinstance(held, str):
        return f"{held!r} cannot stand here"
    return (
        f"{held.__name__} is a class"
        if isinstance(held, type)
        else f"{type(held).__name__} cannot stand here"
    )


def _fix(slot: str, kind: type, held: Any) -> str:
    if held is None:
        return f"leave {slot} out: {NULL}"
    if isinstance(held, type) and issubclass(held, kind):
        return f"make one: {held.__name__}(...)"
    if issubclass(kind, Wire) and isinstance(held, list | tuple):
        return f"{slot}=Pipe(first, second, ...)"
    if isinstance(held, str):
        try:
            return f"make one: {load(held, SLOT_OF.get(slot, slot)).__name__}(...)"
        except ConfigError:
            pass
    return f"give an object; `fedfm list --slot {SLOT_OF.get(slot, slot)}` shows what there is"
