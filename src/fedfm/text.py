"""Text of strangers (names, labels, reasons, columns) made fit for where it is shown: a page, a terminal, Markdown."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

DIGITS = 4300  # of a number, beyond which Python reads none
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn")  # controls, invisible and bidi marks, half pairs, private, unassigned


def clean(value: Any) -> str:
    """The text with a visible sign for every character that would hide, reorder or steer; lines and tabs stay."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(
        c if c in "\n\t" or c.isprintable() or unicodedata.category(c) not in HIDDEN else "\ufffd"
        for c in text
    )


def line(value: Any) -> str:
    """The same on one line: nobody's name writes a line of its own into a log or a table."""
    return re.sub(r"\s+", " ", clean(value)).strip()


def counted(reasons: Mapping[str, int]) -> str:
    """`12 (empty), 3 (too long)`: how many for which reason, the reasons on one line."""
    return ", ".join(f"{n} ({line(why)})" for why, n in reasons.items())


def markdown(value: Any) -> str:
    """Text that Markdown shows as it is, inside a paragraph or a cell of a table."""
    text = re.sub(r"([\\`*_\[\]|~$<>])", r"\\\1", line(value).replace("&", "&amp;"))
    text = re.sub(r"^([#+=-]|\d+(?=[.)]))", r"\\\1", text)  # no heading or list begins here
    text = text.replace(r"\<", "&lt;").replace(r"\>", "&gt;")
    text = re.sub(r"(?i)\b(https?|ftp|mailto):", r"\1&#58;", text)  # no link that nobody wrote
    return re.sub(r"(?i)\bwww\.", "www&#46;", text)


def clip(value: Any, width: int = 22) -> str:
    """Not escaped: the text, cut in the middle when it is longer than that many characters."""
    text = str(value)
    if len(text) <= width:
        return text
    keep = width - 1
    return text[: keep - keep // 3] + "…" + text[len(text) - keep // 3 :]


def natural(name: str) -> list[tuple[int, int, str]]:
    """A sorting key by which party-2 comes before party-10."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(p), "") if p.isdecimal() and len(p) < DIGITS else (1, 0, p) for p in parts]


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or `known here:` and the sorted list of what exists when nothing is near."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return (
        f"did you mean '{close[0]}'?{alien(word, close[0])}" if close else "known here: " + ", ".join(known)
    )


def alien(word: str, meant: str) -> str:
    """Which character keeps `word` from being `meant`, where it may look the same; empty where all are plain letters."""
    strange = next((c for c in word if not c.isascii() and c not in meant), "")
    name = unicodedata.name(strange, f"U+{ord(strange):04X}") if strange else ""
    return f" ({clean(strange)!r} is {name}, no Latin letter)" if strange else ""
