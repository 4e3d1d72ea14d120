"""A column map to offer to somebody whose map does not fit: tried on the data first, never offered untried."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fedfm.cards.registry import load, methods
from fedfm.core.schema import Column, Unfit
from fedfm.data import kinds
from fedfm.data.cleaning.alike import NUMERAL
from fedfm.data.cleaning.columns import Map, Piece, clean, lacking
from fedfm.data.cleaning.faults import Faults
from fedfm.data.cleaning.layouts import KNOWN, LAYOUTS, USUAL, Wanted, layout_of, setting, sources, wanted

_ROWS = 200  # of a file, on which a map is tried
_REPEAT = 4  # rows from which on a class name must come up twice


def headless(piece: Piece) -> bool:
    """Does the header look like a row: no name that anybody uses, and a value of the very column among the names?"""
    usual = {*KNOWN, *(n for names in USUAL.values() for n in names)}
    if not piece.lines or {h.lower() for h in piece.has} & usual:
        return False
    return any(
        any(isinstance(v := row.get(h), str) and v == h for _, row in piece.lines[:_ROWS]) for h in piece.has
    )


def proposal(pieces: Sequence[Piece], needs: Wanted, mapping: Map, maps: Mapping[str, Map]) -> str:
    """The fix for rows that lack columns: a map that was tried on all pieces, or what to do by hand."""
    odd = next((p for p in pieces if lacking(needs, maps.get(p.party, mapping), p.has, p.lines)), pieces[0])
    if headless(odd):
        return f"{odd.place} looks as if it has no header: put the columns' names on its first line"
    other = "" if _worded(odd) or _alone(odd) else layout_of(odd.has)
    needed = [c.name for c in needs if c.required]
    named = f"these rows are {other}; the task reads {', '.join(needed)}: {_readers(other)}" if other else ""
    if other and not set(needed) & set(LAYOUTS[other]):
        return named
    found: dict[str, list[str]] = {c: list(s) for c, s in mapping.items() if c in {w.name for w in needs}}
    for piece in pieces:
        own = maps.get(piece.party, mapping)
        missing = lacking(needs, own, piece.has, piece.lines)
        taken = {s for c, names in found.items() if c not in missing for s in names}
        taken |= {s for c in needs if c.name not in missing for s in sources(c.name, own, piece.has)}
        for column in missing:
            theirs = _candidate(column, own, piece, taken)
            if theirs is None:
                return named or _by_hand(needed)
            kept = [s for s in found.get(column, []) if any(s in p.has for p in pieces)]
            found[column] = list(dict.fromkeys([*kept, theirs]))
            taken.add(theirs)
        for column in (c.name for c in needs if not c.required and type(c.kind) is kinds.Text):
            low = {f.lower(): f for f in piece.has if f not in taken}  # a second text is not left behind
            if found.keys() and (theirs := next((low[n] for n in USUAL.get(column, ()) if n in low), None)):
                found.setdefault(column, []).append(theirs)
    offered = {c: names[0] if len(names) == 1 else names for c, names in found.items() if names}
    tried = {c: tuple(names) for c, names in found.items()}
    return setting(offered) if _works(pieces, needs, tried) else named or _by_hand(needed)


def _worded(piece: Piece) -> bool:
    """Is what is called x a text? Then the rows are no arrays, whatever their columns are called."""
    first = next((v for _, row in piece.lines[:_ROWS] if not kinds.empty(v := row.get("x"))), None)
    return isinstance(first, str) and first.lstrip()[:1] != "[" and not NUMERAL.fullmatch(first.strip())


def _alone(piece: Piece) -> bool:
    """Is what is called labels one name in each row?"""
    values = [v for _, row in piece.lines[:_ROWS] if not kinds.empty(v := row.get("labels"))]
    return bool(values) and all(
        isinstance(v, str | int | float) and str(v).lstrip()[:1] != "[" for v in values
    )


def _readers(layout: str) -> str:
    """What to do about rows of a layout that the task does not read."""
    known = (name for name, card in methods().items() if card.slot == "task")
    tasks = {name: getattr(load(name, "task"), "columns", ()) for name in known}
    fit = [
        name
        for name, columns in tasks.items()
        if isinstance(columns, tuple)  # not those of the parts that a task of tasks is made of
        and {c.name for c in columns}.issuperset(LAYOUTS[layout])
        and not lacking(columns, {}, LAYOUTS[layout])
    ]
    if not fit:
        return (
            "a module of your own learns from them (in Python: fedfm.Torch), or give other rows"
            if layout == "arrays"
            else f"no task learns from {layout} yet, give other rows"
        )
    return f"take another task (task={' or task='.join(fit)}), or other rows"


def _by_hand(needed: Sequence[str]) -> str:
    names = ", ".join(f"{c}: YOUR_COLUMN" for c in needed)
    return f"say which of your columns each is: 'data.columns={{{names}}}'"


def turned(pieces: Sequence[Piece], columns: Sequence[Column] | None, mapping: Map) -> str:
    """The map the other way round as a setting, when that works and this one cannot; else empty."""
    back = {names[0]: (ours,) for ours, names in mapping.items() if len(names) == 1}
    known = {c.name for c in columns} if columns else set(KNOWN)
    if not mapping or len(back) != len(mapping) or set(mapping) <= known or not set(back) <= known:
        return ""
    full = [p for p in pieces if p.lines]
    needs = wanted(columns, back, dict.fromkeys(k for p in full for k in p.has), Faults("a trial"))
    return setting({c: s[0] for c, s in back.items()}) if _works(full, needs, back) else ""


def _candidate(column: str, mapping: Map, piece: Piece, taken: set[str]) -> str | None:
    """A column of a like name, of a usual name, or of a likely content."""
    known = set(KNOWN) - ({"x", "y"} if _worded(piece) else set()) - ({"labels"} if _alone(piece) else set())
    free = [f for f in piece.has if f not in taken and (f == column or f not in known)]
    if column in free:
        return column  # it was mapped elsewhere, to nothing
    low = {f.lower(): f for f in free}
    sample, kind = [row for _, row in piece.lines[:_ROWS]], KNOWN[column].kind if column in KNOWN else None
    names = {f for f in free if isinstance(kind, kinds.Text) and _repeats([r.get(f) for r in sample])}
    for asked in mapping.get(column, ()):
        if close := difflib.get_close_matches(asked, free, n=1, cutoff=0.5):
            return close[0]
    near = difflib.get_close_matches(
        column, free, n=1, cutoff=0.75
    )  # nobody wrote it: no name of a class for a text
    if column not in mapping and near and near[0] not in names:
        return near[0]
    if usual := next((low[n] for n in USUAL.get(column, ()) if n in low), None):
        return usual
    if isinstance(kind, kinds.Label):
        fits = [f for f in free if _repeats([r.get(f) for r in sample])]
        return min(fits, key=lambda f: len({str(r.get(f)) for r in sample}), default=None)
    if not isinstance(kind, kinds.Text):
        return None
    fits = [f for f in free if any(isinstance(r.get(f), str) and not kinds.empty(r[f]) for r in sample)]
    return max(
        fits, key=lambda f: sum(len(v) for r in sample if isinstance(v := r.get(f), str)), default=None
    )


def _repeats(values: Sequence[Any]) -> bool:
    """Are these class names: more than one, at least one of them twice, few for so many rows?"""
    try:
        names = [kinds.name(v) for v in values if not kinds.empty(v)]
    except Unfit:
        return False
    different = len(set(names))
    return different > 1 and (len(names) < _REPEAT or different <= len(names) // 2)


def _works(pieces: Sequence[Piece], needs: Wanted, mapping: Map) -> bool:
    """Does every piece give rows under this map, most of them, with no fault, and labels that come up again?"""
    labels: list[str] = []
    for piece in pieces:
        if not piece.lines:
            continue
        if lacking(needs, mapping, piece.has, piece.lines):
            return False
        faults, few = Faults("a trial"), Piece(piece.place, piece.lines[:_ROWS])
        rows = clean(few, needs, mapping, faults, Counter())
        if faults.problems or len(rows) * 2 < len(few.lines):
            return False
        labels += [r["label"] for r, _ in rows if "label" in r]
    return len(labels) < _REPEAT or (len(set(labels)) > 1 and len(set(labels)) * 2 <= len(labels))
