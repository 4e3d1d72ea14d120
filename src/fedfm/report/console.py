"""The terminal: whatever is printed there is text, never markup; what strangers wrote cannot steer it."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from fedfm.text import clean


class Terminal(Console):
    """A console on which brackets are brackets; styles come from `said`. In a pipe nothing is cut."""

    def __init__(self, stderr: bool = False, **options: Any):
        stream = sys.stderr if stderr else sys.stdout
        wide = {} if stderr or stream.isatty() else {"width": 2000}
        super().__init__(
            **{"stderr": stderr, "markup": False, "emoji": False, "highlight": False, **wide, **options}
        )

    def render_str(self, text: str, **options: Any) -> Text:
        """Plain strings, of table cells too, without control characters."""
        return super().render_str(clean(text), **options)


def said(*parts: object, style: str = "") -> Text:
    """Text of anybody as it is, in a style; a pair (text, style) sets the style of that piece."""
    out = Text(style=style)
    for part in parts:
        text, own = part if isinstance(part, tuple) else (part, "")
        out.append(clean(text), own or None)
    return out
