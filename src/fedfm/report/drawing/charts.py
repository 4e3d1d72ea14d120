"""Charts over rounds: lines with direct labels, and stacked columns."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedfm.report.drawing.markup import clip, esc, svg
from fedfm.report.numbers import short

LETTER = 6.3  # average width in px of a character of a chart's text


@dataclass(frozen=True)
class Line:
    """A named line: colour class, values over x (None leaves a gap), whether its area is tinted."""

    name: str
    colour: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    area: bool = False


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
    """Ticks with their text, without decimals that are zero on every one of them."""
    texts = [show(t) for t in places]
    if all(not re.search(r"\.\d*[1-9]", text) for text in texts):
        texts = [re.sub(r"\.0+", "", text) for text in texts]
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
) -> str:
    """Lines and baselines, labelled at their ends if `direct`; `marks` flags rounds, `zero` starts at 0."""
    values = [y for s in series for y in s.ys if y is not None] + [r.y for r in rules]
    places = [x for s in series for x in s.xs]
    if not values or not places:
        return ""
    low, high = (min(0.0, *values) if zero else min(values)), max(values)
    pad = (high - low) * 0.07 or abs(high) * 0.1 or 1.0
    low, high = (
        (low if zero or 0 <= low < pad else low - pad),
        (high if high <= 1 < high + pad else high + pad),
    )
    ends = [(s, next((y for y in reversed(s.ys) if y is not None), None)) for s in series]
    names = [(clip(s.name, 18), s.colour, y, show(y)) for s, y in ends if y is not None]
    names += [(clip(r.name, 18), r.colour, r.y, show(r.y)) for r in rules]
    names = names if direct else []
    grid = labelled(ticks(low, high), show)
    left = 10 + LETTER * max(len(text) for _, text in grid)
    right = min(16 + LETTER * max((len(f"{n} {v}") for n, _, _, v in names), default=-1), width * 0.42)
    top, bottom = 12, 30
    x0, x1 = min(places), max(places)
    reach = (x1 - x0) or 1.0
    plot = width - left - right

    def px(x: float) -> float:
        return left + (x - x0) / reach * plot if x1 > x0 else left + plot / 2

    def py(y: float) -> float:
        return height - bottom - (y - low) / (high - low) * (height - top - bottom)

    out = []
    for t, text in grid:
        out.append(f'<path class="g" d="M{left:.0f} {py(t):.1f}h{plot:.0f}"/>')
        out.append(f'<text class="t e" x="{left - 7:.0f}" y="{py(t) + 4:.1f}">{esc(text)}</text>')
    at = (
        ticks(x0, x1, max(2, int(plot // 80)), whole=x_name == "round")
        if direct
        else [x0, x1][: 1 + (x1 > x0)]
    )
    for i, (t, text) in enumerate(labelled(at, show_x)):
        name = f"{x_name} {text}" if i == len(at) - 1 and x_name else text
        anchor = " m" if px(t) < width - right - 20 else " e"
        out.append(f'<text class="t{anchor}" x="{px(t):.1f}" y="{height - 9}">{esc(name)}</text>')
    for mark in marks:
        if x0 <= mark <= x1:
            x = px(mark)
            out.append(f'<path class="bad" d="M{x - 3:.1f} {height - bottom - 3}l6 6m0 -6l-6 6"/>')
    for r in rules if direct else ():
        out.append(f'<path class="rule s-{r.colour}" d="M{left:.0f} {py(r.y):.1f}h{plot + 4:.0f}"/>')
    for s in series:
        points = [(px(x), None if y is None else py(y)) for x, y in thin(s.xs, s.ys, most)]
        path, real = _path(points), [(x, y) for x, y in points if y is not None]
        if s.area and len(real) > 1:
            floor = height - bottom
            out.append(f'<path class="area f-{s.colour}" d="{_path(real)}V{floor}H{real[0][0]:.1f}Z"/>')
        out.append(f'<path class="line s-{s.colour}" d="{path}"/>')
        if real:
            few = real if len(real) <= (24 if direct else 8) else real[-1:]
            if direct and real[-1][0] < left + plot - 1:
                out.append(
                    f'<path class="lead" d="M{real[-1][0] + 6:.1f} {real[-1][1]:.1f}H{left + plot + 4:.0f}"/>'
                )
            out += [f'<circle class="dot f-{s.colour}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in few]
    spots = apart([py(y) for _, _, y, _ in names], 15, top, height - bottom - 2)
    for (name, colour, _, value), y in zip(names, spots, strict=True):
        out.append(
            f'<text class="l f-{colour}" x="{width - right + 9:.0f}" y="{y + 4:.1f}">{esc(name)}'
            f'<tspan class="v" dx="4">{esc(value)}</tspan></text>'
        )
    out.append(f'<path class="cross" d="M0 {top}V{height - bottom}"/>')
    frame = f' data-frame="{left:.1f},{plot:.1f},{x0:g},{x1:g}"'
    return svg(width, height, "".join(out), label, frame)


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
) -> str:
    """Stacked columns; `stacks` are (name, colour, heights), `names` the columns, `bad` ones are flagged."""
    n = len(names)
    heights = [sum(values[i] for _, _, values in stacks) for i in range(n)]
    high = (top_value or max(heights, default=0.0) or 1.0) * 1.04
    grid = labelled(ticks(0.0, high, 4), show)
    left, top, bottom = 10 + LETTER * max(len(text) for _, text in grid), 12, 28
    plot = width - left - 6
    step = plot / max(n, 1)
    bar = min(step - (3 if step > 12 else 1 if step > 4 else 0), 56.0)
    first = left + (step - bar) / 2

    def py(y: float) -> float:
        return height - bottom - y / high * (height - top - bottom)

    out = []
    for t, text in grid:
        out.append(f'<path class="g" d="M{left:.0f} {py(t):.1f}h{plot:.0f}"/>')
        out.append(f'<text class="t e" x="{left - 7:.0f}" y="{py(t) + 4:.1f}">{esc(text)}</text>')
    base = [0.0] * n
    for _, colour, values in stacks:
        parts = []
        for i, value in enumerate(values):
            if value > 0:
                y0, y1 = py(base[i]), py(base[i] + value)
                parts.append(f"M{first + i * step:.1f} {y0:.1f}V{y1:.1f}h{bar:.1f}V{y0:.1f}")
                base[i] += value
        if parts:
            out.append(f'<path class="col f-{colour}" d="{"".join(parts)}"/>')
    for i in bad:
        x = first + i * step + bar / 2
        out.append(f'<path class="bad" d="M{x - 3:.1f} {py(base[i]) - 11:.1f}l6 6m0 -6l-6 6"/>')
    every = max(1, math.ceil(n * 44 / max(step * n, 1)))
    for i in range(0, n, every):
        out.append(
            f'<text class="t m" x="{first + i * step + bar / 2:.1f}" y="{height - 9}">{esc(names[i])}</text>'
        )
    last = max(n - 1, 1)
    frame = f' data-frame="{first + bar / 2:.1f},{step * last:.1f},0,{last}" data-bar="{bar:.1f}"'
    cross = f'<path class="cross band" d="M0 {top}V{height - bottom}"/>'
    return svg(width, height, cross + "".join(out), label, frame)


def spark(
    values: Sequence[float | None], colour: str, width: int = 120, height: int = 30, floor: bool = False
) -> str:
    """A word-sized line without axes; `floor` takes the first value for the lowest and does not draw it."""
    base = values[0] if floor and values else None
    values = values[1:] if floor else values
    values = values[next((i for i, v in enumerate(values) if v is not None), 0) :]
    points = thin(range(len(values)), values, 80)
    real = [(x, y) for x, y in points if y is not None]
    if len(real) < 2:
        return ""
    low, high = min(y for _, y in real), max(y for _, y in real)
    low = low if base is None else min(low, base)
    reach = (high - low) or 1.0
    x1 = max(len(values) - 1, 1)
    at = [(1 + x / x1 * (width - 2), height - 4 - (y - low) / reach * (height - 8)) for x, y in real]
    area = f'<path class="area f-{colour}" d="{_path(at)}V{height}H{at[0][0]:.1f}Z"/>'
    return (
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
