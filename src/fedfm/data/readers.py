"""Reading JSON Lines, CSV and Parquet into (line number, row) pairs, without stopping at the first fault."""

from __future__ import annotations

import csv
import glob
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedfm.core.errors import MissingExtra
from fedfm.data.faults import Faults
from fedfm.data.source import natural

Lines = list[tuple[int, dict[str, Any]]]
SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


def expand(patterns: Sequence[str], where: str, faults: Faults) -> list[Path]:
    """The files that globs, names and folders stand for, in natural order; no match is a fault."""
    found: list[Path] = []
    for pattern in patterns:
        full = os.path.expanduser(pattern)
        if os.path.isdir(full):
            here = [p for p in Path(full).iterdir() if p.suffix.lower() in SUFFIXES]
            if not here:
                faults.add(
                    where,
                    f"the folder '{pattern}' holds no data files",
                    f"looked for {', '.join('*' + s for s in SUFFIXES)} in {os.path.abspath(full)}",
                    "put one file per party there, or give a glob",
                )
        else:
            here = [Path(p) for p in glob.glob(full, recursive=True) if os.path.isfile(p)]
            if not here:
                faults.add(
                    where,
                    f"no file matches '{pattern}'",
                    _around(full),
                    "paths are relative to the current folder; give an absolute path or another pattern",
                )
        found += sorted(here, key=lambda p: natural(str(p)))
    return list(dict.fromkeys(found))


def read(path: Path, faults: Faults) -> Lines:
    """The rows of one file by its suffix; every bad line becomes a fault with its number."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        faults.add(
            str(path),
            f"cannot read '{suffix or path.name}' files",
            f"known here: {', '.join(SUFFIXES)}",
            "convert the file, or narrow the pattern",
        )
        return []
    if suffix == ".parquet":
        return _parquet(path, faults)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        faults.add(str(path), "the file is not UTF-8", str(e), "save it as UTF-8")
        return []
    return _csv(path, text, faults) if suffix in (".csv", ".tsv") else _jsonl(path, text, faults)


def _jsonl(path: Path, text: str, faults: Faults) -> Lines:
    rows: Lines = []
    # Not splitlines(): it also cuts at characters that JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as e:
            whole = number == 1 and line.lstrip().startswith("[")
            faults.add(
                str(path),
                "not valid JSON",
                f"{e.msg} at column {e.colno}: {line.strip()[:60]}",
                "JSON Lines has one object per line" + (", not one list over many lines" if whole else ""),
                number,
            )
            if whole:
                break
            continue
        if isinstance(row, dict):
            rows.append((number, row))
        else:
            faults.add(
                str(path),
                f"a {type(row).__name__} where an object should be",
                line.strip()[:60],
                'every line must look like {"text": ..., "label": ...}',
                number,
            )
    return rows


def _csv(path: Path, text: str, faults: Faults) -> Lines:
    head = text.split("\n", 1)[0]
    mark = "\t" if path.suffix.lower() == ".tsv" else ";" if ";" in head and "," not in head else ","
    rows: Lines = []
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                n = len(reader.fieldnames or ())
                have = sum(v is not None for k, v in row.items() if k is not None) + len(row.get(None) or ())
                faults.add(
                    str(path),
                    f"{have} fields where the header has {n}",
                    f"the row ends at this line (separator {mark!r})",
                    "quote fields that hold the separator or a line break",
                    reader.line_num,
                )
            else:
                rows.append((reader.line_num, dict(row)))
    except csv.Error as e:
        faults.add(
            str(path),
            "not valid CSV",
            str(e),
            "write the file with a CSV library, or use JSON Lines",
            reader.line_num,
        )
    return rows


def _parquet(path: Path, faults: Faults) -> Lines:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("pyarrow", "data", f"reading {path}") from None
    try:
        return list(enumerate(pyarrow.parquet.read_table(path).to_pylist(), 1))
    except (pyarrow.ArrowException, OSError) as e:
        faults.add(str(path), "not a readable Parquet file", str(e).split("\n")[0], "write the file again")
        return []


def _around(full: str) -> str:
    """Where a pattern was looked for, and what is there instead."""
    folder = os.path.dirname(full) or "."
    while glob.has_magic(folder):
        folder = os.path.dirname(folder) or "."
    text = f"the current folder is {os.getcwd()}"
    if not os.path.isdir(folder):
        return f"{text}; there is no folder '{folder}'"
    names = sorted(os.listdir(folder), key=natural)
    more = ", ..." if len(names) > 8 else ""
    return f"{text}; '{folder}' holds: {', '.join(names[:8]) + more if names else 'nothing'}"
