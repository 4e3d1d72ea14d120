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
        parts.append(f"[red]round failed: {record['failed']}[/red]")
    parts.append(f"[dim]{seconds:.0f} s[/dim]")
    return "  ".join(parts)


def size(n: float) -> str:
    """Bytes for people (decimal units)."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def table(summary: dict[str, Any], folder: str) -> Table:
    """The last thing a run prints: what it is worth, what it cost, and where everything is."""
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
    sent = summary["bytes"]
    out.add_row("sent up / down", f"{size(sent['up'])} / {size(sent['down'])}")
    if sent["talk"]:
        out.add_row("sent in conversations", size(sent["talk"]))
    if summary["privacy"]:
        out.add_row("privacy", escape(summary["privacy"]["sentence"]))
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
    out.add_row("run directory", folder)
    return out
