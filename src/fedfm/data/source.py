"""What a data set is: rows (plain dicts) in shards, one shard per party, and a held-out test set.

Rows have canonical columns, so that a task never asks where they come from; `cleaning/layouts.py` names them all.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, zip_longest
from typing import Any, ClassVar
from urllib.parse import quote

import numpy as np

from fedfm.core.errors import DataError
from fedfm.core.job import POOLED
from fedfm.core.schema import Account, Lost, Schema
from fedfm.text import natural, nearest

Row = dict[str, Any]
LENT = (
    "of",
    "split",
    "set",
    "row",
    "holds",
)  # of a row that lies elsewhere: where, and the digest of what it holds
_LONGEST = 200  # of a party's name as the name of its folder, where a character may take twelve


@dataclass(frozen=True, eq=False)
class Shard:
    """The rows of one party. Two shards are equal when party and content are."""

    party: str
    rows: tuple[Row, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shard) and (self.party, self.digest) == (other.party, other.digest)

    def __hash__(self) -> int:
        return hash((self.party, self.digest))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the rows in order (hex); the party's name is no part of it."""
        total = hashlib.sha256()
        for row in self.rows:
            total.update(written(row))
            total.update(b"\n")
        return total.hexdigest()

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Every column of any row, in order of first appearance."""
        return tuple(dict.fromkeys(chain.from_iterable(self.rows)))


@dataclass(frozen=True, eq=False)
class Parties:
    """An opened data set: the training shards in canonical order, and the held-out rows.

    `held_out` has one shard per test group, named after it; a single shard called "" means no groups. `own` has the
    test rows of each party, where the split gives them: the same rows, by owner. `account` has every row that was left
    out, `notes` what a person should know about the rows that are there (doubles, labels that look alike).
    """

    shards: tuple[Shard, ...] = field(repr=False)
    held_out: tuple[Shard, ...] = field(default=(), repr=False)
    labels: tuple[str, ...] | None = None
    account: Account = field(default_factory=Account)
    own: tuple[Shard, ...] = field(default=(), repr=False)
    valid: tuple[Shard, ...] = field(
        default=(), repr=False
    )  # what each party keeps to find the best round by
    house: Shard | None = field(default=None, repr=False)  # the server's rows
    shown: Shard | None = field(default=None, repr=False)  # the public rows
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if odd := [s.party for s in self.shards if not fit_name(s.party)]:
            raise DataError(
                f"{odd[0][:60]!r} cannot be the name of a party: it must be short (up to {_LONGEST} characters, "
                "fewer in other scripts), without control characters, and neither '.' nor '..' nor "
                f"'{POOLED}', which means all rows; change the file's name, or the values of the column that names the party"
            )

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The parties in canonical order."""
        return tuple(s.party for s in self.shards)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The names of the test groups, in canonical order; empty when the test set is one piece."""
        return tuple(s.party for s in self.held_out if s.party)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Every column of any row, in order of first appearance."""
        return tuple(dict.fromkeys(chain.from_iterable(s.columns for s in (*self.shards, *self.held_out))))

    @cached_property
    def schema(self) -> Schema:
        """What is agreed about the rows, without a row: labels, columns, and shapes of arrays."""
        first = next((s.rows[0] for s in self.shards if len(s)), {})
        shapes = {c: tuple(v.shape) for c, v in first.items() if hasattr(v, "shape")}
        return Schema(self.labels, self.columns, shapes)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the names and digests of all shards, the server's and the public ones too (hex)."""
        parts = [[[s.party, s.digest] for s in part] for part in (self.shards, self.held_out)]
        parts += [[[s.party, s.digest] for s in self.own]] if self.own else []
        parts += [[["validation", s.party, s.digest] for s in self.valid]] if self.valid else []
        parts += [[[what, s.digest]] for what, s in (("server", self.house), ("public", self.shown)) if s]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def train(self, id: str) -> Shard:
        """The training rows of one party; raises `DataError` when there is no such party."""
        return _named(self.shards, id, "party")

    def test(self, id: str | None = None) -> Shard:
        """The reported test rows: a party's own, or everybody's (of all groups in turns, so that any prefix is fair).

        Raises `DataError` where the split gives no party rows of its own.
        """
        if id is None:
            turns = zip_longest(*(s.rows for s in self.held_out))
            return Shard("test", tuple(row for turn in turns for row in turn if row is not None))
        if not self.own:
            raise DataError(
                "no party has test rows of its own in this data set: give files or a party_column and no partition "
                "(data.test_fraction then holds out a part of every party), test files beside the training files, or "
                "data.own_test=0.2"
            )
        if id in self.ids and all(s.party != id for s in self.own):
            raise DataError(
                f"{id} has no test rows of its own, and {self.own[0].party} has\n    why: each party is scored on its own "
                f"(evaluate.where=parties, or models of their own)\n    fix: give test rows of {id} too (a test file beside its "
                "training file; in Python test={party: rows}), or none at all: data.test_fraction then holds out a share of each "
                "party's rows; evaluate.where=server scores one model for all on those that there are"
            )
        return _named(self.own, id, "party with test rows")

    def validation(self, id: str) -> Shard:
        """What one party keeps to find the best round by; raises `DataError` where it keeps nothing."""
        if not self.valid:
            raise DataError(
                "the parties keep no rows to find the best round by: data.own_validation=0.1 splits them from the "
                "training rows (a model that is everybody's is judged by data.server_rows)"
            )
        return _named(self.valid, id, "party with validation rows")

    def group(self, name: str) -> Shard:
        """The held-out rows of one test group; raises `DataError` when there is no such group."""
        return _named(self.held_out, name, "test group")

    def server(self) -> Shard:
        """The server's own rows, for valuing, selecting, guiding; never the test rows."""
        if self.house is None:
            raise DataError(
                "the server has no rows of its own: data.server_rows=200 splits them from the held-out rows"
            )
        return self.house

    def public(self) -> Shard:
        """Rows that everybody sees; never anybody's training rows."""
        if self.shown is None:
            raise DataError(
                "there are no public rows: data.public_rows=200 splits them from the held-out rows, "
                "data.public={name: files, path: ...} reads them"
            )
        return self.shown

    def pooled(self) -> Shard:
        """All training rows in party order: what one owner of everything would train on."""
        return Shard("pooled", tuple(chain.from_iterable(s.rows for s in self.shards)))

    def distribution(self) -> dict[str, dict[str, int]]:
        """Rows per party and label; without labels per group (or task); without either per party."""
        return {
            s.party: dict(sorted(Counter(topic(r) or "rows" for r in s.rows).items())) for s in self.shards
        }


class Partition:
    """How one pool of rows becomes the data of several parties. `whole`: every row is dealt to somebody."""

    whole: ClassVar[bool] = True

    def split(
        self, rows: Sequence[Mapping[str, Any]], labels: Sequence[str] | None, generator_seed: int
    ) -> dict[str, list[int]]:
        """Row numbers per party: each at most once, nobody empty, ascending. `labels`: one per row."""
        raise NotImplementedError


def divide(
    rows: Sequence[Row],
    test_rows: Sequence[Row],
    partition: Partition,
    seed: int,
    *,
    labels: Iterable[str] | None = None,
    account: Account | None = None,
    fields: Sequence[Mapping[str, Any]] | None = None,
) -> Parties:
    """Cut one pool into parties.

    `labels` are the class names when they are known beforehand; `fields` are the rows that the partition
    sees when these hold more columns than the task may.
    """
    topics = [topic(r) for r in rows]
    known = [t for t in topics if t is not None]
    split = partition.split(fields or rows, known if rows and len(known) == len(rows) else None, seed)
    shards = tuple(Shard(party, tuple(rows[i] for i in index)) for party, index in split.items())
    return Parties(shards, group_rows(test_rows), _class_names(labels, rows), account or Account())


def written(row: Mapping[str, Any]) -> bytes:
    """A row as bytes, the same for the same content; arrays by type, shape and hash."""
    text = json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_stand_in)
    return text.encode(errors="surrogatepass")


def fit_name(party: str) -> bool:
    """May a party be called so? Its states lie in a folder of that name, terminals print it, and one name means all."""
    odd = any(unicodedata.category(c) in ("Cc", "Cs") for c in party)
    return (
        bool(party)
        and not odd
        and party not in (".", "..", POOLED)
        and len(quote(party, safe="")) <= _LONGEST
    )


def lost(reasons: Mapping[str, int], split: str = "train", party: str = "") -> Account:
    """An account of rows that were left out, by reason."""
    return Account(tuple(Lost(party, split, why, n) for why, n in reasons.items() if n))


def group_rows(rows: Sequence[Row]) -> tuple[Shard, ...]:
    """Held-out rows as one shard per `group`, in the order of the names; one shard "" when a row has none."""
    if not rows or any("group" not in r for r in rows):
        return (Shard("", tuple(rows)),)
    names = sorted({str(r["group"]) for r in rows}, key=natural)
    return tuple(Shard(n, tuple(r for r in rows if str(r["group"]) == n)) for n in names)


def topic(row: Mapping[str, Any]) -> str | None:
    """What a row is about: its label, else its group, else its task."""
    for key in ("label", "group", "task"):
        if row.get(key) is not None:
            return str(row[key])
    return None


def stream(seed: int, purpose: str) -> np.random.Generator:
    """A stream of random numbers of its own for each (seed, purpose), so that none disturbs another."""
    named = f"fedfm.data/{purpose}/{seed}".encode(
        errors="surrogatepass"
    )  # a file may be called so; refused later
    return np.random.default_rng(int.from_bytes(hashlib.sha256(named).digest()))


def _class_names(labels: Iterable[str] | None, rows: Sequence[Row]) -> tuple[str, ...] | None:
    if labels is None:
        if not rows or any("label" not in r for r in rows):
            return None
        labels = (r["label"] for r in rows)
    return tuple(sorted(set(labels)))


def _named(shards: Sequence[Shard], name: str, what: str) -> Shard:
    for shard in shards:
        if shard.party == name:
            return shard
    raise DataError(
        f"there is no {what} '{name}' in this data set: {nearest(name, [s.party for s in shards])}"
    )


def _stand_in(value: Any) -> Any:
    """What stands for an array in a digest: its type, shape and the hash of its bytes."""
    array = value if isinstance(value, np.ndarray) else value.detach().cpu().contiguous().numpy()
    array = np.ascontiguousarray(array)
    return {
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "sha256": hashlib.sha256(array.data).hexdigest(),
    }
