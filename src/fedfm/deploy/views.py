"""Who sees which rows: a party its own, the server those that are its own, public, or test rows, and no party's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from fedfm.core.errors import DataError
from fedfm.core.federation import Federation
from fedfm.core.home import Home
from fedfm.core.protocols import Bound
from fedfm.core.schema import Account, Schema


@dataclass(frozen=True)
class Elsewhere:
    """Rows of a party, seen from the server: how many there are, as the party told."""

    count: int

    def __len__(self) -> int:
        return self.count


class Roster:
    """A data set as the server sees it; `rows` says how many each party has, in the order of the roster (not said yet: 0)."""

    def __init__(self, parties: Any, rows: Mapping[str, int]):
        self._parties, self.rows = parties, dict(rows)
        self.ids, self.labels, self.schema = tuple(rows), parties.labels, parties.schema
        self.digest, self.notes = parties.digest, parties.notes
        here = tuple(e for e in parties.account.entries if e.split in ("test", "server", "public"))
        self.account = Account(here)

    def train(self, id: str) -> Elsewhere:
        """How many rows a party has."""
        return Elsewhere(self.rows[id])

    def test(self, id: str | None = None) -> Any:
        """The common test rows. Raises DataError for those of a party."""
        if id is not None:
            raise DataError(f"the test rows of {id} are its own: evaluate.where=parties")
        return self._parties.test()

    def validation(self, id: str) -> Any:
        raise DataError(f"the validation rows of {id} are its own")

    def server(self) -> Any:
        """The server's own rows."""
        return self._parties.server()

    def public(self) -> Any:
        """Rows that everybody sees."""
        return self._parties.public()

    def group(self, name: str) -> Any:
        """The test rows of one group."""
        return self._parties.group(name)

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the test groups."""
        found: tuple[str, ...] = getattr(self._parties, "groups", ())
        return found

    def distribution(self) -> dict[str, dict[str, int]]:
        """Nothing is told of the parties' rows but how many there are."""
        return {i: {"rows": n} for i, n in self.rows.items()}


class Own:
    """A data set as one party sees it: its own rows, and public ones. `schema` is what the server has agreed."""

    def __init__(self, parties: Any, name: str, schema: Schema, whole: bool):
        """`whole`: all rows of `parties` are this party's; else those of the party that is called so there."""
        self._parties, self.name, self._whole = parties, name, whole
        self.ids, self.labels, self.schema = (name,), schema.labels, schema
        self.account, self.notes = parties.account, parties.notes

    @property
    def hosts(self) -> Mapping[str, Any]:
        """Its trainer, where it has one of its own."""
        found: Mapping[str, Any] = getattr(self._parties, "hosts", {})
        return {self.name: found[self.name]} if found else {}

    def train(self, id: str) -> Any:
        """Its rows. Raises DataError for another's."""
        self._mine(id)
        return replace(self._parties.pooled(), party=id) if self._whole else self._parties.train(id)

    def test(self, id: str | None = None) -> Any:
        """Its own test rows; of the common ones, which are the server's, none."""
        if id is None:
            return replace(self.train(self.name), rows=())
        self._mine(id)
        return self._parties.test() if self._whole else self._parties.test(id)

    def validation(self, id: str) -> Any:
        """Its own validation rows."""
        self._mine(id)
        return self._parties.validation(self._parties.ids[0] if self._whole else id)

    def public(self) -> Any:
        """Rows that everybody sees."""
        return self._parties.public()

    def _mine(self, id: str) -> None:
        if id != self.name:
            raise DataError(f"{self.name} was asked for the rows of {id}")


class ServerSite:
    """What a run sees of the server's process, where a simulation sees everything: `home`, and no party's row."""

    def __init__(self, fed: Federation, bound: Bound, parties: Roster):
        self.fed, self.bound, self.parties = fed, bound, parties
        self.home = Home(fed, bound, parties.rows, parties)
        elsewhere = Elsewhere(0)  # test rows that stay with their parties
        self.guard = SimpleNamespace(fed=fed, public=lambda bound: None, tests=lambda id: elsewhere)

    def data(self, id: str) -> Elsewhere:
        """How many rows a party has."""
        return self.parties.train(id)

    def tells(self, id: str, rows: int) -> None:
        """A party has come that had not said yet how many rows it has."""
        self.home.parties[id] = self.parties.rows[id] = rows
