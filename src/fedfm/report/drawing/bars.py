"""Horizontal charts: bars with values, stacked bars, and a score ladder with a dot per party."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedfm.report.drawing.charts import LETTER, labelled, ticks
from fedfm.report.drawing.markup import clip, esc, svg


@dataclass(frozen=True)
class Bar:
    """A named length; `note` stands after its value, `tick` is a second value marked on the bar."""

    name: str
    value: float
    colour: str = "c1"
    note: str = ""
    tick: float | None = None
    tip: str = ""


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
    letters: int = 0,
    most: float = 0.0,
) -> str:
    """Bars from zero, to either side; `letters` (of the names) and `most` align several charts."""
    if not rows:
        return ""
    names = [clip(r.name, 20 if width > 400 else 15) for r in rows]
    texts = [show(r.value) + (f"  {r.note}" if r.note else "") for r in rows]
    left = 12 + LETTER * max(letters, *map(len, names))
    ends = [v for r in rows for v in (r.value, r.tick) if v is not None]
    low, high = min(0.0, *ends), max(most, *ends)
    reach = (high - low) or 1.0
    right = 10 + LETTER * max(map(len, texts))
    # The value of a negative bar stands left of it.
    shift = 10 + LETTER * max((len(t) for t, r in zip(texts, rows, strict=True) if r.value < 0), default=0)
    shift = shift if low < 0 else 0.0
    plot = width - left - right - shift
    zero = left + shift - low / reach * plot
    out = [f'<path class="axis" d="M{zero:.1f} 2V{row * len(rows) - 2}"/>']
    for i, (r, name, text) in enumerate(zip(rows, names, texts, strict=True)):
        y, length = i * row + row / 2, r.value / reach * plot
        x = zero + min(length, 0.0)
        side = ' class="l"' if r.value >= 0 else ' class="l e"'
        at = zero + length + (7 if r.value >= 0 else -7)
        tick = ""
        if r.tick is not None:
            tick = f'<path class="tick" d="M{zero + r.tick / reach * plot:.1f} {y - 9:.1f}v18"/>'
            at = max(at, zero + r.tick / reach * plot + 7)
        tip = esc(r.tip or f"{r.name}|{text}")
        out.append(
            f'<g class="hit" data-t="{tip}"><rect class="pad" y="{i * row}" width="{width}" height="{row}"/>'
            f'<text class="l q" x="0" y="{y + 4:.1f}">{esc(name)}</text>'
            f'<rect class="f-{r.colour}" x="{x:.1f}" y="{y - 7:.1f}" width="{max(abs(length), 0.8):.1f}"'
            f' height="14" rx="2.5"/>{tick}<text{side} x="{at:.1f}" y="{y + 4:.1f}">{esc(text)}</text></g>'
        )
    return svg(width, row * len(rows), "".join(out), label)


def stacked(
    width: int,
    label: str,
    rows: Sequence[tuple[str, Sequence[float]]],
    parts: Sequence[tuple[str, str]],
    show: Callable[[float], str],
    row: int = 22,
) -> str:
    """A stacked bar per row; `parts` are (name, colour) of its pieces; the total stands at the end."""
    names = [clip(name, 20 if width > 400 else 15) for name, _ in rows]
    left = 12 + LETTER * max(map(len, names), default=0)
    totals = [sum(values) for _, values in rows]
    right = 10 + LETTER * max((len(show(t)) for t in totals), default=0)
    scale = (width - left - right) / (max(totals, default=0.0) or 1.0)
    out = []
    for i, ((full, values), name) in enumerate(zip(rows, names, strict=True)):
        y, x = i * row + row / 2, left
        lines = [full] + [f"{part}: {show(v)}" for (part, _), v in zip(parts, values, strict=True) if v]
        out.append(f'<g class="hit" data-t="{esc("|".join(lines[:14]))}">')
        out.append(f'<rect class="pad" y="{i * row}" width="{width}" height="{row}"/>')
        out.append(f'<text class="l q" x="0" y="{y + 4:.1f}">{esc(name)}</text>')
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
) -> str:
    """Scores on one axis, a row each; the dots are single parties; the axis holds `also` these values."""
    values = [v for r in rungs for v in (r.value, *(d for _, d in r.dots))] + list(also)
    if not values:
        return ""
    low, high = min(values), max(values)
    pad = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    # Stems stand for lengths only when they start at zero.
    stems = 0 <= low < 0.75 * high
    low, high = (0.0 if stems else low - pad), high + pad
    left = 20 + LETTER * max(len(clip(r.name, 20)) for r in rungs)
    right = 18 + 1.75 * LETTER * max(len(show(r.value)) for r in rungs)
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
        out.append(f'<text class="l q{strong}" x="0" y="{y + 4:.1f}">{esc(clip(r.name, 20))}</text>')
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
