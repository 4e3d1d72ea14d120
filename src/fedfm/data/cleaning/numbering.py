"""Numbers that stand for something: for classes (y), whose names somebody gave, and for rows."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fedfm.core.errors import DataError
from fedfm.data.cleaning.alike import counted, odd_cells
from fedfm.data.cleaning.columns import Pairs, Piece
from fedfm.data.cleaning.faults import Faults
from fedfm.data.kinds import plain

_WRITTEN = re.compile(r"__index_level_\d+__|unnamed: \d+(\.\d+)?", re.I)  # by a table's writer, of its index
_COUNTS = re.compile(r"index|idx|id|row_?(id|no|nr|number)", re.I)  # by people, of rows or of other things


def counting(name: str, values: Callable[[], Iterable[Any]]) -> bool:
    """Does a column of this name count the rows: whole numbers, each another (as tables write their index)?"""
    written = _WRITTEN.fullmatch(name)
    if not (written or _COUNTS.fullmatch(name)):
        return False
    numbers = [plain(v) for v in values()]
    if len(numbers) < 2 or any(isinstance(v, bool) or not isinstance(v, int | float) for v in numbers):
        return False
    if not all(math.isfinite(v) and v == int(v) for v in numbers) or len({*numbers}) < len(numbers):
        return False
    return bool(written) or max(numbers) - min(numbers) + 1 == len(numbers)


def tabled(
    pieces: Sequence[Piece],
    layout: str,
    named: Collection[str],
    mapped: Collection[str],
    faults: Faults,
    *,
    free: bool,
) -> list[Piece]:
    """What a task that declares no columns learns from: texts that are numbers as these, and no numbers of rows.

    `free`: no map says what the columns are; a cell that is no number among numbers is a fault then, and raises.
    """
    if layout not in ("", "arrays"):
        return list(pieces)
    pieces = counted(pieces, named)
    if layout:
        return pieces
    pieces = uncounted(pieces, {*named, *mapped}, faults)
    if free:
        odd_cells(pieces, {*named, *mapped}, faults)
    return pieces


def uncounted(pieces: Sequence[Piece], named: Collection[str], faults: Faults) -> list[Piece]:
    """The pieces without columns that count the rows everywhere, which a module would learn from; a note of each."""
    full = [p for p in pieces if p.lines]
    names = [h for h in dict.fromkeys(h for p in full for h in p.has) if h not in named]
    odd = [h for h in names if all(counting(h, partial(_cells, p, h)) for p in full if h in p.has)]
    faults.notes += map(left_out, odd)
    if not odd:
        return list(pieces)
    lines = [[(n, {k: v for k, v in row.items() if k not in odd}) for n, row in p.lines] for p in pieces]
    return [replace(p, lines=rows) for p, rows in zip(pieces, lines, strict=True)]


def _cells(piece: Piece, column: str) -> list[Any]:
    return [r.get(column) for _, r in piece.lines]


def left_out(name: str) -> str:
    return f"the column '{name}' is left out: it counts the rows (another number in each), and would be learnt from"


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
