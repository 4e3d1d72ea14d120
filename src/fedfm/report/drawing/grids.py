"""Parties x something: who took part in which round, and how labels are spread."""

from __future__ import annotations

import re
from collections.abc import Sequence

from markupsafe import Markup

from fedfm.report.drawing.letters import dagger, fit, name_at, wide, widest
from fedfm.report.drawing.markup import esc, svg
from fedfm.text import clip

# Outcomes differ in height as well as in colour, so that the grid reads without colour too.
CELLS = {
    "c": ("c1", 1.0),
    "s": ("c8", 0.5),
    "l": ("c5", 0.62),
    "d": ("c2", 0.38),
    "r": ("c4", 0.62),
    "f": ("bad", 1.0),
    "p": ("mute", 0.2),
}
TOP = "uploaded"  # the name of the row of columns above the grid
NAME = 150.0  # px that a party's name may take


def participation(
    label: str,
    parties: Sequence[str],
    rounds: Sequence[str],
    codes: Sequence[str],
    ends: Sequence[str],
    heights: Sequence[tuple[float, float]],
    width: int,
    bad: Sequence[int] = (),
    marked: Sequence[bool] = (),
) -> Markup:
    """A cell per party and round (`codes`: a string per party); on top uploaded and planned per round.

    Rounds in `bad` columns gave no model; they are flagged, and so are `marked` parties (attackers).
    """
    marks = list(marked) or [False] * len(parties)
    names = [fit(p, min(NAME, width * 0.3)) for p in parties]
    left = 12 + max(wide(TOP, 11.5), widest([dagger(n, m) for n, m in zip(names, marks, strict=True)]))
    right = 12 + widest(list(ends), 11.5)
    n = len(rounds)
    cw = max(5.0, min(70.0, (width - left - right) / max(n, 1)))
    ch = 22.0 if len(parties) <= 12 else 16.0 if len(parties) <= 30 else 11.0
    top, across = 54.0, left + right + cw * n
    gap = 3.0 if cw > 14 else 1.4 if cw > 7 else 0.8
    out = [f'<text class="t" x="0" y="{top - 22:.0f}">{TOP}</text>']
    most = max((planned for _, planned in heights), default=0.0) or 1.0
    for kind, which in (("f-mute", 1), ("f-c1", 0)):
        path = ""
        for i, pair in enumerate(heights):
            h = pair[which] / most * 34
            if h > 0:
                path += f"M{left + i * cw:.1f} {top - 10:.1f}v-{h:.1f}h{cw - gap:.1f}v{h:.1f}z"
        out.append(f'<path class="{kind}" d="{path}"/>')
    for i in bad:
        x = left + i * cw + (cw - gap) / 2
        out.append(f'<path class="bad" d="M{x - 3:.1f} {top - 51:.1f}l6 6m0 -6l-6 6"/>')
    high = 1 - (3 if ch > 12 else 1.6) / ch
    out.append(_layer("s-none", high, [(j, 0, n) for j in range(len(parties))], (left, top, cw, ch), gap))
    for code, (colour, tall) in CELLS.items():
        spots = [
            (j, m.start(), len(m[0])) for j, row in enumerate(codes) for m in re.finditer(f"{code}+", row)
        ]
        out.append(_layer(f"s-{colour}", high * tall, spots, (left, top, cw, ch), gap))
    out += _sides(names, ends, marks, (left, top, cw * n, ch))
    every = max(1, round(40 / cw))
    bottom = top + ch * len(parties)
    for i in range(0, n, every):
        out.append(
            f'<text class="t m" x="{left + i * cw + (cw - gap) / 2:.1f}" y="{bottom + 17:.0f}">'
            f"{esc(rounds[i])}</text>"
        )
    out.append('<rect class="focus" width="0" height="0"/>')
    frame = f' data-grid="{left:.2f},{top:.2f},{cw:.3f},{ch:.2f}"'
    return svg(round(across), bottom + 26, "".join(out), label, frame)


def heat(
    label: str,
    rows: Sequence[str],
    columns: Sequence[str],
    shares: Sequence[Sequence[float]],
    ends: Sequence[str],
    width: int,
    marked: Sequence[bool] = (),
) -> Markup:
    """Shares in six steps of one colour up to the largest share; parties down, labels across."""
    marks = list(marked) or [False] * len(rows)
    names = [fit(r, min(NAME, width * 0.3)) for r in rows]
    left = 12 + widest([dagger(n, m) for n, m in zip(names, marks, strict=True)])
    right = 10 + widest(list(ends), 11.5)
    cw = max(9.0, (width - left - right) / max(len(columns), 1))
    ch = 22.0 if len(rows) <= 12 else 16.0 if len(rows) <= 30 else 11.0
    heads = [clip(c, 14) for c in columns]
    turned = cw < widest(heads, 11.5) + 4
    top = 14 + (min(widest(heads, 11.5), 90) if turned else 10)
    out = []
    for i, head in enumerate(heads):
        x = left + i * cw + cw / 2
        spin = f' transform="rotate(-60 {x:.1f} {top - 7:.1f})"' if turned else ""
        out.append(
            f'<text class="t{"" if turned else " m"}" x="{x:.1f}" y="{top - 7:.1f}"{spin}>{esc(head)}</text>'
        )
    gap = 2.0 if cw > 12 else 1.0
    most = max((v for line in shares for v in line), default=0.0) or 1.0
    for step in range(7):
        spots = [
            (j, i, 1) for j, line in enumerate(shares) for i, v in enumerate(line) if _step(v / most) == step
        ]
        out.append(_layer(f"s-c1 h{step}", 1 - gap / ch, spots, (left, top, cw, ch), gap))
    out += _sides(names, ends, marks, (left, top, cw * len(columns), ch))
    out.append('<rect class="focus" width="0" height="0"/>')
    frame = f' data-grid="{left:.2f},{top:.2f},{cw:.3f},{ch:.2f}"'
    return svg(round(left + right + cw * len(columns)), top + ch * len(rows) + 4, "".join(out), label, frame)


def _sides(
    names: Sequence[str],
    ends: Sequence[str],
    marks: Sequence[bool],
    frame: tuple[float, float, float, float],
) -> list[str]:
    """The names left of the rows of a grid, and a text at the end of each."""
    left, top, across, ch = frame
    small = " tiny" if ch < 12 else ""
    out = []
    for j, (name, end, marked) in enumerate(zip(names, ends, marks, strict=True)):
        y = top + j * ch + ch / 2 + 4
        out.append(name_at(0, y, name, marked, small))
        out.append(f'<text class="t{small}" x="{left + across + 6:.1f}" y="{y:.1f}">{esc(end)}</text>')
    return out


def _step(value: float) -> int:
    return (
        0
        if value <= 0
        else next((i for i, limit in enumerate((0.05, 0.15, 0.3, 0.5, 0.75), 1) if value <= limit), 6)
    )


def _layer(
    cls: str,
    thick: float,
    spots: Sequence[tuple[int, int, int]],
    frame: tuple[float, float, float, float],
    gap: float,
) -> str:
    """Runs of cells (row, column, length) as dashes of one path, in units of a cell: ten bytes a run."""
    if not spots:
        return ""
    left, top, cw, ch = frame
    full = 1 - gap / cw
    path = "".join(f"M{i} {j}.5h{length}" for j, i, length in spots)
    return (
        f'<path class="cell {cls}" transform="translate({left:.2f} {top:.2f}) scale({cw:.3f} {ch:.2f})"'
        f' stroke-width="{thick:.3f}" stroke-dasharray="{full:.3f} {1 - full:.3f}" d="{path}"/>'
    )
