"""What a run shows while it works: steps, a bar with the latest scores, and the final table."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

Shown = Callable[[dict[str, Any]], None]


class Progress:
    """The protocol; `Silent` shows nothing, `Live` draws on a console."""

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        yield

    @contextlib.contextmanager
    def rounds(self, total: int, run: Any) -> Iterator[Shown]:
        yield lambda record: None

    @contextlib.contextmanager
    def bar(self, name: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: None


class Silent(Progress):
    """For calls from Python."""


class Lines(Progress):
    """One line a round, without bars: for notebooks, logs, and calls from Python."""

    def __init__(self, say: Callable[[str], None] = print):
        self.say = say

    @contextlib.contextmanager
    def rounds(self, total: int, run: Any) -> Iterator[Shown]:
        primary, start = run.bound.objective.primary, time.perf_counter()
        yield lambda record: self.say(
            Text.from_markup(_line(record, primary, time.perf_counter() - start)).plain
        )


class Live(Progress):
    """Bars on standard error; one line a round that stays."""

    def __init__(self, console: Console):
        self.console = console

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if (spent := time.perf_counter() - start) > 0.5:
            self.console.print(f"[dim]{name:<10} {spent:5.1f} s[/dim]")

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
                self.console.print(_line(record, primary, time.perf_counter() - start))

            yield shown

    @contextlib.contextmanager
    def bar(self, name: str) -> Iterator[Callable[[int, int], None]]:
        with self._bars() as bars:
            task = bars.add_task(name, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)

    def _bars(self) -> Bars:
        return Bars(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )


def _line(record: dict[str, Any], primary: str, seconds: float) -> str:
    parts = [f"[bold]round {record['round']:>3}[/bold]"]
    if primary in record.get("metrics", {}):
        parts.append(f"{primary} [bold]{record['metrics'][primary]:.3f}[/bold]")
    if record["round"]:
        if record.get("train_loss") is not None:
            parts.append(f"train loss {record['train_loss']:.3f}")
        parts.append(f"{record['clients']}/{record['planned']} parties")
        parts.append(size(sum(record["bytes"].values())))
    if record.get("failed"):
        parts.append(f"[red]round failed: {escape(record['failed'])}[/red]")
    parts.append(f"[dim]{seconds:.0f} s[/dim]")
    return "  ".join(parts)


def size(n: float) -> str:
    """Bytes for people (decimal units)."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


PARTIES = 12  # that a table shows one by one

_COLOURS = {"finished": "green", "finished with findings": "yellow", "failed": "red", "interrupted": "yellow"}


def verdict(summary: dict[str, Any]) -> str:
    """The first thing that is said of a run: its status, and why."""
    status = str(summary["status"])
    lines = [f"[bold {_COLOURS.get(status, 'red')}]{escape(status)}[/]"]
    return "\n".join(lines + [f"  {escape(str(reason))}" for reason in summary.get("reasons", ())])


def table(summary: dict[str, Any], folder: str) -> Table:
    """What a run is worth, what it cost, and where everything is."""
    metric, out = summary["metric"], Table(show_header=False, box=None, padding=(0, 2))
    out.add_column(justify="left")
    out.add_column(justify="right")
    rows = [
        ("base model", metric["base"]),
        ("mean of parties alone", metric["local"]),
        ("federated", metric["federated"]),
        ("pooled", metric["pooled"]),
    ]
    for name, value in rows:
        if value is not None:
            mark = ("[bold green]", "[/bold green]") if name == "federated" else ("", "")
            out.add_row(f"{mark[0]}{name}{mark[1]}", f"{mark[0]}{metric['name']} {value:.3f}{mark[1]}")
    for label, value in _by_party(summary):
        out.add_row(label, value)
    sent = summary["bytes"]
    out.add_row("sent up / down", f"{size(sent['up'])} / {size(sent['down'])}")
    if sent["talk"]:
        out.add_row("sent in conversations", size(sent["talk"]))
    if summary["privacy"]:
        p = summary["privacy"]
        out.add_row("privacy spent", f"epsilon {p['epsilon']:.2f} at delta {p['delta']:g}")
    out.add_row(
        "trained parameters", f"{summary['trainable_parameters']:,} of {summary['total_parameters']:,}"
    )
    if summary["dropped"]:
        out.add_row(
            "rows left out", ", ".join(f"{n} ({escape(why)})" for why, n in summary["dropped"].items())
        )
    if summary["failures"]:
        out.add_row("events", ", ".join(f"{n} {k}" for k, n in summary["failures"].items()))
    out.add_row("seconds", f"{summary['seconds']:.1f}")
    out.add_row("run directory", escape(folder))
    return out


def _by_party(summary: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The model's score on each party's own held-out rows, where the records hold them, beside what it gets alone."""
    metric, scores = summary["metric"], summary.get("metrics", {})
    alone = metric.get("local_parties") or {}
    own = {i: v for i in summary.get("parties", {}) if (v := scores.get(f"{metric['name']}/{i}")) is not None}
    for i, value in own.items() if len(own) <= PARTIES else ():
        beside = f" (alone {alone[i]:.3f} on all rows)" if i in alone else ""
        yield f"  {escape(i)}, its own rows", f"{value:.3f}{beside}"
    if len(own) > PARTIES:
        up = metric.get("higher_is_better", True)
        worst, best = sorted(own, key=lambda i: own[i], reverse=not up)[:: len(own) - 1]
        yield "  parties, own rows", f"{own[worst]:.3f} ({escape(worst)}) .. {own[best]:.3f} ({escape(best)})"
