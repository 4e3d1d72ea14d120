"""Rows as pairs (x, y), the way a torch data set gives them: a list of them is rows, each a mapping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedfm.core.schema import Column
from fedfm.data.cleaning.columns import Piece
from fedfm.data.cleaning.layouts import ALIASES, KNOWN, USUAL
from fedfm.data.kinds import plain
from fedfm.data.reading.memory import is_array, is_pair, is_rows

_COLUMNS = {*KNOWN, *(n for names in (*ALIASES.values(), *USUAL.values()) for n in names)}


def rowed(data: Any, mapped: Any = ()) -> Any:
    """Lists of pairs as lists of mappings, everybody's or each party's; all else as it is.

    A pair is an input (text, picture, array, list of numbers) and one value that belongs to it. Lists of pairs under
    names of columns (known ones, and those that `mapped` holds) stay what they are.
    """
    if names := named(data):
        return [dict(zip(names, row, strict=True)) for row in data]
    if type(data) is not dict or not data or {*_COLUMNS, *_words(mapped)}.intersection(map(str, data)):
        return data
    found = {k: named(v) for k, v in data.items()}
    if not any(found.values()) or not all(found[k] or is_rows(v) for k, v in data.items()):
        return data
    return {k: rowed(v) if found[k] else v for k, v in data.items()}


def depicted(pieces: Sequence[Piece], columns: Sequence[Column] | None, mapped: Any) -> list[Piece]:
    """The pieces, with the arrays (x, y) of pairs as `image` and `label` where the task reads pictures.

    Whoever declares no columns, as a module of one's own, gets x and y as they are, bytes too.
    """
    if not {"image", "label"} <= (asked := {c.name for c in columns or ()}) or "x" in asked:
        return list(pieces)
    named = {"x": "image", "y": "label"}
    if named.keys() & {*_words(mapped)}:
        return list(pieces)
    return [
        replace(p, lines=[(n, {named.get(k, k): v for k, v in row.items()}) for n, row in p.lines])
        if {*named} <= {*p.has} and not {*named.values()} & {*p.has} and _pixels(p)
        else p
        for p in pieces
    ]


def _pixels(piece: Piece) -> bool:
    return len(getattr(piece.lines[0][1].get("x"), "shape", ())) in (2, 3)


def _words(value: Any) -> Iterator[str]:
    """The texts in a map of columns, however deep."""
    if isinstance(value, str):
        yield value
        return
    if isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _words(inner)


def named(data: Any) -> tuple[str, str] | None:
    """The columns that a list of pairs gives; None for anything else."""
    if not isinstance(data, list | tuple) or not data or (isinstance(data, tuple) and is_pair(data)):
        return None
    kinds = {_named(row) for row in data} if _named(data[0]) else {None}
    return kinds.pop() if len(kinds) == 1 else None


def _named(row: Any) -> tuple[str, str] | None:
    if not isinstance(row, list | tuple) or len(row) != 2 or not _single(row[1]):
        return None
    x = row[0]
    if isinstance(x, str):
        return "text", "label"
    if isinstance(x, bytes) or hasattr(x, "getbands"):
        return "image", "label"
    if is_array(x):
        return "x", "y"
    listed = isinstance(x, Sequence) and not isinstance(x, Mapping) and len(x) > 0
    return ("x", "y") if listed and not isinstance(x[0], str | Mapping) else None


def _single(value: Any) -> bool:
    return value is None or isinstance(plain(value), str | int | float | None)
