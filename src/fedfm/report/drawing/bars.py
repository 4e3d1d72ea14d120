"""Horizontal charts: bars with values, stacked bars, and a score ladder with a dot per party."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedfm.report.drawing.charts import labelled, ticks
from fedfm.report.drawing.letters import BOLD, dagger, fit, name_at, widest
from fedfm.report.drawing.markup import esc, svg
from fedfm.text import clip

NAMES = 0.36  # of a chart's width that names may take


@dataclass(frozen=True)
class Bar:
    """A named length; `note` stands after its value, `tick` is a second value on the bar, `marked` an attacker."""

    name: str
    value: float
    colour: str = "c1"
    note: str = ""
    tick: float | None = None
    tip: str = ""
    marked: bool = False


@dataclass(frozen=True)
class Rung:
    """One score of the ladder, with the scores of the single parties behind it where there are any."""

    name: str
    value: float
    colour: str
    strong: bool = False
    dots: tuple[tuple[str, float], ...] = ()


def bars(
    width: int,
    label: str,
    rows: Sequence[Bar],
    show: Callable[[float], str],
    row: int = 26,
    room: float = 0.0,
    most: float = 0.0,
) -> Markup:
    """Bars from zero, to either side; `room` (px for the names) and `most` align several charts."""
    if not rows:
        return Markup("")
    names = _fitted([r.name for r in rows], [r.marked for r in rows], width)
    texts = [show(r.value) + (f"  {r.note}" if r.note else "") for r in rows]
    left = 12 + max(room, _widest_of(names, [r.marked for r in rows]))
    ends = [v for r in rows for v in (r.value, r.tick) if v is not None]
    low, high = min(0.0, *ends), max(most, *ends)
    reach = (high - low) or 1.0
    right = 10 + widest(texts) * BOLD
    # The value of a negative bar stands left of it.
    shift = 10 + widest([t for t, r in zip(texts, rows, strict=True) if r.value < 0]) * BOLD
    shift = shift if low < 0 else 0.0
    scale = max(width - left - right - shift, 20.0) / reach
    zero = left + shift - low * scale
    out = [f'<path class="axis" d="M{zero:.1f} 2V{row * len(rows) - 2}"/>']
    for i, (r, name, text) in enumerate(zip(rows, names, texts, strict=True)):
        y = i * row + row / 2
        tip = esc(r.tip or f"{dagger(r.name, r.marked)}|{text}")
        out.append(
            f'<g class="hit" data-t="{tip}"><rect class="pad" y="{i * row}" width="{width}" height="{row}"/>'
            f"{name_at(0, y + 4, name, r.marked)}{_bar(r, text, zero, y, scale)}</g>"
        )
    return svg(width, row * len(rows), "".join(out), label)


def _bar(r: Bar, text: str, zero: float, y: float, scale: float) -> str:
    """The bar itself, its tick, and its value at the end of the two."""
    length = r.value * scale
    side, at = ("l", zero + length + 7) if r.value >= 0 else ("l e", zero + length - 7)
    tick = ""
    if r.tick is not None:
        place = zero + r.tick * scale
        tick = f'<path class="tick" d="M{place:.1f} {y - 9:.1f}v18"/>'
        at = max(at, place + 7) if r.value >= 0 else min(at, place - 7)
    return (
        f'<rect class="f-{r.colour}" x="{zero + min(length, 0.0):.1f}" y="{y - 7:.1f}"'
        f' width="{max(abs(length), 0.8):.1f}" height="14" rx="2.5"/>{tick}'
        f'<text class="{side}" x="{at:.1f}" y="{y + 4:.1f}">{esc(text)}</text>'
    )


def _fitted(names: Sequence[str], marked: Sequence[bool], width: int) -> list[str]:
    """The names, cut to their share of the chart."""
    return [fit(n, width * NAMES - 12 * m) for n, m in zip(names, marked, strict=True)]


def _widest_of(names: Sequence[str], marked: Sequence[bool]) -> float:
    return widest([dagger(n, m) for n, m in zip(names, marked, strict=True)])


def stacked(
    width: int,
    label: str,
    rows: Sequence[tuple[str, Sequence[float]]],
    parts: Sequence[tuple[str, str]],
    show: Callable[[float], str],
    row: int = 22,
    marked: Sequence[bool] = (),
) -> Markup:
    """A stacked bar per row; `parts` are (name, colour) of its pieces; the total stands at the end."""
    marks = list(marked) or [False] * len(rows)
    names = _fitted([name for name, _ in rows], marks, width)
    left = 12 + _widest_of(names, marks)
    totals = [sum(values) for _, values in rows]
    right = 10 + widest([show(t) for t in totals]) * BOLD
    scale = (width - left - right) / (max(totals, default=0.0) or 1.0)
    out = []
    for i, ((full, values), name) in enumerate(zip(rows, names, strict=True)):
        y, x = i * row + row / 2, left
        told = [f"{part}: {show(v)}" for (part, _), v in zip(parts, values, strict=True) if v]
        tip = esc("|".join([dagger(full, marks[i]), *told][:14]))
        out.append(f'<g class="hit" data-t="{tip}">')
        out.append(f'<rect class="pad" y="{i * row}" width="{width}" height="{row}"/>')
        out.append(name_at(0, y + 4, name, marks[i]))
        for (_, colour), value in zip(parts, values, strict=True):
            if value > 0:
                length = value * scale
                shown = max(length - 1, 0.6)
                out.append(
                    f'<rect class="f-{colour}" x="{x:.1f}" y="{y - 7:.1f}" width="{shown:.1f}" height="14"/>'
                )
                x += length
        out.append(f'<text class="l" x="{x + 6:.1f}" y="{y + 4:.1f}">{esc(show(totals[i]))}</text></g>')
    return svg(width, row * len(rows), "".join(out), label)


def ladder(
    width: int,
    label: str,
    rungs: Sequence[Rung],
    show: Callable[[float], str],
    row: int = 56,
    also: Sequence[float] = (),
) -> Markup:
    """Scores on one axis, a row each; the dots are single parties; the axis holds `also` these values."""
    values = [v for r in rungs for v in (r.value, *(d for _, d in r.dots))] + list(also)
    if not values:
        return Markup("")
    low, high = min(values), max(values)
    pad = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    # Stems stand for lengths only when they start at zero.
    stems = 0 <= low < 0.75 * high
    low, high = (0.0 if stems else low - pad), high + pad
    left = 20 + widest([r.name for r in rungs]) * BOLD
    right = 18 + widest([show(r.value) for r in rungs], 19) * BOLD
    plot, height = width - left - right, row * len(rungs) + 24

    def px(v: float) -> float:
        return left + (v - low) / (high - low) * plot

    out = []
    for t, text in labelled(ticks(low, high, 4 if width > 400 else 3), show):
        out.append(f'<path class="g" d="M{px(t):.1f} 4V{height - 22}"/>')
        out.append(f'<text class="t m" x="{px(t):.1f}" y="{height - 6}">{esc(text)}</text>')
    for i, r in enumerate(rungs):
        y = i * row + row / 2 + 2
        strong = " strong" if r.strong else ""
        out.append(f'<g class="hit" data-t="{esc(r.name)}|{esc(show(r.value))}">')
        out.append(f'<rect class="pad" y="{i * row + 2}" width="{width}" height="{row}"/>')
        out.append(f'<text class="l q{strong}" x="0" y="{y + 4:.1f}">{esc(r.name)}</text>')
        out.append(f'<path class="g" d="M{left:.1f} {y:.1f}h{plot:.1f}"/>')
        if stems:
            out.append(f'<path class="stem s-{r.colour}{strong}" d="M{left:.1f} {y:.1f}H{px(r.value):.1f}"/>')
        for name, v in r.dots[:120]:
            out.append(
                f'<circle class="party f-{r.colour}" cx="{px(v):.1f}" cy="{y:.1f}" r="4"'
                f' data-t="{esc(clip(name, 40))} alone|{esc(show(v))}"/>'
            )
        out.append(
            f'<circle class="knob f-{r.colour}" cx="{px(r.value):.1f}" cy="{y:.1f}"'
            f' r="{8 if r.strong else 6}"/>'
        )
        out.append(
            f'<text class="l v f-{r.colour}{strong}" x="{width - right + 14:.1f}" y="{y + 5:.1f}">'
            f"{esc(show(r.value))}</text></g>"
        )
    return svg(width, height, "".join(out), label)
