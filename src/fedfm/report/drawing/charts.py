"""Charts over rounds: lines with direct labels, and stacked columns."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedfm.report.drawing.letters import BOLD, widest
from fedfm.report.drawing.markup import esc, svg
from fedfm.report.numbers import short
from fedfm.text import clip


@dataclass(frozen=True)
class Line:
    """A named line: colour class, values over x (None leaves a gap), a tinted area, or a band around it."""

    name: str
    colour: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    area: bool = False
    band: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Rule:
    """A labelled horizontal line, for a baseline."""

    name: str
    colour: str
    y: float


def ticks(low: float, high: float, wanted: int = 4, whole: bool = False) -> list[float]:
    """Round values inside [low, high], about as many as wanted; `whole` ones only where asked."""
    if not high > low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / wanted))
    step *= next((m for m in (1, 2, 2.5, 5) if (high - low) / (step * m) <= wanted), 10)
    step = max(1.0, math.ceil(step)) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def labelled(places: Sequence[float], show: Callable[[float], str]) -> list[tuple[float, str]]:
    """Ticks with their text, without the last decimals that are zero on every one of them."""
    texts = [show(t) for t in places]
    while all(re.search(r"\.\d*0(?!\d)", text) for text in texts) and texts:
        texts = [re.sub(r"(\.\d*)0(?!\d)", r"\1", text) for text in texts]
    texts = [re.sub(r"\.(?!\d)", "", text) for text in texts]
    return list(zip(places, texts, strict=True))


def bins(n: int, most: int = 80) -> list[range]:
    """Splits n columns into at most `most` runs of neighbours of nearly equal length."""
    k = min(n, most)
    return [range(i * n // k, (i + 1) * n // k) for i in range(k)] if k else []


def thin(
    xs: Sequence[float], ys: Sequence[float | None], most: int = 200
) -> list[tuple[float, float | None]]:
    """About `most` points of a line: both ends, and the lowest and highest of each run of neighbours."""
    points = list(zip(xs, ys, strict=True))
    if len(points) <= most:
        return points
    keep = {0, len(points) - 1}
    for run in bins(len(points), most // 2):
        real = [i for i in run if points[i][1] is not None] or [run[0]]
        keep |= {min(real, key=lambda i: points[i][1] or 0.0), max(real, key=lambda i: points[i][1] or 0.0)}
    return [points[i] for i in sorted(keep)]


def apart(wanted: list[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones, at least `gap` apart and inside [low, high] where they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = [min(max(w, low), high) for w in wanted]
    for a, b in zip(order, order[1:], strict=False):
        placed[b] = max(placed[b], placed[a] + gap)
    if order and placed[order[-1]] > high:
        placed[order[-1]] = high
        for a, b in zip(reversed(order[:-1]), reversed(order[1:]), strict=False):
            placed[a] = min(placed[a], placed[b] - gap)
    return placed


@dataclass(frozen=True)
class _Frame:
    """Where the plot lies inside an image, and how values become places."""

    width: float
    height: float
    left: float
    right: float
    xs: tuple[float, float]
    ys: tuple[float, float]
    top: float = 12
    bottom: float = 30

    @property
    def plot(self) -> float:
        return self.width - self.left - self.right

    @property
    def floor(self) -> float:
        return self.height - self.bottom

    def x(self, x: float) -> float:
        x0, x1 = self.xs
        return self.left + ((x - x0) / (x1 - x0) * self.plot if x1 > x0 else self.plot / 2)

    def y(self, y: float) -> float:
        low, high = self.ys
        return self.floor - (y - low) / (high - low) * (self.floor - self.top)

    def rows(self, grid: Sequence[tuple[float, str]]) -> list[str]:
        """Horizontal grid lines with their text."""
        return [
            f'<path class="g" d="M{self.left:.0f} {self.y(t):.1f}h{self.plot:.0f}"/>'
            f'<text class="t e" x="{self.left - 7:.0f}" y="{self.y(t) + 4:.1f}">{esc(text)}</text>'
            for t, text in grid
        ]


def lines(
    width: int,
    height: int,
    label: str,
    series: Sequence[Line],
    rules: Sequence[Rule] = (),
    show: Callable[[float], str] = short,
    show_x: Callable[[float], str] = short,
    x_name: str = "round",
    zero: bool = False,
    marks: Sequence[float] = (),
    direct: bool = True,
    most: int = 200,
) -> Markup:
    """Lines and baselines, labelled at their ends if `direct`; `marks` flags rounds, `zero` starts at 0."""
    values = [y for s in series for y in (*s.ys, *(e for pair in s.band for e in pair)) if y is not None]
    values += [r.y for r in rules]
    places = [x for s in series for x in s.xs]
    if not values or not places:
        return Markup("")
    low, high = _reach(values, zero)
    names = _end_names(series, rules, show) if direct else []
    grid = labelled(ticks(low, high), show)
    right = min(16 + widest([f"{n} {v}" for n, _, _, v in names]) * BOLD, width * 0.42) if names else 16
    left = 10 + widest([text for _, text in grid], 11.5)
    frame = _Frame(width, height, left, right, (min(places), max(places)), (low, high))
    out = frame.rows(grid)
    out += _x_axis(frame, show_x, x_name, direct)
    out += [
        f'<path class="bad" d="M{frame.x(m) - 3:.1f} {frame.floor - 3}l6 6m0 -6l-6 6"/>'
        for m in marks
        if frame.xs[0] <= m <= frame.xs[1]
    ]
    for r in rules if direct else ():
        out.append(
            f'<path class="rule s-{r.colour}" d="M{left:.0f} {frame.y(r.y):.1f}h{frame.plot + 4:.0f}"/>'
        )
    for s in series:
        out += _curve(frame, s, direct, most)
    spots = apart([frame.y(y) for _, _, y, _ in names], 15, frame.top, frame.floor - 2)
    for (name, colour, _, value), y in zip(names, spots, strict=True):
        out.append(
            f'<text class="l f-{colour}" x="{width - right + 9:.0f}" y="{y + 4:.1f}">{esc(name)}'
            f'<tspan class="v" dx="4">{esc(value)}</tspan></text>'
        )
    out.append(f'<path class="cross" d="M0 {frame.top}V{frame.floor}"/>')
    told = f' data-frame="{left:.1f},{frame.plot:.1f},{frame.xs[0]:g},{frame.xs[1]:g}"'
    return svg(width, height, "".join(out), label, told)


def _reach(values: Sequence[float], zero: bool) -> tuple[float, float]:
    """Ends of the y axis: a little air, but no air below zero or above one that the values keep to."""
    low, high = (min(0.0, *values) if zero else min(values)), max(values)
    pad = (high - low) * 0.07 or abs(high) * 0.1 or 1.0
    below = low if zero or 0 <= low < pad else low - pad
    return below, high if high <= 1 < high + pad else high + pad


def _end_names(
    series: Sequence[Line], rules: Sequence[Rule], show: Callable[[float], str]
) -> list[tuple[str, str, float, str]]:
    """(name, colour, value, its text) of what is named at the right end."""
    ends = [(s, next((y for y in reversed(s.ys) if y is not None), None)) for s in series]
    found = [(clip(s.name, 18), s.colour, y, show(y)) for s, y in ends if y is not None]
    return found + [(clip(r.name, 18), r.colour, r.y, show(r.y)) for r in rules]


def _x_axis(frame: _Frame, show_x: Callable[[float], str], x_name: str, direct: bool) -> list[str]:
    x0, x1 = frame.xs
    if direct:
        at = ticks(x0, x1, max(2, int(frame.plot // 80)), whole=x_name == "round")
    else:
        at = [x0, x1][: 1 + (x1 > x0)]
    out = []
    for i, (t, text) in enumerate(labelled(at, show_x)):
        name = f"{x_name} {text}" if i == len(at) - 1 and x_name else text
        anchor = "m" if frame.x(t) < frame.width - frame.right - 20 else "e"
        out.append(f'<text class="t {anchor}" x="{frame.x(t):.1f}" y="{frame.height - 9}">{esc(name)}</text>')
    return out


def _curve(frame: _Frame, s: Line, direct: bool, most: int) -> list[str]:
    """One line: its band or tinted area, the line, its dots, and a lead to its name where it ends early."""
    points = [(frame.x(x), None if y is None else frame.y(y)) for x, y in thin(s.xs, s.ys, most)]
    real = [(x, y) for x, y in points if y is not None]
    out = []
    if s.band:
        up = [(frame.x(x), frame.y(high)) for x, (_, high) in zip(s.xs, s.band, strict=True)]
        back = [(frame.x(x), frame.y(low)) for x, (low, _) in zip(s.xs, s.band, strict=True)]
        out.append(f'<path class="band f-{s.colour}" d="{_path([*up, *reversed(back)])}Z"/>')
    elif s.area and len(real) > 1:
        out.append(f'<path class="area f-{s.colour}" d="{_path(real)}V{frame.floor}H{real[0][0]:.1f}Z"/>')
    out.append(f'<path class="line s-{s.colour}" d="{_path(points)}"/>')
    if not real:
        return out
    few = real if len(real) <= (24 if direct else 8) else real[-1:]
    end = frame.left + frame.plot
    if direct and real[-1][0] < end - 1:
        out.append(f'<path class="lead" d="M{real[-1][0] + 6:.1f} {real[-1][1]:.1f}H{end + 4:.0f}"/>')
    return out + [f'<circle class="dot f-{s.colour}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in few]


def line_tip(
    series: Sequence[Line], show: Callable[[float], str], head: str = "round", cap: int = 160
) -> dict[str, object]:
    """The tooltip's data for `lines`: at most `cap` places on the x axis (those of the first line)."""
    xs = series[0].xs if series else []
    chosen = [run[-1] for run in bins(len(xs), cap)]
    by_x = [dict(zip(s.xs, s.ys, strict=True)) for s in series]
    rows = []
    for s, at in zip(series, by_x, strict=True):
        values = [at.get(xs[i]) for i in chosen]
        rows.append(
            {"n": clip(s.name, 40), "c": s.colour, "v": ["" if v is None else show(v) for v in values]}
        )
    return {"x": [xs[i] for i in chosen], "h": [f"{head} {short(xs[i])}" for i in chosen], "s": rows}


def columns(
    width: int,
    height: int,
    label: str,
    stacks: Sequence[tuple[str, str, Sequence[float]]],
    names: Sequence[str],
    show: Callable[[float], str],
    bad: Sequence[int] = (),
    top_value: float | None = None,
) -> Markup:
    """Stacked columns; `stacks` are (name, colour, heights), `names` the columns, `bad` ones are flagged."""
    n = len(names)
    heights = [sum(values[i] for _, _, values in stacks) for i in range(n)]
    high = (top_value or max(heights, default=0.0) or 1.0) * 1.04
    grid = labelled(ticks(0.0, high, 4), show)
    frame = _Frame(width, height, 10 + widest([t for _, t in grid], 11.5), 6, (0, 1), (0.0, high), bottom=28)
    left, plot = frame.left, frame.plot
    step = plot / max(n, 1)
    bar = min(step - (3 if step > 12 else 1 if step > 4 else 0), 56.0)
    first = left + (step - bar) / 2
    out = frame.rows(grid)
    base = [0.0] * n
    for _, colour, values in stacks:
        parts = []
        for i, value in enumerate(values):
            if value > 0:
                y0, y1 = frame.y(base[i]), frame.y(base[i] + value)
                parts.append(f"M{first + i * step:.1f} {y0:.1f}V{y1:.1f}h{bar:.1f}V{y0:.1f}")
                base[i] += value
        if parts:
            out.append(f'<path class="col f-{colour}" d="{"".join(parts)}"/>')
    for i in bad:
        x = first + i * step + bar / 2
        out.append(f'<path class="bad" d="M{x - 3:.1f} {frame.y(base[i]) - 11:.1f}l6 6m0 -6l-6 6"/>')
    every = max(1, math.ceil(n * 44 / max(step * n, 1)))
    for i in range(0, n, every):
        out.append(
            f'<text class="t m" x="{first + i * step + bar / 2:.1f}" y="{height - 9}">{esc(names[i])}</text>'
        )
    last = max(n - 1, 1)
    told = f' data-frame="{first + bar / 2:.1f},{step * last:.1f},0,{last}" data-bar="{bar:.1f}"'
    cross = f'<path class="cross band" d="M0 {frame.top}V{frame.floor}"/>'
    return svg(width, height, cross + "".join(out), label, told)


def spark(
    values: Sequence[float | None], colour: str, width: int = 120, height: int = 30, floor: bool = False
) -> Markup:
    """A word-sized line without axes; `floor` takes the first value for the lowest and does not draw it."""
    base = values[0] if floor and values else None
    values = values[1:] if floor else values
    values = values[next((i for i, v in enumerate(values) if v is not None), 0) :]
    points = thin(range(len(values)), values, 80)
    real = [(x, y) for x, y in points if y is not None]
    if len(real) < 2:
        return Markup("")
    low, high = min(y for _, y in real), max(y for _, y in real)
    low = low if base is None else min(low, base)
    reach = (high - low) or 1.0
    x1 = max(len(values) - 1, 1)
    at = [(1 + x / x1 * (width - 2), height - 4 - (y - low) / reach * (height - 8)) for x, y in real]
    area = f'<path class="area f-{colour}" d="{_path(at)}V{height}H{at[0][0]:.1f}Z"/>'
    return Markup(
        f'<svg class="spark" viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true">'
        f'{area}<path class="line s-{colour}" d="{_path(at)}"/></svg>'
    )


def _path(points: Sequence[tuple[float, float | None]]) -> str:
    parts, pen = [], "M"
    for x, y in points:
        if y is None:
            pen = "M"
        else:
            parts.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
    return "".join(parts)
