"""Columns that hold objects or lists where a cell is meant, and a line to paste that makes cells of them."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedfm.core.schema import Kind, Unfit
from fedfm.data import kinds
from fedfm.data.cleaning.columns import Map, Piece, lacking
from fedfm.data.cleaning.faults import Faults
from fedfm.data.cleaning.layouts import Wanted, sources

_HEADING = re.compile(r"^###[^\n:]{1,30}:", re.M)
_LISTED = 8  # files that are named one by one
_FLAT, _TESTS = "flat", "flat-test"  # the folders that the line writes to
_LEAF = "users of LEAF"
_READ = {  # how the rows of a file f are read
    **dict.fromkeys((".jsonl", ".ndjson"), "map(json.loads, open(f))"),
    _LEAF: '({"user": u, **dict(zip(c, v))} for u, c in json.load(open(f))["user_data"].items() for v in zip(*c.values()))',
    ".parquet": "parquet.read_table(f).to_pylist()",
}


def nested(
    pieces: Sequence[Piece], columns: Wanted, mapping: Map, maps: Mapping[str, Map], faults: Faults
) -> set[str]:
    """Note columns of texts, names or numbers that hold objects or lists, a fault each; the places of those pieces."""
    found = set[str]()
    for c in columns:
        if not isinstance(c.kind, kinds.Text | kinds.Label | kinds.Number):
            continue
        of: dict[str, list[Piece]] = {}
        for p in pieces:
            for s in sources(c.name, maps.get(p.party, mapping), p.has)[:1]:
                if _holds(p, s, c.kind):
                    of.setdefault(s, []).append(p)
        for column, theirs in of.items():
            _note(column, theirs, c.kind, f"it is read as '{c.name}'", faults)
            found |= {p.place for p in theirs}
    return found


def owners(pieces: Sequence[Piece], column: str, faults: Faults) -> set[str]:
    """Note a column that should name the party and holds objects or lists; the places of those pieces."""
    odd = [p for p in pieces if column and _holds(p, column, kinds.Group())]
    if odd:
        _note(column, odd, kinds.Group(), "it must name the party", faults)
    return {p.place for p in odd}


def inside(
    pieces: Sequence[Piece], missing: Mapping[str, Sequence[str]], needs: Wanted, mapping: Map, faults: Faults
) -> bool:
    """Note columns that are missed by piece and may be values of an object that one of the columns holds: are they?"""
    first = next(p for p in pieces if missing[p.place])
    there = lacking(needs, mapping, first.has)
    for column in first.has:
        if not isinstance(_first(first, column), Mapping):
            continue
        inner = dict.fromkeys(k for _, r in first.lines for k in _object(r.get(column)))
        if inner and len(lacking(needs, mapping, (*first.has, *inner))) < len(there):
            what = f"there is no column {' or '.join(map(repr, there))}, and '{column}' holds objects ({', '.join(list(inner)[:6])})"
            line = _line(pieces, f"{{**r, **(r.get({json.dumps(column)}) or {{}})}}")
            faults.once(
                [p for p, names in missing.items() if names], what, "columns are read one level deep", line
            )
            return True
    return False


def headed(pieces: Sequence[Piece], missing: Mapping[str, Sequence[str]], faults: Faults) -> bool:
    """Note a text in which a question and its answer stand under headings (### Instruction:), where they are missed."""
    first = next(p for p in pieces if missing[p.place])
    if not {"instruction", "answer"} & {*missing[first.place]}:
        return False
    for column in first.has:
        value = _first(first, column)
        marks = _HEADING.findall(value) if isinstance(value, str) else []
        if len(marks) < 2:
            continue
        key, begin, end = json.dumps(column), json.dumps(marks[0]), json.dumps(marks[-1])
        texts = f"map(str.strip, r[{key}].split({begin}, 1)[-1].split({end}, 1))"
        line = _line(pieces, f'{{**r, **dict(zip(("instruction", "answer"), {texts}))}}')
        what = f"'{column}' holds a question and its answer in one text, under {marks[0]!r} and {marks[-1]!r}"
        why = "they are two columns (instruction and answer): the answer alone is learnt"
        faults.once([p for p, names in missing.items() if names], what, why, line)
        return True
    return False


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _first(piece: Piece, column: str) -> Any:
    return next((v for _, r in piece.lines if not kinds.empty(v := r.get(column))), None)


def _holds(piece: Piece, column: str, kind: Kind) -> bool:
    """Objects, or lists of values, in all rows (of labels it is said elsewhere; turns of a chat are no list of texts)."""
    values = [v for _, r in piece.lines if not kinds.empty(v := r.get(column))]
    if not values or not isinstance(values[0], Mapping | list | tuple):
        return False
    if all(isinstance(v, Mapping) for v in values):
        return any(values)
    flat = all(isinstance(v, list | tuple) and not any(isinstance(c, Mapping) for c in v) for v in values)
    return flat and any(values) and (type(kind) is kinds.Group or isinstance(kind, kinds.Text))


def _note(column: str, pieces: Sequence[Piece], kind: Kind, why: str, faults: Faults) -> None:
    value, key = _first(pieces[0], column), json.dumps(column)
    if isinstance(value, Mapping):
        inner = _name_of(pieces, column, kind)
        cell, what = f"(r.get({key}) or {{}}).get({json.dumps(inner)})", "objects"
        cell = f"({cell} or [None])[0]" if _several(pieces, column, inner, kind) else cell
    elif isinstance(kind, kinds.Text) and not kind.numbers:
        cell, what = f'" ".join(map(str, r.get({key}) or []))', "lists"
    else:
        cell, what = f"(r.get({key}) or [None])[0]", "lists"
    if cell.endswith("[0]") and isinstance(kind, kinds.Text):
        why += "; of several the line takes the first, for each is an answer alone"
    said = f"the column '{column}' holds {what}, such as {str(value)[:60]}"
    faults.once(
        list(dict.fromkeys(p.place for p in pieces)), said, why, _line(pieces, f"{{**r, {key}: {cell}}}")
    )


def _name_of(pieces: Sequence[Piece], column: str, kind: Kind) -> str:
    """The key of the objects whose values suit best: that can be read, and of names those that come up again."""
    rows = [_object(r.get(column)) for p in pieces for _, r in p.lines]
    fit: list[tuple[int, str]] = []
    for key in dict.fromkeys(k for r in rows for k in r):
        try:
            values = [_alternative(r[key], kind) for r in rows if not kinds.empty(r.get(key))]
            read = {kind.clean(v) for v in values}
        except (Unfit, TypeError):
            continue
        names = isinstance(kind, kinds.Label)  # few of them, but several; of texts as many as there are
        if len(read) > names:
            prose = isinstance(kind, kinds.Text) and all(isinstance(v, str) for v in values)
            fit.append((len(read) if names else -len(read) - len(rows) * prose, str(key)))
    return min(fit, default=(0, str(next(iter(rows[0]), ""))), key=lambda f: f[0])[1]


def _alternative(value: Any, kind: Kind) -> Any:
    """The first of several answers: each alone is right, and together they are none."""
    listed = isinstance(kind, kinds.Text) and kind.numbers and isinstance(value, list | tuple) and value
    return value[0] if listed else value


def _several(pieces: Sequence[Piece], column: str, inner: str, kind: Kind) -> bool:
    values = [_object(r.get(column)).get(inner) for p in pieces for _, r in p.lines]
    return any(_alternative(v, kind) is not v for v in values)


def _line(pieces: Sequence[Piece], row: str) -> str:
    """Python for rows in memory, a line for the shell for files of JSON; `row` makes a row of the row r."""
    files = {p.place: _file(p.place) for p in pieces}
    if not any(files.values()):
        return f"[{row} for r in rows]"
    tests = list(dict.fromkeys(files[p.place] for p in pieces if p.split == "test" and not p.party))
    own = [f for f in dict.fromkeys(files.values()) if f not in tests]
    leaf = any(f not in files for f in files.values())
    made = [
        (f, k, _command(some, row, f, leaf))
        for f, k, some in ((_FLAT, "path", own), (_TESTS, "test_path", tests))
        if some
    ]
    if not all(command for _, _, command in made):
        return f"rows as {row} in Python, written as a JSON object a line"
    users = " data.party_column=user" if leaf else ""
    return f"{'; '.join(c for _, _, c in made)}; then {' '.join(f'data.{k}={f}' for f, k, _ in made)}{users}"


def _file(place: str) -> str:
    """The file that a place is of (a user of LEAF's is of one too); empty for rows in memory."""
    found = (p for p in (place, place.rpartition(", user ")[0]) if os.path.isfile(p))
    return next(found, "")


def _command(paths: Sequence[str], row: str, folder: str, leaf: bool) -> str:
    ending = Path(paths[0]).suffix.lower()
    rows = _READ[_LEAF] if leaf else _json(paths[0]) if ending == ".json" else _READ.get(ending, "")
    if any(Path(p).suffix.lower() != ending for p in paths) or not rows:
        return ""
    more = "; from pyarrow import parquet" if ending == ".parquet" else ""
    name = f'{json.dumps(folder + "/")} + os.path.basename(f).rsplit(".", 1)[0] + ".jsonl"'
    code = (
        f"import json, os, sys{more}; os.makedirs({json.dumps(folder)}, exist_ok=True); "
        f'[print(*(json.dumps({row}) for r in {rows}), sep="\\n", file=open({name}, "w")) for f in sys.argv[1:]]'
    )
    folders = {os.path.dirname(p) or "." for p in paths}
    short = len(paths) > _LISTED and len(folders) == 1
    files = f"{shlex.quote(folders.pop())}/*{ending}" if short else " ".join(map(shlex.quote, paths))
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {files}"


def _json(path: str) -> str:
    """How the rows of a .json file f are read: as the file at this path is."""
    try:
        whole = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        return _READ[".jsonl"]
    if isinstance(whole, list):
        return "json.load(open(f))"
    lists = [k for k, v in whole.items() if isinstance(v, list)]
    if len(lists) == 1:
        return f"json.load(open(f))[{json.dumps(lists[0])}]"
    return "(dict(zip(c, v)) for c in [json.load(open(f))] for v in zip(*c.values()))" if lists else ""
