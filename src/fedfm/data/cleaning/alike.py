"""Pictures and arrays of one federation: one shape, and one kind of number."""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedfm.data.cleaning.columns import Map, Pairs, Piece
from fedfm.data.cleaning.faults import Faults
from fedfm.data.cleaning.layouts import Wanted, layout_of
from fedfm.data.kinds import MISSING, Label, empty, plain

WHOLE = re.compile(r"[+-]?(0|[1-9]\d{0,17})")
NUMERAL = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_ARRAY = re.compile(r"\[\s*[-+.\deE]+(\s+[-+.\deE]+)+\s*\]")  # as numpy prints one
_TRUTH = {"true": True, "false": False}
_KINDS = (bool, int, float)
Numbers = type[bool] | type[int] | type[float]
FLOATS, INTEGERS = "floats", "integers"


def counted(pieces: Sequence[Piece], named: Collection[str]) -> list[Piece]:
    """The pieces with columns of texts that are all numbers, as CSV files give them, as numbers; those `named` stay.

    A column is whole numbers, or floats, for all parties alike, and may be numbers at some of them. 007 is a name.
    """
    found: dict[str, Numbers] = {}
    written, other = set[str](), set(named)
    for name, value in ((k, v) for p in pieces for _, row in p.lines for k, v in row.items()):
        if name in other or gap(value):
            continue
        if (
            (kind := _counts(value)) is None
            or bool in (kind, was := found.get(name, kind))
            and kind is not was
        ):
            other.add(name)
        elif found.get(name) is not float:
            found[name] = kind
        if isinstance(value, str):
            written.add(name)
    read = {k: kind for k, kind in found.items() if k in written and k not in other}
    if not read:
        return list(pieces)
    lines = [[(n, {k: _read(v, read.get(k)) for k, v in row.items()}) for n, row in p.lines] for p in pieces]
    return [replace(p, lines=rows) for p, rows in zip(pieces, lines, strict=True)]


def _counts(value: Any) -> Numbers | None:
    """What a number (or True, False) is, as a text or as itself; None for anything else."""
    if isinstance(value, str):
        text = value.strip()
        if text.casefold() in _TRUTH:
            return bool
        return None if not NUMERAL.fullmatch(text) else int if WHOLE.fullmatch(text) else float
    value = plain(value)
    return type(value) if isinstance(value, bool | int | float) and type(value) in _KINDS else None


def _read(value: Any, kind: Numbers | None) -> Any:
    if kind is bool and isinstance(value, str) and not gap(value):
        return _TRUTH[value.strip().casefold()]
    return value if kind is None else None if gap(value) else kind(plain(value))


def gap(value: Any) -> bool:
    """Is there no value, or a word for none?"""
    return empty(value) or (isinstance(value, str) and value.strip().casefold() in MISSING)


def numeric(pieces: Sequence[Piece]) -> list[str]:
    """The columns that hold numbers or arrays of them, and nothing else but gaps, in every piece that has them."""
    left = dict.fromkeys(k for p in pieces for k in p.has)
    for _, row in (line for p in pieces for line in p.lines):
        for name in [k for k in left if not empty(v := row.get(k)) and not _number(v)]:
            del left[name]
    return list(left)


def odd_cells(pieces: Sequence[Piece], other: Collection[str], faults: Faults) -> None:
    """Note what is no number in a table of numbers, a fault for each column, and raise: of a few cells the first, with its
    line; of a column of categories that it is one. A table with other texts is none of numbers."""
    names = [h for h in dict.fromkeys(h for p in pieces for h in p.has) if h not in other]
    of = {h: [v for p in pieces for _, r in p.lines if not gap(v := r.get(h))] for h in names}
    odd = {h: wrong for h, values in of.items() if (wrong := [v for v in values if not _numeral(v)])}
    few = {h for h, wrong in odd.items() if len(wrong) * 2 <= len(of[h])}
    said = all(isinstance(v, str) for wrong in odd.values() for v in wrong)
    if not said or len(names) - len(odd) + len(few) < 2 or not all(_named(odd[h]) for h in odd.keys() - few):
        return
    for h, wrong in odd.items():
        piece, line = next((p, n) for p in pieces for n, r in p.lines if r.get(h) is wrong[0])
        shown = repr(wrong[0])[:40]
        if h in few:
            what = f"'{h}' is {shown}, which is no number"
            what += f" (and {len(wrong) - 1:,} more cells of the column are none)" * (len(wrong) > 1)
            why = "the other cells of the column are numbers, which a module learns from"
            fix = "a number (3.5 for 3,5 and 5 for 5%), an empty cell where there is none, or leave the column out"
            faults.add(piece.place, what, why, fix, line)
            continue
        what, why = f"the column '{h}' holds text, such as {shown}", "a module learns from numbers"
        fix = f"numbers for it (a column of 0 and 1 for each value), leave it out, or data.columns={{label: {h}}} if it is the class"
        faults.add(piece.place, what, why, fix)
    faults.settle()


def _numeral(value: Any) -> bool:
    return _counts(value) is not None or _number(value)


def _named(values: Sequence[Any]) -> bool:
    """Are these names of categories: several, which come up again?"""
    return 1 < len({*values}) <= len(values) // 2


def _number(value: Any) -> bool:
    value = plain(value)
    if isinstance(value, list | tuple) and value:
        return all(map(_number, value))
    dtype = str(getattr(value, "dtype", "object")).removeprefix("torch.")
    return isinstance(value, bool | int | float) or dtype.startswith(
        ("float", "bfloat", "int", "uint", "bool")
    )


def several(
    pieces: Sequence[Piece], columns: Wanted, mapping: Map, maps: Mapping[str, Map], faults: Faults
) -> set[str]:
    """Note labels that are lists, or texts that a table has made of lists, one fault a piece; the places of those pieces."""
    found = set[str]()
    for piece in pieces:
        named = [
            s
            for c in columns
            if c.name == "label"
            for s in maps.get(piece.party, mapping).get(c.name, (c.name,))
        ]
        for name in named:
            lists = [v for _, r in piece.lines if _listing(v := r.get(name))]
            if len(lists) * 2 > len(piece.lines):  # else of those rows alone
                text = " as text" * isinstance(lists[0], str)
                shown = f"{len(lists)} of {len(piece.lines)} rows, such as {str(lists[0])[:40]}"
                faults.add(
                    piece.place,
                    f"'{name}' is a list{text} in {shown}",
                    "the task learns one class a row, and no task several at once yet",
                    "one name a row: a column for one of the classes, or a name for each combination ('a+b')",
                )
                found.add(piece.place)
    return found


def _listing(value: Any) -> bool:
    """Is it a list, an array, or a text that a table has made of one: [1, 0], ['a', 'b'], [1 0], (1, 0), {'a'}?"""
    if isinstance(value, str):
        text = value.strip()
        if (text[:1], text[-1:]) not in (("[", "]"), ("(", ")"), ("{", "}")):
            return False
        if _ARRAY.fullmatch(text):
            return True
        for read in (ast.literal_eval, json.loads):
            with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                return isinstance(read(text), list | tuple | set)
        return False
    return isinstance(value, list | tuple) or getattr(value, "shape", ()) != ()


def otherwise(pieces: Sequence[Piece], columns: Wanted) -> str:
    """What else rows of no known layout may be, to be told where a column is missed; empty: nothing."""
    has, numbers = pieces[0].has, numeric(pieces)
    rest, said = ", ".join(h for h in has if h not in numbers), ""
    flags = [
        h
        for h in has
        if {str(plain(r.get(h))) for _, r in pieces[0].lines}
        in ({"0", "1"}, {"False", "True"}, {"0.0", "1.0"})
    ]
    if flags[1:] and any(isinstance(c.kind, Label) and c.required for c in columns):
        said = f"; {', '.join(flags[:4])} are marks of several classes a row, and one is learnt"
    if deep := [
        h for h in has if _objects(next((v for _, r in pieces[0].lines if not empty(v := r.get(h))), None))
    ]:
        said += f"; {', '.join(deep[:4])} hold lists of objects, of which each is to be written as a row of its own"
    if numbers[1:] and not layout_of(has):
        alone = (
            f", or numbers alone (without {rest})"
            if rest
            else f": for parties called {', '.join(has[:4])} too"
        )
        said += f"; a module of your own reads (x, y), columns x and y{alone}"
    return said


def _objects(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(v, Mapping) and "role" not in v for v in value)


def alike(rows: Sequence[tuple[Piece, Pairs]], faults: Faults) -> None:
    """Note arrays that cannot share a batch, and a party's or the test's numbers that are of another kind."""
    usual, kinds = _usual(rows), dict[str, tuple[str, str]]()
    for piece, pairs in rows:
        found, odd = dict[str, set[str]](), dict[str, list[int]]()
        for i, (row, _) in enumerate(pairs):
            for column in (c for c, v in row.items() if hasattr(v, "shape")):
                if tuple(row[column].shape):  # a single number becomes what the task reads it as
                    found.setdefault(column, set()).add(_kind(row[column]))
                if tuple(row[column].shape) != usual[column][0]:
                    odd.setdefault(column, []).append(i)
        for column, at in odd.items():
            shape, (one, where) = tuple(pairs[at[0]][0][column].shape), usual[column]
            fix = "give arrays of one shape"
            if column == "image":
                fix = "data.image_mode=RGB" if shape[0] != one[0] else ""
                fix += f" data.image_size={min(one[-1], 224)}" if shape[1:] != one[1:] else ""
            more = f" (and in {len(at) - 1:,} more of its {len(pairs):,} rows it is not {one})" * (
                len(at) > 1
            )
            what = (
                f"'{column}' of {_row(piece, at[0])} has the shape {shape}, that of {where} has {one}{more}"
            )
            faults.add(piece.place, what, "a batch needs one shape", fix.strip())
        for column, some in found.items():
            kind = FLOATS if FLOATS in some else INTEGERS if len(some) > 1 else min(some)
            other, where = kinds.setdefault(column, (kind, piece.place))
            if kind != other:
                what = f"'{column}' holds {kind}, that of {where} {other}"
                why = "a module takes one kind of number, and their scales differ as a rule (0 to 255 beside 0 to 1)"
                faults.add(piece.place, what, why, "convert and scale the column alike everywhere")


def _usual(rows: Sequence[tuple[Piece, Pairs]]) -> dict[str, tuple[tuple[int, ...], str]]:
    """The shape that most pieces have most of, by column, and the first row that has it."""
    votes: dict[str, Counter[tuple[int, ...]]] = {}
    first: dict[tuple[str, tuple[int, ...]], str] = {}
    for piece, pairs in rows:
        mine: dict[str, Counter[tuple[int, ...]]] = {}
        for i, (row, _) in enumerate(pairs):
            for column, shape in ((c, tuple(v.shape)) for c, v in row.items() if hasattr(v, "shape")):
                mine.setdefault(column, Counter())[shape] += 1
                first.setdefault((column, shape), _row(piece, i))
        for column, shapes in mine.items():
            votes.setdefault(column, Counter())[shapes.most_common(1)[0][0]] += 1
    found = {column: shapes.most_common(1)[0][0] for column, shapes in votes.items()}
    return {column: (shape, first[column, shape]) for column, shape in found.items()}


def _row(piece: Piece, i: int) -> str:
    return f"{piece.party or piece.place}, row {i + 1}"


def _kind(values: Any) -> str:
    """Floats of any width are read as one kind, and so are the integers that index."""
    name = str(values.dtype).removeprefix("torch.")
    if "float" in name:
        return FLOATS
    return INTEGERS if name in ("int32", "int64") else name
