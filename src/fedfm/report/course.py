"""What a curve did, in words that hold for all of it: never "fell by" over a curve that rose in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fedfm.report import outline
from fedfm.report.numbers import plural, rounded, share, short
from fedfm.report.rundir import Run

Points = list[tuple[float, float]]


def points(xs: Sequence[float], ys: Sequence[float | None]) -> Points:
    """The measured points of a curve."""
    return [(x, y) for x, y in zip(xs, ys, strict=True) if y is not None]


def steady(seen: Points) -> int:
    """1 if it never falls, -1 if it never rises (0 if neither, or if it stays where it was)."""
    steps = [b - a for (_, a), (_, b) in zip(seen, seen[1:], strict=False)]
    return int(all(s >= 0 for s in steps) and any(steps)) - int(all(s <= 0 for s in steps) and any(steps))


def detours(seen: Points, show: Callable[[float], str]) -> str:
    """Where an unsteady curve left the way from its first to its last value; `with ups and downs` if it stayed on it."""
    first, last = seen[0][1], seen[-1][1]
    top, low = max(seen, key=lambda p: p[1]), min(seen, key=lambda p: p[1])
    ends = {show(first), show(last)}
    out = [
        f"{word} {show(y)} (round {short(x)})"
        for word, (x, y) in (("as high as", top), ("as low as", low))
        if show(y) not in ends and not min(first, last) <= y <= max(first, last)
    ]
    return f"on the way {' and '.join(out)}" if out else "with ups and downs"


def loss_words(seen: Points) -> str:
    """A sentence on the training loss."""
    first, last = seen[0][1], seen[-1][1]
    way = steady(seen)
    if way:
        change = share(abs(last - first), abs(first) or 1.0)
        return f"The training loss {'fell' if way < 0 else 'rose'} by {change}, from {short(first)} to {short(last)}."
    if short(first) == short(last) and len({short(y) for _, y in seen}) == 1:
        return f"The training loss stayed at {short(first)}."
    return f"The training loss went from {short(first)} to {short(last)}, {detours(seen, short)}."


def growth_words(run: Run, seen: Points, show: Callable[[float], str], digits: int) -> str:
    """A sentence on the run's metric over rounds."""
    (x0, first), (x1, last) = seen[0], seen[-1]
    if len(seen) == 1:
        return f"Measured once, after round {short(x0)}: {show(first)}."
    moved, length = outline.better(run, last, first), plural(x1 - x0, "round")
    if not rounded(moved, digits):
        words = [f"It ended where it began, at {show(last)}, after {length}"]
    elif moved > 0:
        words = [f"It improved from {show(first)} to {show(last)} in {length}"]
    else:
        words = [f"It went from {show(first)} to {show(last)} in {length}, which is worse"]
    if not steady(seen) and len({show(y) for _, y in seen}) > 1:
        words.append(detours(seen, show))
    words += _milestones(run, seen, first, moved)
    broken = len(outline.failed_rounds(run))
    tail = f" {plural(broken, 'round')} gave no model (×)." if broken else ""
    return ", ".join(words) + "." + tail


def _milestones(run: Run, seen: Points, first: float, moved: float) -> list[str]:
    """Rounds from which on something held to the end."""
    out = []
    if moved > 0:
        most = _for_good(seen, lambda y: outline.better(run, y, first) >= 0.9 * moved)
        if most is not None and most < seen[-1][0]:
            out.append(f"nine tenths of it from round {short(most)} on")
    local = outline.scores(run)["local"]
    if local is not None:
        passed = _for_good(seen, lambda y: outline.better(run, y, local) > 0)
        if passed:
            out.append(f"past the parties alone from round {short(passed)} on")
    return out


def _for_good(seen: Points, holds: Callable[[float], bool]) -> float | None:
    """The first round from which on it holds to the end."""
    since = None
    for x, y in reversed(seen):
        if not holds(y):
            break
        since = x
    return since
