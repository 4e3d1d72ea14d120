"""What audits of the finished run found: their sentence, and the numbers with their bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedfm.report.drawing.blocks import Block, Card, Note, Tag, table
from fedfm.report.numbers import finite, short
from fedfm.report.rundir import Run, mapping
from fedfm.text import clip


def audit_card(run: Run, tag: Tag | None, columns: int) -> Card | None:
    """A table a kind of audit; nothing where nobody asked."""
    if not run.audits:
        return None
    body: list[Block] = []
    for name, told in run.audits.items():
        found = mapping(told)
        head, *rows = cells(found)
        settings = mapping(found.get("spec"))
        said = ", ".join(
            f"{k} {short(n) if (n := finite(v)) is not None else v}"
            for k, v in settings.items()
            if k != "name"
        )
        body.append(Note(f"{name} ({said})." if said else f"{name}."))
        if rows:
            body.append(table(("rows of", *head[1:]), [tuple(row) for row in rows], cap=100, sort=True))
        if against := found.get("against"):
            body.append(Note(f"Compared with {clip(against, 120)}."))
    words = " ".join(str(mapping(told).get("meaning") or "") for told in run.audits.values()).strip()
    return Card("What the model gives away", words, tuple(body), columns, (), tag)


def cells(found: Mapping[str, Any]) -> list[list[str]]:
    """The `cases` of findings as lines of text, the names of the columns first; `X_bounds` stand behind X."""
    cases = {str(k): mapping(v) for k, v in mapping(found.get("cases")).items()}
    columns = [c for c in dict.fromkeys(c for case in cases.values() for c in case) if "_bounds" not in c]
    return [["", *(c.replace("_", " ") for c in columns)]] + [
        [name, *(_said(case.get(c), case.get(f"{c}_bounds")) for c in columns)]
        for name, case in cases.items()
    ]


def _said(value: Any, bounds: Any = None) -> str:
    between = ""
    if isinstance(bounds, list) and len(bounds) == 2 and None not in map(finite, bounds):
        between = f" ({bounds[0]:.2f}-{bounds[1]:.2f})"
    return "" if value is None else (f"{value:.3f}" if isinstance(value, float) else str(value)) + between
