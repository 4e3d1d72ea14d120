"""Classes that are numbers already (y), and the names that somebody gave for them."""

from __future__ import annotations

from collections.abc import Sequence

from fedfm.core.errors import DataError
from fedfm.data.cleaning.columns import Pairs, Piece


def numbered(names: Sequence[str], rows: Sequence[tuple[Piece, Pairs]]) -> tuple[str, ...]:
    """The names such that class i is called by the i-th; empty where classes are no numbers (they have a `label`).

    Names that are the numbers themselves stand in the order of these. Raises DataError for a class without a name.
    """
    mine = [(p.place, r["y"]) for p, pairs in rows for r, _ in pairs if "y" in r and "label" not in r]
    if not mine or any(
        y.dim() or y.is_complex() or (y.is_floating_point() and y != y.floor()) for _, y in mine
    ):
        return ()
    own = [str(i) for i in range(len(names))]
    for place, y in mine:
        if not 0 <= int(y) < len(names):
            raise DataError(
                f"data.labels: {len(names)} names, and {place} has the class {int(y)}\n    why: numbers of classes start at "
                f"0, and the i-th name is of class i: 0 is '{names[0]}'\n    fix: a name for every class in the order of "
                "their numbers, numbers from 0 (y - y.min()), or no labels where y is no class"
            )
    return tuple(own) if sorted(names) == sorted(own) else tuple(names)
