"""Names of classes: as agreed beforehand, and of text targets of a module of one's own, numbered alike for all parties."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fedfm.core.errors import DataError
from fedfm.core.schema import Column
from fedfm.data.cleaning.alike import NUMERAL, WHOLE, gap
from fedfm.data.cleaning.columns import Map, Piece
from fedfm.data.cleaning.faults import Faults
from fedfm.data.cleaning.layouts import KNOWN, Wanted, sources
from fedfm.data.kinds import Array, name

Maps = Mapping[str, Map]
_TABLE = 12  # names up to which a table of numbers is written out


def named(
    pieces: Sequence[Piece], columns: Wanted, mapping: Map, maps: Maps, faults: Faults, *, declared: bool
) -> tuple[Wanted, Map, Maps]:
    """Columns and maps under which targets y that are text everywhere are labels, and a note that they are.

    All stays where the task `declared` its columns, and where targets are numbers, or text at some parties only.
    """
    texts, others = _parted(pieces, mapping, maps) if _asked(columns) else ({}, [])
    if declared or not texts or others or _both(pieces):
        return columns, mapping, maps
    faults.notes.append(
        f"the targets y are text, such as {_first(texts)}: they are names of classes, which are numbered in the order of "
        "the names of all parties"
    )

    def turned(own: Map) -> Map:
        return {**{c: s for c, s in own.items() if c != "y"}, "label": (*own.get("y", ("y",)), "label")}

    labelled = tuple(KNOWN["label"] if c.name == "y" else c for c in columns)
    return labelled, turned(mapping), {party: turned(own) for party, own in maps.items()}


def spelled(pieces: Sequence[Piece], columns: Wanted, mapping: Map, maps: Maps, faults: Faults) -> set[str]:
    """Note targets that are text where a task needs numbers, one fault for all; the places of those pieces."""
    if not _asked(columns):
        return set()
    texts, others = _parted(pieces, mapping, maps)
    if coded := [p.place for p in pieces if any(isinstance(r.get("y"), bytes) for _, r in p.lines)]:
        what, why = "the targets y are bytes", "nobody knows in which code they are written"
        faults.once(coded, what, why, "texts: y = [v.decode() for v in y]")
        return set(coded)
    if not texts:
        return set()
    what, why = f"the targets y are text, such as {_first(texts)}", "a module learns from numbers"
    names = sorted(set().union(*texts.values()))
    short = names[:_TABLE] if len(names) <= _TABLE else "names"
    listed = "" if len(names) <= _TABLE else ", with names = the sorted names of all parties"
    if all(map(NUMERAL.fullmatch, names)):
        kind = "int" if all(map(WHOLE.fullmatch, names)) else "float"
        fix = f"numbers: y = [{kind}(v) for v in y]"
    elif others:
        why = f"in {others[0]} they are numbers, and nobody knows which name is which number"
        fix = f"names everywhere: there y = [{short}[v] for v in y]{listed}, if 0 is {names[0]!r}"
    elif _both(pieces):
        fix = "leave the column 'label' out where y is the target; else leave y out"
    else:
        fix = f"class numbers, the same at every party: y = [{short}.index(v) for v in y]{listed}"
    faults.once(list(texts), what, why, fix)
    return set(texts)


def _both(pieces: Sequence[Piece]) -> bool:
    return any({"label", "y"} <= set(p.has) for p in pieces)


def _asked(columns: Wanted) -> bool:
    return any(c.name == "y" and isinstance(c.kind, Array) for c in columns)


def _parted(pieces: Sequence[Piece], mapping: Map, maps: Maps) -> tuple[dict[str, set[str]], list[str]]:
    """The texts among the targets by the place where they are, and the places where targets are something else."""
    texts: dict[str, set[str]] = {}
    others: list[str] = []
    for piece in pieces:
        names = sources("y", maps.get(piece.party, mapping), piece.has)
        values = [v for _, r in piece.lines for v in [next((r[s] for s in names if not gap(r.get(s))), None)]]
        said = {str(v) for v in values if isinstance(v, str) and v.strip()[:1] != "["}  # "[1, 2]" is an array
        if said:
            texts[piece.place] = said
        if any(v is not None and not isinstance(v, str) for v in values):
            others.append(piece.place)
    return texts, others


def _first(texts: Mapping[str, set[str]]) -> str:
    return repr(min(next(iter(texts.values())))[:40])


def as_text(given: Any) -> Any:
    """Names as a person gives them, numbers and truths as their text; what is no list of these stays as it is."""
    given = given.tolist() if isinstance(given, np.ndarray) else given
    if not isinstance(given, list | tuple):
        return given
    plain = [n.item() if isinstance(n, np.generic) else n for n in given]
    return tuple(name(n) if isinstance(n, bool | int) else n for n in plain)


def no_classes(labels: Sequence[Any] | None, columns: Iterable[str]) -> None:
    """Raises DataError where it was agreed that there are no class names, and a column has some."""
    if labels is not None or not (found := sorted(c for c in columns if classes(c))):
        return
    raise DataError(
        f"data.labels=null says that there are no class names, and '{found[0]}' holds some\n    why: null is for numbers (y) "
        "without names; [] takes the names from the rows\n    fix: data.labels=[...] with the names of all classes, or "
        "data.labels=[]"
    )


def classes(column: str) -> bool:
    """Does a column of this name hold class names?"""
    return column.startswith("label")


def reads(columns: Sequence[Column] | None) -> bool:
    """May a task that reads these need class names? One that does not say what it reads may."""
    return not columns or any(classes(c.name) for c in columns)
