"""Parties x something: who took part in which round, and how labels are spread."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fedfm.report.drawing.charts import LETTER
from fedfm.report.drawing.markup import clip, esc, svg

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


def participation(
    label: str,
    parties: Sequence[str],
    rounds: Sequence[str],
    codes: Sequence[str],
    ends: Sequence[str],
    heights: Sequence[tuple[float, float]],
    width: int,
    bad: Sequence[int] = (),
) -> str:
    """A cell per party and round (`codes`: a string per party); on top uploaded and planned per round.

    Rounds in `bad` columns gave no model; they are flagged.
    """
    names = [clip(p, 16) for p in parties]
    left = 12 + LETTER * max(len(TOP), *map(len, names))
    right = 12 + LETTER * max(map(len, ends), default=0)
    n = len(rounds)
    cw = max(5.0, min(70.0, (width - left - right) / max(n, 1)))
    ch = 22.0 if len(parties) <= 12 else 16.0 if len(parties) <= 30 else 11.0
    top, wide = 54.0, left + right + cw * n
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
    small = " tiny" if ch < 12 else ""
    for j, (name, end) in enumerate(zip(names, ends, strict=True)):
        y = top + j * ch + ch / 2 + 3.5
        out.append(f'<text class="l q{small}" x="0" y="{y:.1f}">{esc(name)}</text>')
        out.append(f'<text class="t{small}" x="{left + cw * n + 6:.1f}" y="{y:.1f}">{esc(end)}</text>')
    every = max(1, round(40 / cw))
    bottom = top + ch * len(parties)
    for i in range(0, n, every):
        out.append(
            f'<text class="t m" x="{left + i * cw + (cw - gap) / 2:.1f}" y="{bottom + 17:.0f}">'
            f"{esc(rounds[i])}</text>"
        )
    out.append('<rect class="focus" width="0" height="0"/>')
    frame = f' data-grid="{left:.2f},{top:.2f},{cw:.3f},{ch:.2f}"'
    return svg(round(wide), bottom + 26, "".join(out), label, frame)


def heat(
    label: str,
    rows: Sequence[str],
    columns: Sequence[str],
    shares: Sequence[Sequence[float]],
    ends: Sequence[str],
    width: int,
) -> str:
    """Shares in six steps of one colour up to the largest share; parties down, labels across."""
    names = [clip(r, 16) for r in rows]
    left, right = 12 + LETTER * max(map(len, names), default=0), 10 + LETTER * max(map(len, ends), default=0)
    cw = max(9.0, (width - left - right) / max(len(columns), 1))
    ch = 22.0 if len(rows) <= 12 else 16.0 if len(rows) <= 30 else 11.0
    turned = cw < LETTER * max(map(len, columns), default=0) + 4
    top = 14 + (min(LETTER * max(len(clip(c, 14)) for c in columns), 90) if turned and columns else 10)
    out = []
    for i, column in enumerate(columns):
        x = left + i * cw + cw / 2
        spin = f' transform="rotate(-60 {x:.1f} {top - 7:.1f})"' if turned else ""
        out.append(
            f'<text class="t{"" if turned else " m"}" x="{x:.1f}" y="{top - 7:.1f}"{spin}>'
            f"{esc(clip(column, 14))}</text>"
        )
    gap = 2.0 if cw > 12 else 1.0
    most = max((v for line in shares for v in line), default=0.0) or 1.0
    for step in range(7):
        spots = [
            (j, i, 1) for j, line in enumerate(shares) for i, v in enumerate(line) if _step(v / most) == step
        ]
        out.append(_layer(f"s-c1 h{step}", 1 - gap / ch, spots, (left, top, cw, ch), gap))
    small = " tiny" if ch < 12 else ""
    for j, (name, end) in enumerate(zip(names, ends, strict=True)):
        y = top + j * ch + ch / 2 + 4
        out.append(f'<text class="l q{small}" x="0" y="{y:.1f}">{esc(name)}</text>')
        out.append(
            f'<text class="t{small}" x="{left + cw * len(columns) + 6:.1f}" y="{y:.1f}">{esc(end)}</text>'
        )
    out.append('<rect class="focus" width="0" height="0"/>')
    frame = f' data-grid="{left:.2f},{top:.2f},{cw:.3f},{ch:.2f}"'
    return svg(round(left + right + cw * len(columns)), top + ch * len(rows) + 4, "".join(out), label, frame)


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
