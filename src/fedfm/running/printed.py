"""What a terminal shows of a run that has ended: its verdict first, then a table of what it is worth and what it cost."""

from __future__ import annotations

import textwrap
from typing import Any

from rich.table import Table
from rich.text import Text

from fedfm.report.console import said
from fedfm.report.numbers import decimals, finite, fixed, short, size
from fedfm.running.verdict import ladder
from fedfm.text import counted, line

WIDE = 78  # characters of a value, in a pipe too: a sentence of 300 pushes every number off the page
PARTIES = 12  # that a table shows one by one
Row = tuple[str, str, str]  # name, value, style
_COLOURS = {"finished": "green", "finished with findings": "yellow", "failed": "red", "interrupted": "yellow"}


def verdict(summary: dict[str, Any]) -> Text:
    """The first thing that is said of a run: its status, and why."""
    status = str(summary["status"])
    reasons = "".join(f"\n  {line(reason)}" for reason in summary.get("reasons", ()))
    return said((status, f"bold {_COLOURS.get(status, 'red')}"), reasons)


def table(summary: dict[str, Any], folder: str) -> Table:
    """What a run is worth, what it cost, and where everything is."""
    out = Table(show_header=False, box=None, padding=(0, 2))
    out.add_column(justify="left")
    out.add_column(justify="right")
    groups = (_scores(summary), _by_party(summary), _cost(summary), _privacy(summary), _account(summary))
    for name, value, style in (row for group in groups for row in group):
        lines = textwrap.wrap(line(value), WIDE, break_long_words=False, break_on_hyphens=False)
        out.add_row(said(name, style=style), said("\n".join(lines), style=style))
    out.add_row("run directory", said(folder))
    return out


def _scores(summary: dict[str, Any]) -> list[Row]:
    metric = summary["metric"]
    known = ladder(metric)
    digits = decimals(value for _, value in known)
    shown = [
        (
            name,
            f"{metric['name']} {fixed(value, digits)}",
            "bold green" if name.startswith("federated") else "",
        )
        for name, value in known
    ]
    if best := summary.get("best"):
        of = f"{best['round']} of {best['of']}" + ("" if best["kept"] else ", the model is of the last")
        shown.append(("best round on validation rows", of, ""))
    return [*shown, ("stopped early", line(why), "")] if (why := summary.get("stopped")) else shown


def _by_party(summary: dict[str, Any]) -> list[Row]:
    """The model's score on each party's own held-out rows, where the records hold them, beside what it gets alone."""
    metric, scores = summary["metric"], summary.get("metrics", {})
    alone = metric.get("local_parties") or {}
    own = {i: v for i in summary.get("parties", {}) if (v := scores.get(f"{metric['name']}/{i}")) is not None}
    digits = decimals([*own.values(), *alone.values()])

    def shown(value: float) -> str:
        return fixed(value, digits)

    if len(own) <= PARTIES:
        rows = "" if metric.get("personal") else " on all rows"
        beside = {i: f" (alone {shown(alone[i])}{rows})" if i in alone else "" for i in own}
        return [(f"  {line(i)}, its own rows", f"{shown(v)}{beside[i]}", "") for i, v in own.items()]
    up = metric.get("higher_is_better", True)
    worst, best = sorted(own, key=lambda i: own[i], reverse=not up)[:: len(own) - 1]
    return [("  parties, own rows", f"{shown(own[worst])} ({worst}) .. {shown(own[best])} ({best})", "")]


def _cost(summary: dict[str, Any]) -> list[Row]:
    sent = summary["bytes"]
    rows = [("sent up / down", f"{size(sent['up'])} / {size(sent['down'])}", "")]
    if sent["talk"]:
        rows.append(("sent in conversations", size(sent["talk"]), ""))
    return rows


def _privacy(summary: dict[str, Any]) -> list[Row]:
    """Epsilon, and beside it what it covers and whom it protects."""
    told = summary["privacy"]
    if not told:
        return []
    rows: list[Row] = []
    if (epsilon := finite(told.get("epsilon"))) is not None:
        rows.append(("privacy spent", f"epsilon {fixed(epsilon, 2)} at delta {short(told['delta'])}", ""))
    covers = told.get("sentence") or told.get("relation")
    return [*rows, ("what it covers", covers, "")] if covers else rows


def _account(summary: dict[str, Any]) -> list[Row]:
    rows = [
        ("trained parameters", f"{summary['trainable_parameters']:,} of {summary['total_parameters']:,}", "")
    ]
    if summary["dropped"]:
        rows.append(("rows left out", counted(summary["dropped"]), ""))
    if summary["failures"]:
        rows.append(("events", ", ".join(f"{n} {k}" for k, n in summary["failures"].items()), ""))
    return [*rows, ("seconds", fixed(summary["seconds"], 1), "")]
