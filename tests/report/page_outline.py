"""A page as tests see it: tags that nest, ids, headings, addresses, scripts, images, and the text of a card."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from fedfm.report import write


class PageOutline(HTMLParser):
    """Checks that tags nest and that none has a handler; collects what a page links to and runs."""

    VOID = frozenset({"meta", "br", "input", "img", "link", "hr"})

    def __init__(self, text: str):
        super().__init__()
        self.stack: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(text)
        self.close()
        assert not self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [v or "" for k, v in attrs if k in ("href", "src", "xlink:href", "action")]
        assert not any(k.startswith("on") for k in found), (tag, attrs)
        if tag == "svg":
            self.images.append(found)
        if tag == "script":
            self.scripts.append(found.get("type") or "code")
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.stack and self.stack.pop() == tag, tag


def page(*dirs: Path, out: Path | None = None) -> str:
    """The page on these runs, whose tags nest."""
    text = write(list(dirs), out).read_text(encoding="utf-8")
    PageOutline(text)
    return text


def card(text: str, title: str) -> str:
    """The markup of the card with that title."""
    return next(c for c in re.findall(r"<article.*?</article>", text, re.DOTALL) if f"<h3>{title}</h3>" in c)


def titles(text: str) -> set[str]:
    """The titles of all cards."""
    return set(re.findall(r"<h3>(.*?)</h3>", text))
