"""Texts that were escaped once too often: a backslash and n for a line end, &quot; for a quotation mark."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedfm.data.cleaning.columns import Pairs, Piece
from fedfm.data.cleaning.layouts import Wanted
from fedfm.data.kinds import Anything, Label
from fedfm.data.reading.turns import BESIDE, texts

MUCH, SOME = 0.5, 0.1  # shares of rows: alone, and where others have the character itself


@dataclass(frozen=True)
class Spelling:
    """How characters are spelled: `mark` finds one, `never` is in no text that was spelled so, `fix` undoes it."""

    mark: re.Pattern[str]
    never: re.Pattern[str]
    read: Callable[[str], str]
    fix: str


SPELLINGS = (
    Spelling(  # LaTeX and paths have backslashes before other letters too
        re.compile(r'(?<!\\)\\(?:n|"|u[0-9a-fA-F]{4})'),
        re.compile(r'\\[^nrtu"\\/]'),
        lambda mark: str(json.loads(f'"{mark}"')),
        "if texts were escaped twice, json.loads('\"' + text + '\"') reads them",
    ),
    Spelling(
        re.compile(r"&(?:[a-zA-Z]{2,8}|#\d{2,6}|#x[0-9a-fA-F]{2,6});"),
        re.compile(r"(?!)"),
        html.unescape,
        "if texts were taken from HTML, html.unescape(text) reads them",
    ),
)


def escaped(rows: Sequence[tuple[Piece, Pairs]], columns: Wanted) -> Iterator[str]:
    """A sentence for each spelling that much of a place is written in, or some of one where others have the characters."""
    unread = {c.name for c in columns if isinstance(c.kind, Label | Anything)} | {"group", "entry", BESIDE}
    said = [(p, [list(_texts(row, unread)) for row, _ in pairs]) for p, pairs in rows if pairs]
    for spelling in SPELLINGS:
        marks = Counter(m for _, mine in said for row in mine for m in _marks(row, spelling))
        if not marks:
            continue
        mark = marks.most_common(1)[0][0]
        if (char := spelling.read(mark)) == mark:
            continue  # it only looks like one
        has = {
            p.place: sum(any(char in spelling.mark.sub("", t) for t in row) for row in mine)
            for p, mine in said
        }
        held = {p.place: (sum(any(_marks(row, spelling)) for row in mine), len(mine)) for p, mine in said}
        plain = [place for place, n in has.items() if n and not held[place][0]]
        found = {
            place: (k, n)
            for place, (k, n) in held.items()
            if k and not has[place] and (k > MUCH * n or (plain and k >= SOME * n))
        }
        if found:
            k, n = (sum(v[i] for v in found.values()) for i in (0, 1))
            where = ", ".join(list(found)[:3]) + ", ..." * (len(found) > 3)
            beside = f", where {plain[0]} has the character itself" if plain else ""
            yield f"{k:,} of {n:,} rows of {where} spell {mark} in {len(mark)} characters{beside}: {spelling.fix}"


def _texts(row: Mapping[str, Any], unread: set[str]) -> Iterator[str]:
    return (t for name, value in row.items() if name not in unread for t in texts(value))


def _marks(row: Sequence[str], spelling: Spelling) -> Iterator[str]:
    for text in row:
        if ("\\" in text or "&" in text) and not spelling.never.search(text):
            yield from spelling.mark.findall(text)
