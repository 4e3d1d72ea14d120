"""How wide text is: charts leave room for names before they are drawn, so no name touches what stands beside it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from fedfm.report.drawing.markup import esc
from fedfm.text import clip

# Widths in em, of the widest of the page's fonts: what is left is a gap, never an overlap.
_NARROW, _SLIM, _BROAD = 0.4, 0.5, 1.0
_CLASSES = dict.fromkeys("iljI.,:;'|! ()[]/-J", _NARROW) | dict.fromkeys('frt"*_', _SLIM)
_CLASSES |= dict.fromkeys("mwMW@%…—", _BROAD)
BOLD = 1.12  # of the width of plain text


def wide(text: str, size: float = 12.5) -> float:
    """The most px that this text takes at that size."""
    return size * sum(map(_em, text))


def widest(texts: Sequence[str], size: float = 12.5) -> float:
    """Of several; 0 without any."""
    return max((wide(t, size) for t in texts), default=0.0)


def fit(name: str, most: float, size: float = 12.5) -> str:
    """The text, cut in the middle until it takes at most so many px."""
    if wide(name, size) <= most:
        return name
    low, high = 1, min(len(name), 200)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if wide(clip(name, middle), size) <= most else (low, middle - 1)
    return clip(name, low)


def name_at(x: float, y: float, text: str, marked: bool = False, extra: str = "") -> str:
    """A party's or a stage's name as an SVG text; attackers (`marked`) carry a dagger and the colour of trouble."""
    kind = f"l q{' out' if marked else ''}{extra}"
    return f'<text class="{kind}" x="{x:g}" y="{y:.1f}">{esc(dagger(text, marked))}</text>'


def dagger(text: str, marked: bool) -> str:
    """The name with the sign of an attacker, where it is one."""
    return f"{text} †" if marked else text


def _em(char: str) -> float:
    if char in _CLASSES:
        return _CLASSES[char]
    if re.match(r"[a-z0-9]", char):
        return 0.65
    if re.match(r"[A-Z]", char):
        return 0.8
    if unicodedata.combining(char):
        return 0.0
    return 1.05 if unicodedata.east_asian_width(char) in "WF" else 0.85
