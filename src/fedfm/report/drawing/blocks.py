"""What a card is made of, as data; `templates/blocks.html` has the markup of each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from markupsafe import Markup

NARROW = 344  # drawing width, in px, of every chart on a phone
SPANS = {4: 350, 5: 440, 6: 545, 7: 645, 8: 750, 12: 1150}  # columns of the grid -> drawing width


@dataclass(frozen=True)
class Block:
    """A piece of a card; its `kind` names the macro that draws it."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Figure(Block):
    """A chart with its text alternative and the data of its tooltip; the second image is the phone's."""

    kind: ClassVar[str] = "figure"
    label: str
    image: Markup
    narrow: Markup | None = None
    tip: dict[str, Any] | None = None
    scroll: bool = False


@dataclass(frozen=True)
class Legend(Block):
    """Chips of (name, colour class, value)."""

    kind: ClassVar[str] = "legend"
    items: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Note(Block):
    """A small line of text."""

    kind: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, whether it is the best of its row, whose colour it has, what it says in full."""

    text: str
    best: bool = False
    colour: str = ""
    title: str = ""


@dataclass(frozen=True)
class Table(Block):
    """Rows of text or `Cell`s; columns of numbers are set right; of more than `cap` rows some are shown."""

    kind: ClassVar[str] = "table"
    head: tuple[Any, ...]
    rows: tuple[tuple[Any, ...], ...]
    sort: bool = False
    cap: int = 60
    look: str = ""

    @property
    def shown(self) -> tuple[tuple[Any, ...], ...]:
        """At most `cap` rows, evenly spaced."""
        n = len(self.rows)
        if n <= self.cap:
            return self.rows
        return tuple(self.rows[round(i * (n - 1) / (self.cap - 1))] for i in range(self.cap))

    @property
    def right(self) -> list[bool]:
        """Which columns hold numbers."""
        if self.look == "compare":
            return [i > 0 for i in range(len(self.head))]
        return [bool(self.rows) and all(_numeric(r[i]) for r in self.shown) for i in range(len(self.head))]


@dataclass(frozen=True)
class Pairs(Block):
    """Terms and what they are."""

    kind: ClassVar[str] = "pairs"
    rows: tuple[tuple[str, str], ...]
    mono: bool = False


@dataclass(frozen=True)
class Ranking(Block):
    """Texts with a number and a bar of that share of the first."""

    kind: ClassVar[str] = "ranking"
    rows: tuple[tuple[str, str, float], ...]


@dataclass(frozen=True)
class Code(Block):
    """Text to copy."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Fold(Block):
    """Blocks behind a line that opens them."""

    kind: ClassVar[str] = "fold"
    summary: str
    blocks: tuple[Block, ...]
    look: str = ""


@dataclass(frozen=True)
class Split(Block):
    """Two columns: a wide one and a narrow one."""

    kind: ClassVar[str] = "split"
    left: Block
    right: Block


@dataclass(frozen=True)
class Cites(Block):
    """Methods with their paper and the survey's numbers."""

    kind: ClassVar[str] = "cites"
    rows: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Small:
    """One of several small charts: its title, what it is in full, its end values with their colours."""

    title: str
    full: str
    ends: tuple[tuple[str, str], ...]
    figure: Figure


@dataclass(frozen=True)
class Multiples(Block):
    """Small charts beside each other."""

    kind: ClassVar[str] = "multiples"
    cells: tuple[Small, ...]


@dataclass(frozen=True)
class Tag:
    """The coloured name of a run."""

    name: str
    colour: str


@dataclass(frozen=True)
class Card:
    """One card: it says one thing in words, shows it, and keeps the numbers behind it."""

    title: str
    words: str = ""
    body: tuple[Block, ...] = ()
    columns: int = 6
    numbers: tuple[Table, ...] = ()
    tag: Tag | None = None
    empty: bool = False


@dataclass(frozen=True)
class Tile:
    """A key figure."""

    name: str
    value: str
    unit: str = ""
    detail: str = ""
    curve: Markup = field(default=Markup(""))
    tone: str = ""


def both(draw: Callable[[int], Markup], columns: int) -> dict[str, Any]:
    """The two images of a Figure: at the card's width, and again for a phone; only one is ever displayed."""
    return {"image": draw(SPANS[columns]), "narrow": draw(NARROW)}


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], cap: int = 60, sort: bool = False) -> Table:
    """A table of plain cells."""
    return Table(tuple(head), tuple(map(tuple, rows)), sort, cap)


def _numeric(cell: Any) -> bool:
    text = str(cell.text if isinstance(cell, Cell) else cell)
    return text in ("", "–") or text[0] in "0123456789−+<" and len(text) < 20
