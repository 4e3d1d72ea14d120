"""What a task reads and a data set gives: columns, kinds of values, an account of lost rows, a schema.

A task declares its `Column`s; the data slot reads, chooses, cleans by the column's `Kind`, and keeps one `Account`
of every row that it left out. Model and tests are opened from the `Schema`, which holds no row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class Unfit(ValueError):
    """A value that a kind cannot take; the message is the reason that the account keeps ("empty text")."""


@dataclass(frozen=True)
class Kind:
    """How values of a column are cleaned. Open: a task may bring its own. The base takes anything."""

    def clean(self, value: Any) -> Any:
        """The canonical value; raises Unfit with the reason."""
        return value


@dataclass(frozen=True)
class Column:
    """One column that a task reads."""

    name: str
    kind: Kind = field(default_factory=Kind)
    required: bool = True
    doc: str = ""


@dataclass(frozen=True)
class Lost:
    """So many rows of a party that were left out of a split ("train", "test", "server", "public"), and why."""

    party: str
    split: str
    reason: str
    rows: int


@dataclass(frozen=True)
class Account:
    """Every row that was left out, wherever on its way."""

    entries: tuple[Lost, ...] = ()

    def __add__(self, other: Account) -> Account:
        total: Counter[tuple[str, str, str]] = Counter()
        for e in (*self.entries, *other.entries):
            total[e.party, e.split, e.reason] += e.rows
        return Account(tuple(Lost(*key, rows) for key, rows in total.items() if rows))

    def rows(self, *, party: str | None = None, split: str | None = None) -> int:
        """How many rows were lost (of one party, of one split)."""
        return sum(e.rows for e in self._of(party, split))

    def reasons(self, *, party: str | None = None, split: str | None = None) -> dict[str, int]:
        """Rows lost by reason."""
        total: Counter[str] = Counter()
        for e in self._of(party, split):
            total[e.reason] += e.rows
        return dict(total)

    def _of(self, party: str | None, split: str | None) -> Iterable[Lost]:
        return (e for e in self.entries if party in (None, e.party) and split in (None, e.split))


@dataclass(frozen=True)
class Schema:
    """What is agreed about all parties' rows: class names, columns, and shapes of arrays by column (C, H, W)."""

    labels: tuple[str, ...] | None = None
    columns: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


class Parties(Protocol):
    """An opened data set. What is missing is refused with the knob that would give it."""

    ids: tuple[str, ...]
    schema: Schema
    digest: str

    def train(self, id: str) -> Any:
        """One party's rows."""

    def test(self, id: str | None = None) -> Any:
        """The reported test rows; read by the evaluator alone."""

    def validation(self, id: str) -> Any:
        """Rows that one party keeps to find the best round by; neither trained on nor reported."""

    def server(self) -> Any:
        """The server's own rows (`data.server_rows`), for valuing, selecting, guiding; never the test rows."""

    def public(self) -> Any:
        """Rows that everybody sees (`data.public`)."""
