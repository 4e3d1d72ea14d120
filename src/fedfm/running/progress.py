"""What a run shows while it works: steps, and a bar with the latest scores.

Nothing that strangers wrote is ever read as markup or sent to the terminal raw: it goes through `said`.
"""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.text import Text

from fedfm.core.blame import whose
from fedfm.report.console import said
from fedfm.report.numbers import finite, fixed, score, size
from fedfm.text import line

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
