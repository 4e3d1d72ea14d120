"""A column that need not be there, and is in some files alone: rows with and without it would be one data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedfm.data.cleaning.columns import Map, Piece
from fedfm.data.cleaning.faults import Faults
from fedfm.data.cleaning.layouts import USUAL, Wanted, sources

HALVES = ("text_pair",)  # without it a row is another question; other columns add to a row


def uneven(
    pieces: Sequence[Piece], columns: Wanted, mapping: Map, maps: Mapping[str, Map], faults: Faults
) -> set[str]:
    """Note files without the second half of what others hold, and tell of files without what is only added."""
    blamed: set[str] = set()
    for name in (c.name for c in columns if not c.required and c.name not in ("group", "task", "entry")):
        full = [p for p in pieces if p.lines]
        there = {p.place: sources(name, maps.get(p.party, mapping), p.has) for p in full}
        lack = [p for p in full if not there[p.place]]
        if not lack or len(lack) == len(full):
            continue
        first = next(p for p in full if there[p.place])
        if name not in HALVES:
            some = ", ".join(p.place for p in lack[:3]) + ", ..." * (len(lack) > 3)
            faults.notes.append(f"the column '{name}' is in {first.place}, and not in {some}")
            continue
        theirs = [h for p in lack for h in p.has if h == name or h in USUAL.get(name, ())]
        names = list(dict.fromkeys([*(s for found in there.values() for s in found), *theirs]))
        fix = (
            f"data.columns={{{name}: [{', '.join(names)}]}}"
            if theirs
            else f"give it there too (a cell may be empty), or leave '{name}' out everywhere"
        )
        what = f"there is no column '{name}', which {first.place} has"
        for p in lack:
            faults.add(p.place, what, "texts that belong together would be read alone here", fix)
        blamed |= {p.place for p in lack}
    return blamed


def unlike(pieces: Sequence[Piece], columns: Wanted, faults: Faults) -> None:
    """Note columns that a module of one's own would get from some places alone, at whichever are fewer; raises them."""
    full = [p for p in pieces if p.lines]
    for name in (c.name for c in columns if c.required):
        have, lack = [p.place for p in full if name in p.has], [p.place for p in full if name not in p.has]
        if not lack or not have:
            continue
        more = len(have) <= len(lack)
        others = ", ".join((lack if more else have)[:3]) + ", ..." * (len(lack if more else have) > 3)
        what = (
            f"there is a column '{name}', which is not in {others}"
            if more
            else f"there is no column '{name}', which is in {others}"
        )
        why = "every column of numbers is a tensor of the batch, so all rows need the same ones"
        fix = (
            f"leave '{name}' out there (in pandas rows.drop(columns={name!r})), or give it everywhere"
            if more
            else f"give '{name}' there too, or leave it out everywhere (in pandas rows.drop(columns={name!r}))"
        )
        faults.once(have if more else lack, what, why, fix)
    if columns:
        faults.settle()
