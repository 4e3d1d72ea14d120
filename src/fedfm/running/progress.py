"""What a run shows while it works: steps, a bar with the latest scores, and the final table.

Nothing that strangers wrote is ever read as markup or sent to the terminal raw: it goes through `said`.
"""

from __future__ import annotations

import contextlib
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from fedfm.core.blame import whose
from fedfm.report.numbers import decimals, finite, fixed, score, short, size
from fedfm.running.console import said
from fedfm.running.verdict import ladder
from fedfm.text import counted, line

Shown = Callable[[dict[str, Any]], None]


class Progress:
    """The protocol, which shows nothing; `Silent` warns, `Lines` and `Live` show."""

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        yield

    @contextlib.contextmanager
    def rounds(self, total: int, run: Any) -> Iterator[Shown]:
        yield lambda record: None

    def tell(self, text: str) -> None:
        """Say what a person should know before the work."""

    @contextlib.contextmanager
    def bar(self, name: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: None


class Silent(Progress):
    """For calls from Python: what a person should know before the work is a warning, at the line that called."""

    def tell(self, text: str) -> None:
        frame, depth = sys._getframe(1), 2
        while whose(frame.f_code.co_filename) < 2 and frame.f_back is not None:
            frame, depth = frame.f_back, depth + 1
        warnings.warn(f"fedfm: {text}", stacklevel=depth)


class Lines(Progress):
    """One line a round, without bars: for notebooks, logs, and calls from Python."""

    def __init__(self, say: Callable[[str], None] = print):
        self.say = say

    def tell(self, text: str) -> None:
        self.say(text)

    @contextlib.contextmanager
    def rounds(self, total: int, run: Any) -> Iterator[Shown]:
        primary, start = run.bound.objective.primary, time.perf_counter()
        yield lambda record: self.say(round_line(record, primary, time.perf_counter() - start).plain)


class Live(Progress):
    """Bars on standard error; one line a round that stays."""

    def __init__(self, console: Console):
        self.console = console

    def tell(self, text: str) -> None:
        self.console.print(said(text, style="dim"))

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if (spent := time.perf_counter() - start) > 0.5:
            self.console.print(said(f"{name:<10} {fixed(spent, 1):>5} s", style="dim"))

    @contextlib.contextmanager
    def rounds(self, total: int, run: Any) -> Iterator[Shown]:
        primary = run.bound.objective.primary
        start = time.perf_counter()
        with self._bars() as bars:
            outer = bars.add_task("rounds", total=total, completed=run.state.round)
            inner = bars.add_task("parties", total=None)
            run.tick = lambda done, planned: bars.update(inner, completed=done, total=planned)

            def shown(record: dict[str, Any]) -> None:
                bars.update(outer, completed=record["round"])
                bars.update(inner, completed=0, total=None)
                self.console.print(round_line(record, primary, time.perf_counter() - start))

            yield shown

    @contextlib.contextmanager
    def bar(self, name: str) -> Iterator[Callable[[int, int], None]]:
        with self._bars() as bars:
            task = bars.add_task(name, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)

    def _bars(self) -> Bars:
        return Bars(
            TextColumn("{task.description:<10}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )


def round_line(record: dict[str, Any], primary: str, seconds: float) -> Text:
    """A round in one line."""
    parts = [said(f"round {record['round']:>3}", style="bold")]
    value = finite(record.get("metrics", {}).get(primary))
    if value is not None:
        parts.append(said(f"{line(primary)} ", (score(value), "bold")))
    if record["round"]:
        if (loss := finite(record.get("train_loss"))) is not None:
            parts.append(said(f"train loss {score(loss)}"))
        parts.append(said(f"{record['clients']}/{record['planned']} parties"))
        parts.append(said(size(sum(record["bytes"].values()))))
    if record.get("failed"):
        parts.append(said(f"round failed: {line(record['failed'])}", style="red"))
    parts.append(said(f"{fixed(seconds, 0)} s", style="dim"))
    return Text("  ").join(parts)


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
