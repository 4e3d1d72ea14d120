"""Markup that is not a template: escaping, the frame of a chart's SVG, and the JSON that feeds the tooltips."""

from __future__ import annotations

import html
import json
from typing import Any

from markupsafe import Markup

from fedfm.text import clean


def esc(value: Any) -> str:
    """Text safe inside an element or a quoted attribute; control and bidi characters become visible."""
    return html.escape(clean(value), quote=True)


def data(value: Any) -> Markup:
    """JSON that no text inside can close, for a data block of the page."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)


def svg(width: float, height: float, body: str, label: str, extra: str = "") -> Markup:
    """An image that scales down with its card and can take the keyboard when it has a tooltip; `body` is markup."""
    focus = ' tabindex="0"' if extra else ""
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img"'
        f' aria-label="{esc(label)}"{focus}{extra}>{body}</svg>'
    )
