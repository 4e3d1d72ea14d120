"""Escaped HTML pieces: cards, tables, chips, and the JSON that feeds the tooltips."""

from __future__ import annotations

import html
import json
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

NARROW = 344  # drawing width, in px, of every chart on a phone
SPANS = {4: 350, 5: 440, 6: 545, 7: 645, 8: 750, 12: 1150}  # columns of the grid -> drawing width


def esc(value: Any) -> str:
    """Text safe inside an element or a quoted attribute; control and bidi characters become visible."""
    text = str(value)
    if not text.isprintable():
        text = "".join(
            c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co") else "�" for c in text
        )
    return html.escape(text, quote=True)


def clip(value: Any, width: int = 22) -> str:
    """Not escaped: the text, cut in the middle when it is longer than that many characters."""
    text = str(value)
    if len(text) <= width:
        return text
    keep = width - 1
    return text[: keep - keep // 3] + "…" + text[len(text) - keep // 3 :]


def data(value: Any) -> str:
    """A JSON data block that no text inside can close."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return f'<script type="application/json" class="tip">{text}</script>'


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], cap: int = 60, sort: bool = False) -> str:
    """A table of plain cells; columns of numbers are set right; of more than `cap` rows some are shown."""
    rows = list(rows)
    shown = rows if len(rows) <= cap else [rows[round(i * (len(rows) - 1) / (cap - 1))] for i in range(cap)]
    right = [bool(shown) and all(_numeric(row[i]) for row in shown) for i in range(len(head))]
    kinds = [' class="n"' if r else "" for r in right]
    top = "".join(f'<th scope="col"{k}>{esc(h)}</th>' for h, k in zip(head, kinds, strict=True))
    body = []
    for row in shown:
        cells = [f'<th scope="row"{kinds[0]}>{esc(row[0])}</th>']
        cells += [f"<td{k}>{esc(c)}</td>" for c, k in zip(row[1:], kinds[1:], strict=True)]
        body.append(f"<tr>{''.join(cells)}</tr>")
    note = (
        f'<p class="note">{len(shown)} of {len(rows):,} rows, evenly spaced.</p>'
        if len(shown) < len(rows)
        else ""
    )
    sortable = ' class="sort"' if sort else ""
    return (
        f'<div class="scroll"><table{sortable}><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>{note}"
    )


def fold_away(summary: str, body: str, cls: str = "") -> str:
    """A details element; `body` is markup."""
    return f'<details class="{cls}"><summary>{esc(summary)}</summary>{body}</details>' if body else ""


def card(title: str, caption: str, body: str, columns: int = 6, numbers: str = "", chip: str = "") -> str:
    """One card: `body`, `numbers` (the chart's table) and `chip` are markup, title and caption are text."""
    words = f'<p class="cap">{esc(caption)}</p>' if caption else ""
    return (
        f'<article class="card w{columns}"><header><h3>{esc(title)}</h3>{chip}</header>{words}'
        f"{body}{fold_away('Numbers behind this', numbers, 'numbers')}</article>"
    )


def both(draw: Callable[[int], str], columns: int) -> str:
    """A chart at the card's width and again for a phone; only one of the two is ever displayed."""
    return f'<div class="wide">{draw(SPANS[columns])}</div><div class="narrow">{draw(NARROW)}</div>'


def figure(label: str, body: str, tip: dict[str, Any] | None = None) -> str:
    """A chart with its text alternative and the data of its tooltip."""
    return f'<figure aria-label="{esc(label)}">{body}{data(tip) if tip else ""}</figure>'


def legend(items: Iterable[tuple[str, str, str]]) -> str:
    """Chips of (name, colour class, value)."""
    chips = "".join(
        f'<li><i class="sw b-{colour}"></i>{esc(name)}{f"<b>{esc(value)}</b>" if value else ""}</li>'
        for name, colour, value in items
    )
    return f'<ul class="legend">{chips}</ul>'


def svg(width: float, height: float, body: str, label: str, extra: str = "") -> str:
    """An image that scales down with its card and can take the keyboard when it has a tooltip."""
    focus = ' tabindex="0"' if extra else ""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img"'
        f' aria-label="{esc(label)}"{focus}{extra}>{body}</svg>'
    )


def _numeric(cell: Any) -> bool:
    text = str(cell)
    return text in ("", "–") or text[0] in "0123456789−+<" and len(text) < 20
