"""The record: how to repeat the run, versions, citations, the config and the event log."""

from __future__ import annotations

import json
from typing import Any

from fedfm.report.drawing.blocks import Block, Card, Cites, Code, Fold, Note, Pairs, Tag, table
from fedfm.report.folds import log_rows
from fedfm.report.numbers import count, finite, plural
from fedfm.report.rundir import Run, mapping
from fedfm.text import clip

CONFIG_CHARS = 60_000


def repeat_card(run: Run, tag: Tag | None, columns: int) -> Card:
    """The command that repeats the run, its config, and the versions it ran with."""
    if run.config is None:
        words = "config.yaml is missing, so this run cannot be repeated from its directory."
        return Card("Repeat it", words, (), columns, (), tag)
    seed = run.summary.get("seed")
    words = "The config is complete: fed back, it repeats the run" + (
        f" with seed {seed}." if seed is not None else "."
    )
    cut = len(run.config) > CONFIG_CHARS
    shown = run.config[:CONFIG_CHARS] + ("\n# … cut; see config.yaml" if cut else "")
    lines = shown.count("\n") + 1
    body = (Code("fedfm run config.yaml"), Fold(f"config.yaml, {plural(lines, 'line')}", (Code(shown),)))
    return Card("Repeat it", words, body, columns, (), tag)


def versions_card(run: Run, tag: Tag | None, columns: int) -> Card | None:
    """Library versions and full digests."""
    versions = mapping(run.summary.get("versions"))
    digests = [(n, run.summary.get(f"{n}_digest")) for n in ("config", "model", "ledger")]
    rows = [*versions.items(), *((f"{n} digest", d) for n, d in digests if d)]
    if not rows:
        return None
    words = "Equal digests on the same versions mean the same run, bit by bit."
    pairs = Pairs(tuple((str(k), str(v)) for k, v in rows), mono=True)
    return Card("Versions and digests", words, (pairs,), columns, (), tag)


def citations_card(run: Run, tag: Tag | None, columns: int) -> Card | None:
    """The papers behind the methods that were used."""
    told = run.summary.get("citations")
    items = []
    for entry in told if isinstance(told, list) else ():
        one = mapping(entry)
        numbers = one.get("survey")
        marks = ", ".join(str(n) for n in numbers) if isinstance(numbers, list) and numbers else ""
        items.append((str(one.get("name") or "method"), str(one.get("paper") or ""), marks))
    if not items:
        return None
    words = "Please cite these when you use the result; numbers in brackets are those of the survey."
    return Card("Methods to cite", words, (Cites(tuple(items)),), columns, (), tag)


def log_card(run: Run, tag: Tag | None) -> Card | None:
    """The ledger, folded away and cut to 500 rows."""
    rows = log_rows(run.facts)
    if not rows:
        return None
    total = sum(run.facts.kinds.values())
    kinds = ", ".join(f"{k} {count(n)}" for k, n in run.facts.kinds.most_common(20))
    words = (
        f"{plural(total, 'event')} read: {clip(kinds, 300)}. Rounds count from 1, as everywhere on this page; "
        "the file counts them from 0."
    )
    cells = [
        (
            _plain(e.get("round")),
            _plain(e.get("kind")),
            "–" if e.get("client") is None else _plain(e["client"]),
            _rest(e),
        )
        for e in rows
    ]
    inner: list[Block] = [table(("round", "kind", "party", "facts"), cells, cap=500)]
    if len(rows) < total:
        inner.append(Note(f"{len(rows)} of {total:,}; rare kinds are kept first."))
    return Card("Event log", words, (Fold(f"Show {plural(len(rows), 'event')}", tuple(inner)),), 12, (), tag)


def _plain(value: Any) -> str:
    return clip(value, 40)


def _rest(event: dict[str, Any]) -> str:
    facts = {k: _rounded(v) for k, v in event.items() if k not in ("round", "kind", "client")}
    text = ", ".join(
        f"{k} {v if isinstance(v, str) else json.dumps(v, ensure_ascii=False, default=str)}"
        for k, v in facts.items()
    )
    return clip(text, 170)


def _rounded(value: Any) -> Any:
    number = finite(value)
    return float(f"{number:.4g}") if number is not None and isinstance(value, float) else value
