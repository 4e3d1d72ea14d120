"""Class names that were agreed beforehand: as text; and that there are none, where that was agreed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fedfm.core.errors import DataError
from fedfm.core.schema import Column
from fedfm.data.kinds import name


def as_text(given: Any) -> Any:
    """Names as a person gives them, numbers and truths as their text; what is no list of these stays as it is."""
    given = given.tolist() if isinstance(given, np.ndarray) else given
    if not isinstance(given, list | tuple):
        return given
    plain = [n.item() if isinstance(n, np.generic) else n for n in given]
    return tuple(name(n) if isinstance(n, bool | int) else n for n in plain)


def no_classes(labels: Sequence[Any] | None, columns: Iterable[str]) -> None:
    """Raises DataError where it was agreed that there are no class names, and a column has some."""
    if labels is None or labels or not (found := sorted(c for c in columns if classes(c))):
        return
    raise DataError(
        f"data.labels=[] says that there are no class names, and '{found[0]}' holds some\n    why: [] is for numbers (y) "
        "without names; null takes the names from the rows\n    fix: data.labels=[...] with the names of all classes, or "
        "data.labels=null"
    )


def classes(column: str) -> bool:
    """Does a column of this name hold class names?"""
    return column.startswith("label")


def reads(columns: Sequence[Column] | None) -> bool:
    """May a task that reads these need class names? One that does not say what it reads may."""
    return not columns or any(classes(c.name) for c in columns)
