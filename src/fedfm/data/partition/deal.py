"""Arithmetic that the partitions share: sizes, cuts, and rows in an order that mixes the labels evenly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedfm.core.errors import DataError


def enough(rows: int, parties: int, min_rows: int, who: str) -> None:
    """Raise `DataError` unless every one of `parties` can have `min_rows` of the rows."""
    if parties < 1:
        raise DataError(f"{who}: parties is {parties}; a federation needs at least 1")
    if parties * max(min_rows, 1) > rows:
        raise DataError(
            f"{who}: {rows} rows cannot give {parties} parties at least {max(min_rows, 1)} each "
            f"({parties * max(min_rows, 1)} are needed); use fewer parties, a smaller minimum or more rows"
        )


def kinds_of(
    rows: Sequence[Mapping[str, Any]], labels: Sequence[str] | None, who: str, purpose: str
) -> Sequence[str]:
    """What rows are skewed by: labels or groups, else the class numbers y of arrays. Raises `DataError` without."""
    if labels is not None:
        return labels
    numbers = [_class(row.get("y")) for row in rows]
    found = [n for n in numbers if n is not None]
    if rows and len(found) == len(rows):
        return found
    numbered = " (nor class numbers: y is no whole number in every row)" if rows and "y" in rows[0] else ""
    raise DataError(f"{who}: these rows have no labels or groups{numbered} to {purpose}; use iid or quantity")


def _class(y: Any) -> str | None:
    if y is None or np.ndim(y) or np.asarray(y).dtype.kind not in "biuf" or not float(y).is_integer():
        return None
    return str(int(y))


def apportion(shares: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers near `shares * total` (shares sum to 1) with sum `total`: the largest remainders."""
    exact = shares * total
    sizes = np.floor(exact).astype(int)
    late = np.argsort(sizes - exact, kind="stable")[: total - int(sizes.sum())]
    sizes[late] += 1
    return np.asarray(sizes)


def mixed_order(n: int, labels: Sequence[str] | None, rng: np.random.Generator) -> np.ndarray:
    """The row numbers in random order; every contiguous piece has nearly the global mix of labels."""
    order = rng.permutation(n)
    if labels is None:
        return order
    place = np.empty(n)
    names = np.asarray(labels)[order]
    for name in sorted(set(labels)):
        here = np.flatnonzero(names == name)
        place[here] = (np.arange(len(here)) + rng.random()) / len(here)
    return order[np.argsort(place, kind="stable")]


def cut(order: np.ndarray, sizes: np.ndarray) -> dict[str, list[int]]:
    """Contiguous pieces of `order`, one per party, each in ascending order."""
    pieces = np.split(order, np.cumsum(sizes)[:-1])
    return named([piece.tolist() for piece in pieces])


def named(pieces: Sequence[list[int]]) -> dict[str, list[int]]:
    """`party-0`, `party-1`, ... in that order."""
    return {f"party-{k}": sorted(piece) for k, piece in enumerate(pieces)}
