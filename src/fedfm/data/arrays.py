"""Rows in memory: DataFrames, arrays, lists, data sets, one or one per party."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass, fields
from os import PathLike, fspath
from os.path import expanduser, isdir, isfile, join
from typing import Any, ClassVar

from fedfm.cards.registry import knob, method
from fedfm.core.errors import DataError
from fedfm.core.schema import Unfit
from fedfm.data import kinds
from fedfm.data.cleaning.columns import Piece
from fedfm.data.cleaning.faults import Faults
from fedfm.data.files import Files
from fedfm.data.own import Own
from fedfm.data.reading.memory import foreign, is_dataset, is_frame, is_pair, is_rows, lines, same_columns
from fedfm.data.reading.pairs import rowed
from fedfm.data.reading.paths import SPLITS, unlucky
from fedfm.data.reading.unread import are_splits, is_split, is_torch, no_rows
from fedfm.text import natural


def _unshown(knob: Any) -> Any:
    """A field whose value is nobody's business: it is left out of reprs, and recorded by its digest."""
    knob.repr = False
    return knob


@method("arrays", slot="data", section="II.B", also=("numpy", "tensors", "memory"))
@dataclass(frozen=True, eq=False)
class Arrays(Own):
    """Rows that are in memory: of each party (a mapping party -> rows), or of everybody.

    Rows are a list of mappings, a pandas DataFrame, a `datasets.Dataset`, a mapping of columns, or a pair (x, y) of
    arrays, or of a table and a column (or its name): `x` and `y` as they are, to a task that reads pictures `image` and `label`;
    so is a list of pairs (x, y), a row each (`text` and `label` where x is text). Targets `y` that are text are labels. Columns of
    numbers under other names are, for a module of your own, a mapping of tensors (a `label` with them is `y`). Rows of everybody need a
    `partition` or a `party_column`; without them they are one party's. `test` has rows for all, or of each party.
    """

    empty: ClassVar[tuple[str, str]] = ("there are no rows", "give some, or leave it out")

    train: Any = _unshown(knob((), "a mapping party -> rows, or the rows of everybody"))
    test: Any = _unshown(
        knob(
            None,
            "held-out rows, of each party or for all; null: test_fraction of every party",
            alternative="test",
        )
    )
    validation: Any = _unshown(
        knob(None, "rows of nobody's for data.server_rows; null: of the held-out rows")
    )

    @property
    def agreed(self) -> frozenset[str]:
        return super().agreed | ({"test"} if self.test is not None else frozenset[str]())

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("train", "test", "validation"):
            object.__setattr__(self, name, _fixed(rowed(getattr(self, name), self.columns)))

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    def __hash__(self) -> int:
        return hash((type(self), self.test_fraction, self.party_column))

    def pieces(self, seed: int, faults: Faults) -> list[Piece]:
        """A piece per party, or one for all."""
        whose = self.partition is None and not self.party_column
        found = []
        tables: list[tuple[str, Any]] = []
        for party, rows in _parties(self.train, "train", faults).items():
            place = f"train[{party!r}]" if party else "train"
            tables.append((place, rows))
            owner = (party or "party-0") if whose else ""
            found.append(Piece(place, lines(rows, place, faults), owner))
        if self.test is not None:
            for party, rows in _parties(self.test, "test", faults).items():
                place = f"test[{party!r}]" if party else "test"
                tables.append((place, rows))
                found.append(Piece(place, lines(rows, place, faults), party if whose else "", "test", party))
        if self.validation is not None:
            if not is_rows(self.validation):
                raise no_rows("arrays: validation", self.validation)
            tables.append(("validation", self.validation))
            piece = Piece("validation", lines(self.validation, "validation", faults))
            found.append(self.beside(piece, self.test is not None))
        same_columns(tables, faults)
        return found


def as_source(data: Any) -> Any:
    """What somebody gives as data, as a data spec: paths become `Files` or `Hub`, rows `Arrays`; a spec stays."""
    if isinstance(data, str | PathLike):
        path = expanduser(fspath(data))
        if isdir(path) and any(isfile(join(path, f)) for f in ("dataset_dict.json", "state.json")):
            from fedfm.data.hub import Hub

            return Hub(fspath(data))
        return Files(fspath(data))
    if isinstance(data, list | tuple) and data and all(isinstance(p, str | PathLike) for p in data):
        return Files(tuple(fspath(p) for p in data))
    data = rowed(data)
    if is_split(data) and all(map(is_rows, data.values())):
        return _splits(data)
    if is_rows(data) or is_frame(data) or is_dataset(data) or is_pair(data):
        return Arrays(data)
    if isinstance(data, Mapping) and data and all(is_rows(v) for v in data.values()):
        return Arrays(data)
    if isinstance(data, Mapping) and isinstance(next(iter(data.values()), None), Arrays):
        raise DataError(
            "data: a mapping of parties holds Arrays\n    why: Arrays is the data of all parties\n"
            "    fix: fedfm.Arrays({party: rows, ...}, test=rows), or the mapping of rows itself"
        )
    odd = (
        bool(foreign(data)[0])
        or is_torch(data, "Dataset")
        or is_torch(data, "DataLoader")
        or hasattr(data, "shape")
    )
    if odd or isinstance(data, Mapping | list | tuple | Iterator | ValuesView):
        raise no_rows("data", data)
    return data


def _splits(data: Mapping[str, Any]) -> Arrays:
    """Train and test rows; validation rows are the server's beside test rows, else they are the test rows."""
    of = {SPLITS[k.lower()]: rows for k, rows in data.items()}
    if "test" not in of:
        return Arrays(of["train"], of.get("validation"))
    return Arrays(of["train"], of["test"], of.get("validation"))


def _parties(data: Any, what: str, faults: Faults) -> dict[str, Any]:
    if is_rows(data):
        return {"": data}
    if isinstance(data, Mapping) and data and all(map(is_rows, data.values())) and not are_splits(data):
        named: dict[str, Any] = {}
        for key, rows in data.items():
            try:
                party = kinds.name(key)
            except Unfit as e:
                faults.add(what, f"a party called {key!r}", str(e), "give every party a name")
                continue
            if party in named:
                faults.add(
                    what, f"two parties are called '{party}'", "names are compared as text", "rename one"
                )
            named[party] = rows
        faults.notes += unlucky(named) if what == "train" else ()
        return {p: named[p] for p in sorted(named, key=natural)}
    raise no_rows(f"arrays: {what}", data)


def _fixed(value: Any) -> Any:
    """Lists as tuples, all the way down: what a config gives back, and what nobody changes afterwards."""
    if isinstance(value, list | tuple):
        return tuple(_fixed(v) for v in value)
    if type(value) is dict:
        return {k: _fixed(v) for k, v in value.items()}
    return value


def _same(one: Any, other: Any) -> bool:
    """Equality that arrays and tables can answer too: those are equal to themselves only."""
    if one is other:
        return True
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, Sequence) and isinstance(other, Sequence) and not isinstance(one, str):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and not hasattr(one, "shape") and bool(one == other)
