"""What a sheet of Excel holds and does not show: rows that a filter left out, and columns folded away."""

from __future__ import annotations

import io
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
    row = 0

    def start(tag: str, marks: dict[str, str]) -> None:
        nonlocal row
        kind = tag.rpartition(":")[2]
        if kind not in ("row", "col"):
            return
        unseen = marks.get("hidden", "0").lower() in ("1", "true")
        if kind == "row":
            row = int(float(marks.get("r", row + 1)))
            if unseen:
                found.rows.add(row)
        elif unseen:
            found.columns.append(range(int(marks["min"]), int(marks["max"]) + 1))

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    with zipfile.ZipFile(io.BytesIO(data)) as book, book.open(sheet._worksheet_path) as source:
        parser.ParseFile(source)
    return found


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
