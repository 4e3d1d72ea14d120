"""JSON that is one object: LEAF's users, which are read, and other nests, of which a line to paste makes rows."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedfm.core.schema import Unfit
from fedfm.data.cleaning.faults import Faults
from fedfm.data.cleaning.layouts import ALIASES, KNOWN, USUAL
from fedfm.data.kinds import name
from fedfm.data.reading.paths import ending, stem
from fedfm.data.reading.unread import is_split

USER = "user"  # the column that says whose a row of LEAF is
PARTY = "party"  # the column that a flattened file gets
_OPENERS = {"": "open", ".gz": "gzip.open", ".bz2": "bz2.open", ".xz": "lzma.open"}
_COLUMNS = {*KNOWN, *(n for names in (*ALIASES.values(), *USUAL.values()) for n in names)}
CHATS = ("messages", *ALIASES["messages"])
_DEEP = 6


class ByUser(list[tuple[int, dict[str, Any]]]):
    """Rows of a file that gives several users: each names its own, and is numbered among them."""


def leaf(path: Path, whole: Mapping[str, Any], faults: Faults) -> ByUser | None:
    """The rows of {users, num_samples, user_data: {user: {x: [...], y: [...]}}}; None where it is something else."""
    users = whole.get("user_data")
    if not isinstance(users, dict) or not users or not all(map(_columned, users.values())):
        return None
    found = ByUser()
    _agrees(path, whole, users, faults)
    for given, columns in users.items():
        try:
            user = name(given)
        except Unfit as e:
            faults.add(str(path), f"a user called {given!r}", str(e), "give every user a name")
            continue
        lists = {k: v for k, v in columns.items() if isinstance(v, list)}
        if len({len(v) for v in lists.values()}) > 1:
            told = ", ".join(f"{k} has {len(v)}" for k, v in lists.items())
            faults.add(
                f"{path}, user {user}", "columns of different lengths", told, "give every row of it a value"
            )
            continue
        rows = zip(*lists.values(), strict=True)
        found += [(i, {USER: user, **dict(zip(lists, row, strict=True))}) for i, row in enumerate(rows, 1)]
    return found


def _agrees(path: Path, whole: Mapping[str, Any], data: Mapping[str, Any], faults: Faults) -> None:
    """Note what the file says of its users, and does not hold."""
    users, counts = whole.get("users"), whole.get("num_samples")
    if not isinstance(users, list):
        return
    fix = "write the file anew, or leave `users` and `num_samples` out"
    if lost := [str(u) for u in users if str(u) not in data]:
        what = f"{len(lost)} of its users have no rows: {', '.join(lost[:5])}{', ...' * (len(lost) > 5)}"
        faults.add(str(path), what, "`users` names them, `user_data` does not", fix)
    if not isinstance(counts, list) or len(counts) != len(users):
        return
    unlike = [(u, n, len(data[str(u)]["x"])) for u, n in zip(users, counts, strict=True) if str(u) in data]
    if wrong := [f"{u} has {k} for {n}" for u, n, k in unlike if n != k]:
        what = f"{len(wrong)} of its users have other numbers of rows than it says: {', '.join(wrong[:3])}"
        faults.add(str(path), what, "`num_samples` counts them: it may be cut", fix)


def _columned(user: Any) -> bool:
    return (
        isinstance(user, dict) and {"x", "y"} <= user.keys() and all(isinstance(user[k], list) for k in "xy")
    )


def nest(path: Path, whole: Mapping[str, Any], faults: Faults) -> bool:
    """Note that a file is a nest of rows and no table, with what flattens it; False where it is a row."""
    if not _nests(whole):
        return False
    what = "the file is one object with rows nested in it: " + ", ".join(
        f"{k} ({_says(v)})" for k, v in list(whole.items())[:4]
    )
    fix = _flattening(path, whole) or 'write a flat object a line: {"text": ..., "label": ...}'
    faults.add(str(path), what, "a row is an object of its own, in a list or on a line", fix)
    return True


def _nests(whole: Mapping[str, Any]) -> bool:
    if _indexed(whole) or _parted(whole) or sum(isinstance(v, list) and _rows(v) for v in whole.values()) > 1:
        return True
    return not _COLUMNS & whole.keys() and any(isinstance(v, dict) and v for v in whole.values())


def _says(value: Any) -> str:
    if isinstance(value, dict | list):
        return f"{'object' if isinstance(value, dict) else 'list'} of {len(value)}"
    return type(value).__name__


def _flattening(path: Path, whole: Mapping[str, Any]) -> str:
    """A line for the shell that writes the rows of the nest to files, and the settings that read these."""
    packed, out = ending(path)[1], f"{stem(path)}-flat"
    if packed not in _OPENERS:
        return ""
    opener = _OPENERS[packed]
    imports = f"import json{', ' + opener.partition('.')[0] if '.' in opener else ''}"
    head = f"{imports}; d = json.load({opener}({json.dumps(str(path))}))"
    if is_split(whole) and (rows := _of_all(list(whole.values()), "n", 0)):
        file = f'open({json.dumps(out)} + "-" + k + ".jsonl", "w")'
        code = f'{head}; [print(*map(json.dumps, {rows}), sep="\\n", file={file}) for k, n in d.items()]'
        return f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}; then {_setting(f'data.path={out}-*.jsonl')}"
    if not (rows := _expression(whole, "d", 0)):
        return ""
    code = f'{head}; print(*map(json.dumps, {rows}), sep="\\n")'
    more = f" data.party_column={PARTY}" if f'"{PARTY}": p' in rows else ""
    made = shlex.quote(f"{out}.jsonl")
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} > {made}; then {_setting(f'data.path={out}.jsonl')}{more}"


def _setting(text: str) -> str:
    return shlex.quote(text)


def _expression(node: Any, at: str, depth: int) -> str:
    """Python that gives the rows in a part of the nest, called `at`; empty: none are seen there."""
    if depth > _DEEP or not node:
        return ""
    if isinstance(node, list):
        return at if _rows(node) else ""
    if not isinstance(node, dict):
        return ""
    inner = list(node.values())
    if _parted(node):
        return f'[dict(zip({at}["columns"], r)) for r in {at}["data"]]'
    if all(isinstance(v, list) for v in inner) and not any(map(_rows, inner)):
        same = len({len(v) for v in inner}) == 1
        return f"[dict(zip({at}, r)) for r in zip(*{at}.values())]" if same else ""
    if _indexed(node):
        return f"[{{k: c[i] for k, c in {at}.items()}} for i in next(iter({at}.values()))]"
    if all(map(_row, inner)):
        return f"{at}.values()"
    below = f"n{depth}" if depth else "n"
    if len(inner) > 1 and (rows := _of_all(inner, below, depth + 1)):
        return f'[{{"{PARTY}": p, **r}} for p, {below} in {at}.items() for r in {rows}]'
    there = ((k, _expression(v, f"{at}[{json.dumps(k)}]", depth + 1)) for k, v in node.items())
    found = [e for _, e in there if e]
    return found[0] if len(found) == 1 else ""


def _of_all(nodes: list[Any], at: str, depth: int) -> str:
    """The one expression that gives the rows of every node; empty where they differ."""
    found = {_expression(n, at, depth) for n in nodes}
    return found.pop() if len(found) == 1 else ""


def _rows(node: list[Any]) -> bool:
    return bool(node) and all(isinstance(r, dict) for r in node)


def _indexed(node: Mapping[str, Any]) -> bool:
    """Columns of cells under the numbers of their rows, as pandas writes a table by default."""
    first = next(iter(node.values()), None)
    if not isinstance(first, dict) or not first or not all(k.isdecimal() for k in first):
        return False
    cells = all(isinstance(v, dict) and v.keys() == first.keys() for v in node.values())
    return cells and not any(isinstance(c, dict) for v in node.values() for c in v.values())


def _row(node: Any) -> bool:
    """Is an object a row: of cells alone, of a chat, or with a cell under the name of a known column?"""
    if not isinstance(node, dict) or not node:
        return False
    cells = {k for k, c in node.items() if not isinstance(c, dict | list)}
    return len(cells) == len(node) or bool(cells & _COLUMNS) or any(k in node for k in CHATS)


def _parted(node: Mapping[str, Any]) -> bool:
    """Names and rows side by side, as pandas writes a table with orient="split"."""
    names, rows = node.get("columns"), node.get("data")
    if not isinstance(names, list) or not isinstance(rows, list) or not names or not rows:
        return False
    return all(isinstance(r, list) and len(r) == len(names) for r in rows) and all(
        isinstance(n, str) for n in names
    )


def is_chat(whole: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Is a file that is one object one chat, and what it lists its turns?"""
    return any(whole.get(k) == rows for k in CHATS) and any(k in rows[0] for k in ("role", "from"))
