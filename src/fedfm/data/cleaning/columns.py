"""From the columns of a source to the canonical ones, by their kinds, with a count of every row that is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedfm.core.schema import Account, Unfit
from fedfm.data import kinds, source
from fedfm.data.cleaning.faults import Faults
from fedfm.data.cleaning.layouts import Wanted, sources
from fedfm.data.source import Row

Lines = Sequence[tuple[int, Mapping[str, Any]]]
Map = Mapping[str, tuple[str, ...]]
Pairs = list[tuple[Row, Mapping[str, Any]]]  # canonical and own row; a chat's own row may give several


@dataclass(frozen=True)
class Piece:
    """Rows of one origin: `place` for errors, whose they are ("" : nobody's yet), for which split, of which test group."""

    place: str
    lines: Lines = field(repr=False)
    party: str = ""
    split: str = "train"
    group: str = ""
    lost: Mapping[str, int] = field(default_factory=dict)

    @property
    def has(self) -> tuple[str, ...]:
        """Every column of any row, in order of first appearance."""
        return tuple(dict.fromkeys(k for _, row in self.lines for k in row))

    def account(self, lost: Mapping[str, int]) -> Account:
        """The rows that were lost here, by reason."""
        return source.lost(lost, self.split, self.party)


def lacking(wanted: Wanted, mapping: Map, has: Sequence[str], lines: Lines = ()) -> list[str]:
    """The required columns that rows with these columns cannot give; `lines`: some of the rows."""
    given = {c.name: s for c in wanted if (s := sources(c.name, mapping, has))}
    spared = {
        name
        for c in wanted
        if c.name in given and _asking(c.kind, given[c.name], lines)
        for name in _instead(c.kind)
    }
    return [c.name for c in wanted if c.required and c.name not in {*given, *spared}]


def shadowed(
    pieces: Sequence[Piece], wanted: Wanted, mapping: Map, maps: Mapping[str, Map], faults: Faults
) -> set[str]:
    """Tell of columns that stand for the same, and of which a row has several that differ: the first is taken."""
    for c in wanted:
        n, rows, of = 0, 0, dict.fromkeys(list[str]())
        for piece in pieces:
            names = sources(c.name, maps.get(piece.party, mapping), piece.has)
            if len(names) < 2:
                continue
            given = [[s for s in names if not kinds.empty(row.get(s))] for _, row in piece.lines]
            differ = [
                g for g, (_, row) in zip(given, piece.lines, strict=True) if len({str(row[s]) for s in g}) > 1
            ]
            of |= dict.fromkeys(s for g in differ for s in g)
            n, rows = n + len(differ), rows + len(given)
        if n:
            more = "; of several classes a row one alone is learnt" * isinstance(c.kind, kinds.Label)
            faults.notes.append(
                f"'{c.name}' is the first of {', '.join(of)} that is not empty, and {n:,} of {rows:,} rows have several that "
                f"differ: the others are not read{more}"
            )
    return set()


def clean(piece: Piece, wanted: Wanted, mapping: Map, faults: Faults, lost: Counter[str]) -> Pairs:
    """Pairs (canonical row, own row) of one piece, with line numbers in the faults.

    Several columns may stand for one: a row gives the first that is not empty. A row with an empty required column
    is left out and counted; a value of the wrong type is a fault.
    """
    wanted = tuple(sorted(wanted, key=lambda c: not _instead(c.kind)))  # a chat first: it spares others
    chats = {c.name for c in wanted if isinstance(c.kind, kinds.Chat)}
    from_ = {c.name: sources(c.name, mapping, piece.has) for c in wanted}
    kept: Pairs = []
    for line, theirs in piece.lines:
        row: Row = {}
        answers: list[Row] = [{}]
        for c in wanted:
            if _spared(c.name, row, wanted):
                continue
            column = next((s for s in from_[c.name] if not kinds.empty(theirs.get(s))), None)
            try:
                if column is not None:
                    row[c.name] = c.kind.clean(theirs[column])
                    if isinstance(c.kind, kinds.Chat):
                        answers = c.kind.spread(row[c.name])
                elif c.required:
                    raise Unfit("no value")
            except kinds.Wrong as e:
                faults.add(piece.place, f"'{column}' is {e}", _why(c.name, theirs[str(column)]), e.fix, line)
                break
            except Unfit as e:
                if not c.required and not _instead(c.kind):
                    continue
                lost[f"no {c.name}" if str(e) == "no value" else f"{c.name}: {e}"] += 1
                break
        else:
            lost.update(
                why
                for c in wanted
                if isinstance(c.kind, kinds.Chat) and c.name in row
                for why in c.kind.passed(row[c.name])
            )
            row = {k: v for k, v in row.items() if answers == [{}] or k not in chats}
            kept += [({**answer, **row}, theirs) for answer in answers]
    return kept


def _instead(kind: Any) -> tuple[str, ...]:
    return kind.instead if isinstance(kind, kinds.Turns | kinds.Reply) else ()


def _asking(kind: Any, names: Sequence[str], lines: Lines) -> bool:
    """Do the replies of a pair hold the question (as the first that is there does)? Chats always do."""
    values = (row[s] for _, row in lines for s in names if not kinds.empty(row.get(s)))
    first = next(values, None) if isinstance(kind, kinds.Reply) else None
    try:
        return first is None or kinds.Reply.asks(kind.clean(first))
    except Unfit:
        return True  # what is wrong with it is said of its row


def _spared(name: str, row: Row, wanted: Wanted) -> bool:
    """Does the row have a chat, or a reply with its question, which stands instead of this column?"""
    return any(
        name in _instead(c.kind) and (not isinstance(c.kind, kinds.Reply) or c.kind.asks(row[c.name]))
        for c in wanted
        if c.name in row
    )


def _why(column: str, value: Any) -> str:
    shown = (
        ""
        if hasattr(value, "shape")
        else f" from {ascii(value)[:40] if isinstance(value, str) else str(value)[:40]}"
    )
    return f"the column '{column}' cannot be read{shown}"
