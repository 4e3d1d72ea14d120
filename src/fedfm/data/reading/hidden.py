"""What a sheet of Excel holds and a reader of its cells does not see: hidden rows and columns, cells that are joined, and
formulas whose value nobody has saved."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat

_SHOWN = 8  # numbers of rows


@dataclass(frozen=True)
class Hidden:
    """Numbers of rows and of columns, from 1, that a sheet does not show; `sheet`: is it itself out of sight?"""

    rows: set[int] = field(default_factory=set)
    columns: list[range] = field(default_factory=list)
    sheet: bool = False
    joined: list[tuple[int, int, int]] = field(
        default_factory=list
    )  # a column, its first and its last row, from 1
    unvalued: list[str] = field(default_factory=list)  # cells of formulas

    def filled(self, rows: list[list[Any]]) -> None:
        """Write the value of cells that are joined over rows into each of them: a file holds it in the first alone."""
        for column, first, last in self.joined:
            if first <= len(rows) and column <= len(rows[first - 1]):
                value = rows[first - 1][column - 1]
                for row in rows[first:last]:
                    row += [None] * (column - len(row))
                    row[column - 1] = value

    def notes(self, place: str, sheet: str, rows: Sequence[int], columns: Sequence[str]) -> list[str]:
        """A sentence each on what was read all the same: of these rows, and of the columns of these names ("": none)."""
        found = []
        if self.sheet:
            found.append(f"{place}: the sheet '{sheet}' is hidden, and is read: it alone has rows")
        if out := [n for n in rows if n in self.rows]:
            found.append(
                f"{place}: {len(out)} of {len(rows)} rows of the sheet '{sheet}' are hidden (a filter?), and are read: "
                f"{_spans(out)}; {_MEND}"
            )
        if self.joined:
            found.append(
                f"{place}: {len(self.joined)} cells of the sheet '{sheet}' are joined over several rows: each of these rows has "
                "their value"
            )
        if names := [h for i, h in enumerate(columns, 1) if h and any(i in span for span in self.columns)]:
            found.append(
                f"{place}: {len(names)} of the columns of the sheet '{sheet}' are hidden, and are there to be read: "
                f"{', '.join(names[:_SHOWN])}; {_MEND}"
            )
        return found


_MEND = "delete them in the file if they are not meant"


def hidden(data: bytes, sheet: Any) -> Hidden:
    """What the worksheet, opened read-only by openpyxl (which drops it), marks as hidden."""
    found = Hidden(sheet=sheet.sheet_state != "visible")
    with zipfile.ZipFile(io.BytesIO(data)) as book, book.open(sheet._worksheet_path) as source:
        _Parser(found).read(source)
    return found


@dataclass
class _Parser:
    """Reads the XML of a worksheet, tag by tag."""

    found: Hidden
    row: int = 0
    cell: str = ""
    said: set[str] = field(default_factory=set)  # of this cell
    within: set[str] = field(default_factory=set)

    def read(self, source: Any) -> None:
        parser = expat.ParserCreate()
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.CharacterDataHandler = self._text
        parser.ParseFile(source)

    def _start(self, tag: str, marks: dict[str, str]) -> None:
        kind = tag.rpartition(":")[2]
        unseen = marks.get("hidden", "0").lower() in ("1", "true")
        if kind == "row":
            self.row = int(float(marks.get("r", self.row + 1)))
            if unseen:
                self.found.rows.add(self.row)
        elif kind == "col" and unseen:
            self.found.columns.append(range(int(marks["min"]), int(marks["max"]) + 1))
        elif kind == "c":
            self.cell = marks.get("r", f"row {self.row}")
            self.said = {"text"} if marks.get("t") == "str" else set()  # what a formula gives may be empty
        elif kind == "mergeCell":
            self.found.joined.extend(_joined(marks.get("ref", "")))
        self.said.add(kind)
        self.within.add(kind)

    def _end(self, tag: str) -> None:
        kind = tag.rpartition(":")[2]
        if kind == "c" and "f" in self.said and not self.said & {"value", "text"}:
            self.found.unvalued.append(self.cell)
        self.within.discard(kind)

    def _text(self, _: str) -> None:
        if "v" in self.within:
            self.said.add("value")


def _joined(cells: str) -> list[tuple[int, int, int]]:
    """Of C2:D11 the column C (as 3) from row 2 to 11; nothing of cells that are joined in one row."""
    if not (at := re.fullmatch(r"([A-Z]+)(\d+):[A-Z]+(\d+)", cells)) or at[2] == at[3]:
        return []
    column = 0
    for letter in at[1]:
        column = column * 26 + ord(letter) - ord("A") + 1
    return [(column, int(at[2]), int(at[3]))]


def _spans(numbers: Sequence[int]) -> str:
    """2-7, 9: numbers in ascending order, the first few of them."""
    spans: list[list[int]] = []
    for n in numbers:
        if spans and n == spans[-1][1] + 1:
            spans[-1][1] = n
        else:
            spans.append([n, n])
    said = [f"{a}-{b}" if b > a else str(a) for a, b in spans[:_SHOWN]]
    return ", ".join(said) + (", ..." if len(spans) > _SHOWN else "")
