"""JSON and packed files: bytes to text to rows, every bad line with its number."""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfm.data.cleaning.faults import Faults
from fedfm.data.kinds import Written
from fedfm.data.reading import folders, separated, tables
from fedfm.data.reading.nested import is_chat, leaf, nest
from fedfm.data.reading.paths import PACKED, READ, ending

Lines = list[tuple[int, dict[str, Any]]]
_ROW = '{"text": ..., "label": ...}'


@dataclass(frozen=True)
class Options:
    """What a user may say about his files: separator, quoting ("auto", "csv", "none"), sheet."""

    separator: str = ""
    quoting: str = "auto"
    sheet: str = ""


def read(path: Path, faults: Faults, lost: Counter[str], options: Options | None = None) -> Lines:
    """The rows of one file by its ending; every bad line becomes a fault with its number. `lost` counts rows left out."""
    if path.is_dir():
        return folders.rows(path, faults)
    (kind, packed), options = ending(path), options or Options()
    if kind not in READ:
        known = f"known here: {', '.join(READ)}, packed as {', '.join(PACKED)} or not"
        fix = "convert the file, or narrow the pattern"
        if kind in folders.PICTURES:
            fix = "name the folder that holds a folder of pictures for each class, not the pictures"
        faults.add(str(path), f"cannot read '{kind or path.name}' files", known, fix)
        return []
    data = _unpacked(path, packed, faults)
    if data is None:
        return []
    if kind in (".parquet", ".xlsx"):
        read_table = tables.parquet if kind == ".parquet" else tables.workbook
        return read_table(path, data, faults, options.sheet)
    text = _decoded(path, data, faults)
    if text is None:
        return []
    if kind in (".csv", ".tsv"):
        tab = "\t" if kind == ".tsv" else ""
        return separated.rows(str(path), text, faults, lost, options.separator or tab, options.quoting)
    return _json(path, text, faults, lines=kind != ".json")


def _unpacked(path: Path, packed: str, faults: Faults) -> bytes | None:
    try:
        data = path.read_bytes()
    except OSError as e:
        faults.add(
            str(path), "the file cannot be read", e.strerror or str(e), "check the file and its rights"
        )
        return None
    try:
        if packed == ".gz":
            return gzip.decompress(data)
        if packed == ".bz2":
            return bz2.decompress(data)
        if packed == ".xz":
            return lzma.decompress(data)
        if packed == ".zst":
            import zstandard

            with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as stream:
                return bytes(stream.read())
    except Exception as e:  # noqa: BLE001 - each library has its own type for "these bytes are broken"
        why = next(iter(str(e).splitlines()), type(e).__name__)
        faults.add(str(path), f"cannot be unpacked as {packed}", why, "pack the file again, or copy it anew")
        return None
    return data


def _decoded(path: Path, data: bytes, faults: Faults) -> str | None:
    """UTF-8, with or without its mark; UTF-16 and UTF-32 where a mark or the zeros say so (spreadsheets export them)."""
    code = _code(data)
    try:
        return data.decode(code)
    except UnicodeDecodeError as e:
        line, name = data[: e.start].count(b"\n") + 1, code.upper().removesuffix("-SIG")
        faults.add(str(path), f"the file is not {name}", str(e), "save it as UTF-8", line)
        return None


def _code(data: bytes) -> str:
    if data[:4] in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):
        return "utf-32"
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    zeros = [
        data[i:4000:4].count(0) * 4 > len(data[:4000]) // 2 for i in range(4)
    ]  # which of four bytes are mostly 0
    names: dict[tuple[bool, ...], str] = {
        (False, True, False, True): "utf-16-le",
        (True, False, True, False): "utf-16-be",
        (False, True, True, True): "utf-32-le",
        (True, True, True, False): "utf-32-be",
    }
    return names.get(tuple(zeros), "utf-8-sig")


# ---- JSON -----------------------------------------------------------------------------------------------------
def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = [k for k, n in Counter(k for k, _ in pairs).items() if n > 1]
        raise ValueError(f"the key '{twice[0]}' is there twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_float=Written)


def _json(path: Path, text: str, faults: Faults, *, lines: bool) -> Lines:
    """One list of objects, a mapping of columns, or an object a line: whichever the file is, whatever its ending."""
    start = text.lstrip()[:1]
    if start == "[" and not _is_lines(text):
        return list(_listed(path, text, text.index("[") + 1, faults))
    if start == "{" and not lines:
        try:
            whole = _DECODER.decode(text)
        except (ValueError, RecursionError):
            whole = None  # perhaps an object a line after all: the lines say what is wrong
        if whole is not None and (found := _columns(path, whole, faults)) is not None:
            return found
    return list(_lines(path, text, faults))


def _is_lines(text: str) -> bool:
    """Is the first line a whole list (and therefore no row)?"""
    first, _, rest = text.lstrip().partition("\n")
    return bool(rest.strip()) and first.rstrip().endswith("]") and rest.lstrip()[:1] in ("[", "{")


def _lines(path: Path, text: str, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    # Not splitlines(): it also cuts at characters that JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = _DECODER.decode(line)
        except (ValueError, RecursionError) as e:
            faults.add(
                str(path), "not valid JSON", _says(e, line), "JSON Lines has one object per line", number
            )
            continue
        yield from _row(path, number, row, line, faults)


def _listed(path: Path, text: str, at: int, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of one list, each with the line where it begins."""
    line, seen, first = 1, 0, True
    while True:
        while at < len(text) and text[at] in " \t\r\n":
            at += 1
        line, seen = line + text.count("\n", seen, at), at
        if text[at : at + 1] == "]":
            return
        if not first:
            if text[at : at + 1] != ",":
                there = text[at : at + 40].split("\n")[0] or "the end of the file"
                fix = "a list reads [{...}, {...}]; copy the file again if it was cut short"
                faults.add(str(path), "not valid JSON", f"a comma or ] is missing before {there}", fix, line)
                return
            at += 1
            while at < len(text) and text[at] in " \t\r\n":
                at += 1
            line, seen = line + text.count("\n", seen, at), at
        first = False
        try:
            row, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError, StopIteration) as e:
            fix = "a list reads [{...}, {...}]; copy the file again if it was cut short"
            faults.add(str(path), "not valid JSON", _says(e, text[seen : seen + 80]), fix, line)
            return
        yield from _row(path, line, row, text[seen:at], faults)


def _columns(path: Path, whole: dict[str, Any], faults: Faults) -> Lines | None:
    """A file that is one object: {"data": [...]}, columns of equal length, or LEAF's users; None when it is a single row."""
    lists = {k: v for k, v in whole.items() if isinstance(v, list)}
    rows = [v for v in lists.values() if v and all(isinstance(r, dict) for r in v)]
    if not whole:
        return []
    if len(rows) == 1 and is_chat(whole, rows[0]):
        return None
    if len(rows) == 1 and len(lists) == 1:
        return list(enumerate(rows[0], 1))
    if lists and len(lists) == len(whole) and len(rows) < 2 and len({len(v) for v in lists.values()}) == 1:
        return [
            (i, dict(zip(lists, v, strict=True))) for i, v in enumerate(zip(*lists.values(), strict=True), 1)
        ]
    if (users := leaf(path, whole, faults)) is not None:
        return users
    return [] if nest(path, whole, faults) else None


def _row(path: Path, line: int, row: Any, text: str, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    if isinstance(row, dict):
        yield line, row
        return
    what = f"a {type(row).__name__} where an object should be"
    faults.add(str(path), what, text.strip()[:60], f"every row must look like {_ROW}", line)


def _says(e: BaseException, text: str) -> str:
    if isinstance(e, json.JSONDecodeError):
        return f"{e.msg} at column {e.colno}: {text.strip()[:60]}"
    if isinstance(e, RecursionError):
        return f"it is nested too deep: {text.strip()[:60]}"
    return str(e).split(";")[0]
