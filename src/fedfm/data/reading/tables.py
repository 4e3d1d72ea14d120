"""Parquet and Excel, which need libraries of the extra `data`."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedfm.core.errors import MissingExtra
from fedfm.data.cleaning.faults import Faults
from fedfm.data.reading.hidden import hidden

Lines = list[tuple[int, dict[str, Any]]]


def parquet(path: Path, data: bytes, faults: Faults, sheet: str = "") -> Lines:
    """The rows of a Parquet file, numbered from 1; nothing of the path is read as a column."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("pyarrow", "data", f"reading {path}") from None
    try:
        # One thread: a worker may be forked from this process later.
        table = pyarrow.parquet.ParquetFile(io.BytesIO(data)).read(use_threads=False)
    except (pyarrow.ArrowException, OSError) as e:
        why = str(e).split("\n")[0]
        faults.add(str(path), "not a readable Parquet file", why, "write the file again")
        return []
    if not _once(path, table.column_names, faults):
        return []
    try:
        return list(enumerate(_named(table.to_pylist(), table.schema.metadata or {}), 1))
    except UnicodeDecodeError as e:
        faults.add(str(path), "the file's text is not UTF-8", str(e), "write it again as UTF-8")
        return []


def _named(rows: list[dict[str, Any]], metadata: Mapping[bytes, bytes]) -> list[dict[str, Any]]:
    """Class numbers by their names, where `datasets` wrote these beside the table: each file counts in its own order."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        names = {
            c: f["names"] for c, f in features.items() if f.get("_type") == "ClassLabel" and f.get("names")
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return rows
    for row in rows:
        for c, known in names.items():
            if known and isinstance(k := row.get(c), int):
                row[c] = known[k] if 0 <= k < len(known) else None  # -1: no label
    return rows


def workbook(path: Path, data: bytes, faults: Faults, sheet: str = "") -> Lines:
    """The rows of a sheet (the only one with content, or the one named), numbered as Excel does.

    Formulas give the value that was saved with them; an error such as #N/A is a missing value.
    """
    try:
        import openpyxl
    except ImportError:
        raise MissingExtra("openpyxl", "data", f"reading {path}") from None
    try:
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        for s in book.worksheets:  # some writers give a size that is too small, or as large as a sheet can be
            s.reset_dimensions()
        found = {s.title: [[_cell(c) for c in row] for row in s.iter_rows()] for s in book.worksheets}
        unseen = {s.title: hidden(data, s) for s in book.worksheets}
    except Exception as e:  # noqa: BLE001 - zip, XML and key errors alike mean "no workbook"
        why = f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"
        faults.add(str(path), "not a readable .xlsx file", why, "save it again as .xlsx")
        return []
    full = {t: rows for t, rows in found.items() if any(c is not None for row in rows for c in row)}
    if sheet and sheet not in found:
        faults.add(str(path), f"there is no sheet '{sheet}'", f"it has {', '.join(found)}", "data.sheet=NAME")
        return []
    if not sheet and len(full) > 1:
        why = f"{', '.join(full)} have rows"
        faults.add(str(path), "several sheets have rows", why, "say which is meant: data.sheet=NAME")
        return []
    title = sheet or next(iter(full), "")
    if title in unseen and (cells := unseen[title].unvalued):
        what = f"{len(cells)} formulas have no value ({', '.join(cells[:3])}{', ...' * (len(cells) > 3)})"
        why = "the program that wrote the file computed none"
        faults.add(
            str(path), what, why, "open it in Excel or LibreOffice and save it, or write the values instead"
        )
        return []
    if title in unseen:
        unseen[title].filled(found[title])
    header, lines = _table(path, found.get(title, []), faults)
    if lines:
        faults.notes += unseen[title].notes(str(path), title, [n for n, _ in lines], header)
    return lines


def _table(path: Path, rows: list[list[Any]], faults: Faults) -> tuple[list[str], Lines]:
    """The names of the columns, "" where there is none, and the rows under them."""
    header: list[str] = []
    kept: Lines = []
    for number, row in enumerate(rows, 1):
        if all(c is None for c in row):
            continue
        if not header:
            header = ["" if c is None else str(c).strip() for c in row]
            if not _once(path, [h for h in header if h], faults) or _titled(
                path, header, rows, number, faults
            ):
                return [], []
            continue
        spare = [c for c in row[len(header) :] if c is not None]
        if spare or any(c is not None for h, c in zip(header, row, strict=False) if not h):
            what = "a value in a column that has no name"
            faults.add(
                str(path), what, "the first row names the columns", "name it, or clear the cell", number
            )
        else:
            row = [*row, *[None] * (len(header) - len(row))]
            kept.append((number, {h: c for h, c in zip(header, row, strict=False) if h}))
    return header, kept


def _titled(path: Path, header: list[str], rows: list[list[Any]], number: int, faults: Faults) -> bool:
    """Does a title stand where the names of the columns are read: one cell, above rows of more? A fault then."""
    below = next((r for r in rows[number:] if any(c is not None for c in r)), [])
    named = [h for h in header if h]
    if len(named) != 1 or sum(c is not None for c in below) < 2:
        return False
    what, why = (
        f"the first row has one cell, {named[0][:40]!r}",
        "the first row that is not empty names the columns",
    )
    faults.add(str(path), what, why, "delete the rows above the names of the columns", number)
    return True


def _cell(cell: Any) -> Any:
    return None if cell.data_type == "e" or cell.value == "" else cell.value


def _once(path: Path, names: list[str], faults: Faults) -> bool:
    twice = [h for h, n in Counter(names).items() if n > 1]
    if twice:
        fix = "rename one of the two: nobody can tell which is meant"
        faults.add(str(path), f"two columns are called '{twice[0]}'", f"it has {', '.join(names)}", fix)
    return not twice
