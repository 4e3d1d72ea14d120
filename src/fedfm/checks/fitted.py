"""Settings that people take from rows: under a guarantee nothing leads to values of private rows, and what is set is told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import CellType
from typing import TYPE_CHECKING, Any

from fedfm.cards.knobs import settings
from fedfm.core.errors import Problem
from fedfm.core.spending import noises

if TYPE_CHECKING:
    from fedfm.core.federation import Federation


@dataclass(frozen=True)
class Fitted(Problem):
    """A problem whose sentences give statistics of rows; `quiet`: what, why and fix without them."""

    quiet: tuple[str, str, str] = ("", "", "")


def discreet(fed: Federation, problems: Iterable[Problem]) -> list[Problem]:
    """The problems as they may be said: where noise is promised, without statistics that would stand in the public config."""
    guaranteed = any(noises(stage) for stage in fed.each)
    return [_plain(p, guaranteed) if isinstance(p, Fitted) else p for p in problems]


def _plain(p: Fitted, guaranteed: bool) -> Problem:
    return Problem(p.where, *(p.quiet if guaranteed else (p.what, p.why, p.fix)))


def fitted(fed: Federation) -> list[str]:
    """The settings that are not at their defaults and, as their knobs say, are taken from rows as a rule."""
    return list(dict.fromkeys(_walk(fed)))


def _walk(fed: Federation) -> Iterator[str]:
    for at, _, f, value in settings(fed):
        if f.metadata.get("fitted") and (_counted(value) if callable(value) else value != f.default):
            yield f"{at}={value:g}" if isinstance(value, float) else at


def _counted(function: Any) -> bool:
    """Does a function or module hold numbers of its own, such as weights of classes?"""
    cells = [c.cell_contents for c in getattr(function, "__closure__", None) or () if c != CellType()]
    given = [*getattr(function, "args", ()), *(getattr(function, "keywords", None) or {}).values(), *cells]
    given += [*(getattr(function, "__defaults__", None) or ()), *getattr(function, "__dict__", {}).values()]
    given += list(function.state_dict().values()) if hasattr(function, "state_dict") else []
    return any(hasattr(v, "shape") for v in given)
