"""From the columns of a file to the canonical ones, with a count of every row that is left out."""

from __future__ import annotations

import difflib
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from fedfm.data.faults import Faults
from fedfm.data.source import Row

CLASSIFICATION = ("text", "label")
INSTRUCTION = ("instruction", "answer")
OPTIONAL = ("input", "group", "task", "entry")
_PROSE = ("text", "instruction", "input")
_NAMES = ("label", "answer", "group", "task")
_USUAL = {  # what people call them, to propose a column
    "text": ("review", "body", "sentence", "content", "message", "comment"),
    "label": ("topic", "class", "category", "target", "sentiment", "stars"),
    "instruction": ("question", "prompt", "query"),
    "answer": ("reply", "response", "output", "completion"),
}


def required(mapping: Mapping[str, str], found: Iterable[str], faults: Faults) -> tuple[str, ...]:
    """The canonical columns that every file must give: by the column map first, then by what was found.

    A map with `text` and no `label` asks for plain text (no label needed).
    """
    canonical = (*CLASSIFICATION, *INSTRUCTION, *OPTIONAL, "image")
    names = []
    for name in mapping:
        close = [] if name in canonical else difflib.get_close_matches(name, canonical, n=1, cutoff=0.75)
        if close:
            faults.add(
                "columns",
                f"unknown canonical column '{name}'",
                f"did you mean '{close[0]}'?",
                setting({close[0] if k == name else k: v for k, v in mapping.items()}),
            )
        else:
            names.append(name)
    mapped, here = set(names), set(found)
    for source in (mapped, here):
        for schema in (CLASSIFICATION, INSTRUCTION):
            if set(schema) <= source:
                return tuple(dict.fromkeys((*schema, *names)))
    if set(INSTRUCTION) & mapped:
        return tuple(dict.fromkeys((*INSTRUCTION, *names)))
    if set(CLASSIFICATION) & mapped:
        plain = "label" not in mapped and "label" not in here
        return tuple(names) if plain else tuple(dict.fromkeys((*CLASSIFICATION, *names)))
    if names and not mapped <= set(OPTIONAL):
        return tuple(names)
    return tuple(dict.fromkeys((*(INSTRUCTION if set(INSTRUCTION) & here else CLASSIFICATION), *names)))


def canonical_rows(
    raw: Sequence[tuple[int, Mapping[str, Any]]],
    needed: Sequence[str],
    mapping: Mapping[str, str],
    place: str,
    faults: Faults,
    dropped: Counter[str],
) -> list[tuple[Row, Mapping[str, Any]]]:
    """Pairs (canonical row, raw row) of one file, with line numbers in the faults.

    A row with an empty needed column is dropped and counted; a value of the wrong type is a fault.
    """
    if not raw:
        return []
    found = list(dict.fromkeys(key for _, row in raw for key in row))
    missing = [c for c in needed if mapping.get(c, c) not in found]
    if missing:
        fix = setting(_proposed(missing, mapping, raw, found))
        for column in missing:
            theirs = mapping.get(column, column)
            faults.absent(place, theirs, f"for '{column}'" if theirs != column else "", found, fix)
        return []
    wanted = [*needed, *(c for c in OPTIONAL if c not in needed and c in found and c not in mapping.values())]
    kept = []
    for line, source in raw:
        row: Row = {}
        for column in wanted:
            value = source.get(mapping.get(column, column))
            if _empty(value):
                if column in needed and column != "input":
                    dropped[f"no {column}"] += 1
                    break
                continue
            fit, complaint = _fit(column, value)
            if complaint:
                faults.add(
                    place,
                    f"'{mapping.get(column, column)}' is {complaint}: {str(value)[:40]!r}",
                    f"the canonical column '{column}' holds "
                    + ("text" if column in _PROSE else "a name or a number"),
                    "convert the column, or map another one",
                    line,
                )
                break
            row[column] = fit
        else:
            kept.append((row, source))
    return kept


def setting(columns: Mapping[str, str]) -> str:
    """The column map as a setting that can be pasted into a shell."""
    plain = yaml.safe_dump(
        dict(columns), default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6
    )
    return shlex.quote(f"data.columns={plain.strip()}")


def _proposed(
    missing: Sequence[str],
    mapping: Mapping[str, str],
    raw: Sequence[tuple[int, Mapping[str, Any]]],
    found: Sequence[str],
) -> dict[str, str]:
    """The user's map with a column for each missing one: of a like name, of a usual name, or of a likely content."""
    kept = {c: theirs for c, theirs in mapping.items() if c not in missing}
    free = [f for f in found if f not in kept.values() and f not in (*CLASSIFICATION, *INSTRUCTION)]
    sample = [row for _, row in raw[:100]]
    for column in missing:
        low = {f.lower(): f for f in free}
        close = difflib.get_close_matches(mapping.get(column, column), free, n=1, cutoff=0.5)
        usual = [low[name] for name in _USUAL.get(column, ()) if name in low]
        if column in _PROSE:
            likely = sorted(
                free, key=lambda f: -sum(len(v) for r in sample if isinstance(v := r.get(f), str))
            )
        else:
            likely = sorted(free, key=lambda f: len({str(r.get(f)) for r in sample}))
        itself = [column] if column in found else []  # it was mapped elsewhere, to nothing
        kept[column] = next(iter((*itself, *close, *usual, *likely)), "YOUR_COLUMN")
        free = [f for f in free if f != kept[column]]
    return kept


def _empty(value: Any) -> bool:
    if isinstance(value, float):
        return math.isnan(value)  # how tables write a missing value
    return value is None or (isinstance(value, str) and not value.strip())


def _fit(column: str, value: Any) -> tuple[Any, str]:
    """The value as the canonical column wants it, or what is wrong with its type."""
    if column in _PROSE:
        return (value, "") if isinstance(value, str) else (None, f"not text but {type(value).__name__}")
    if column in _NAMES:
        if isinstance(value, str):
            return value.strip(), ""
        if isinstance(value, float) and (value.is_integer() or column == "answer"):
            return (str(int(value)) if value.is_integer() else repr(value)), ""
        if isinstance(value, bool | int):
            return str(value), ""
        return None, f"of type {type(value).__name__}"
    return value, ""
