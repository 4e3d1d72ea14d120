"""Runs of several stages: what each of them trained, from where and how far."""

from __future__ import annotations

from fedfm.report import outline
from fedfm.report.drawing.blocks import Card, Tag, table
from fedfm.report.numbers import decimals, finite, fixed, share
from fedfm.report.rundir import Run, mapping
from fedfm.text import line


def stages_card(run: Run, tag: Tag | None, columns: int) -> Card | None:
    """One row a stage: its rounds, what was trained, and the score at its start and at its end."""
    given = run.summary.get("stages")
    told = [mapping(stage) for stage in given] if isinstance(given, list) else []
    if len(told) < 2:
        return None
    name = outline.metric_name(run)
    scores = [finite(s.get(key)) for s in told for key in ("start", "end")]
    digits = decimals([v for v in scores if v is not None])

    def said(value: float | None) -> str:
        return "" if value is None else fixed(value, digits)

    rows, lost = [], False
    for s in told:
        first, n = int(finite(s.get("since")) or 0), int(finite(s.get("rounds")) or 0)
        kept = finite(s.get("kept"))
        lost = lost or (kept is not None and kept < 0.9995)
        span = f"{first + 1} to {first + n}" if n else "none yet"
        rows.append(
            (
                f"stage {s.get('stage')}",
                span,
                f"{line(s.get('client'))}, {line(s.get('tuning'))}",
                said(finite(s.get("start"))),
                said(finite(s.get("end"))),
                "" if kept is None else share(kept, 1.0),
            )
        )
    words = "Each stage begins from the model of the one before, with states of its own; rounds are numbered through."
    if lost:
        words += " “Kept” is the share of the last stage's update (its squared length) that the next one's tuning can hold."
    head = ("stage", "rounds", "what it trains", f"{name} at its start", "at its end", "kept")
    return Card("Stages", words, (table(head, rows),), columns, (), tag)
