"""CSV and its relatives: the separator and the quoting are found by trying, and the result is checked."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from fedfm.data.cleaning.faults import Faults

MARKS = (",", ";", "\t", "|")
_SAMPLE = 300  # records looked at to find the separator
_NAMES = {"\t": "tab"}
Record = tuple[int, list[str]]


@contextmanager
def _long_fields() -> Iterator[None]:
    """Fields of any length, for the time of reading: the limit is a global of the csv module."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _comments(text: str) -> int:
    """Lines before a table that begin with # and have no separator, as its own first line has."""
    lines = text.split("\n", 50)
    n = next((i for i, line in enumerate(lines) if not line.startswith("#")), 0)
    parted = [any(mark in line for mark in MARKS) for line in lines[: n + 1]]
    return n if n and parted[n] and not any(parted[:n]) else 0


def rows(
    place: str, text: str, faults: Faults, lost: Counter[str], mark: str = "", quoting: str = "auto"
) -> list[tuple[int, dict[str, Any]]]:
    """(line, row) of a table in text; `mark` "" and `quoting` "auto" are found by trying.

    Faults: rows of another length than the header, a name that is twice in the header. A row that repeats the
    header (files put behind each other) is left out and counted in `lost`.
    """
    first, skip = text.split("\n", 1)[0].strip().strip('"'), 0
    if first.lower().startswith("sep=") and len(first) <= 5:  # Excel's own first line
        mark, skip = mark or first[4:] or ",", 1
        text = text.partition("\n")[2]
    if n := _comments(text):
        what = "a line of comment stands" if n == 1 else f"{n} lines of comment stand"
        why, them = "the first line holds the names of the columns", "it" if n == 1 else "them"
        faults.add(
            place,
            f"{what} before the table",
            why,
            f"remove {them}: sed -i {skip + 1},{skip + n}d FILE",
            skip + 1,
        )
        return []
    mark = {"tab": "\t", "\\t": "\t"}.get(mark, mark)
    if len(mark) > 1:
        why = "one character parts the fields"
        faults.add("separator", f"{mark!r} is no separator", why, "one of , ; | or tab")
        return []
    with _long_fields():
        found = mark or _guessed(text)
        bare = quoting == "none" or (quoting == "auto" and _bare(text, found))
        table = _records(text, found, bare)
        header: list[str] = []
        kept: list[tuple[int, dict[str, Any]]] = []
        try:
            for line, record in table:
                if not header:
                    header = [h.strip() for h in record]
                    if not _fit_header(place, header, faults, line + skip):
                        return []
                elif len(record) != len(header):
                    _ragged(place, record, header, found, faults, line + skip)
                elif [f.strip() for f in record] == header:
                    lost["the header again"] += 1
                else:
                    kept.append((line + skip, {h: f for h, f in zip(header, record, strict=True) if h}))
        except csv.Error as e:
            line = getattr(e, "line", 1) + skip
            fix = "write the file with a CSV library; data.quoting=none if its quotation marks mean nothing"
            faults.add(place, "not valid CSV", f"{e} (separator {_said(found)})", fix, line)
    return kept


def _records(text: str, mark: str, bare: bool) -> Iterator[Record]:
    """Non-empty records with the line on which each begins; csv.Error carries its `line`."""
    quotes: dict[str, Any] = {"quoting": csv.QUOTE_NONE, "quotechar": None} if bare else {"strict": True}
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, **quotes)
    while True:
        line = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as e:
            e.line = line  # type: ignore[attr-defined]
            raise
        if record and any(f.strip() for f in record):
            yield line, record


def _guessed(text: str) -> str:
    """The separator under which the first records are most often as long as the header, and longer than one field."""
    best, mark = (0.0, 0), ","
    for candidate in MARKS:
        lengths = [len(r) for r in _sample(text, candidate)]
        if lengths and lengths[0] > 1:
            same = sum(n == lengths[0] for n in lengths[1:]) / max(1, len(lengths) - 1)
            if (same, lengths[0]) > best:
                best, mark = (same, lengths[0]), candidate
    return mark


def _sample(text: str, mark: str) -> list[list[str]]:
    found: list[list[str]] = []
    try:
        for _, record in islice(_records(text, mark, False), _SAMPLE):
            found.append(record)
    except csv.Error:
        return [r for _, r in islice(_records(text, mark, True), _SAMPLE)]
    return found


def _bare(text: str, mark: str) -> bool:
    """Do quotation marks mean nothing here? Then every line is a record of the header's length, and quoting fails.

    Between tabs it is enough that quoting joins lines: a field with line ends and tabs inside is none.
    """
    if '"' not in text:
        return False
    lengths = [len(r) for _, r in _records(text, mark, True)]
    if not lengths or lengths[0] < 2 or any(n != lengths[0] for n in lengths):
        return False
    try:
        quoted = [len(r) for _, r in _records(text, mark, False)]
    except csv.Error:
        return True
    return mark == "\t" and len(quoted) < len(lengths)  # a text may hold commas, hardly ever tabs


def _fit_header(place: str, header: list[str], faults: Faults, line: int) -> bool:
    twice = [h for h, n in Counter(h for h in header if h).items() if n > 1]
    if twice:
        why, fix = (
            f"the header is {', '.join(header)}",
            "rename one of the two: nobody can tell which is meant",
        )
        faults.add(place, f"two columns are called '{twice[0]}'", why, fix, line)
    return not twice


def _ragged(place: str, record: list[str], header: list[str], mark: str, faults: Faults, line: int) -> None:
    s = "" if len(record) == 1 else "s"
    faults.add(
        place,
        f"{len(record)} field{s} where the header has {len(header)}",
        f"the row begins on this line; the separator is taken to be {_said(mark)}",
        "quote fields that hold the separator or a line break; if the separator is another: data.separator=...",
        line,
    )


def _said(mark: str) -> str:
    return _NAMES.get(mark, repr(mark))
