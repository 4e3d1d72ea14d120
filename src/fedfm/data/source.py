"""What a data set is: rows (plain dicts) in shards, one shard per party, and a held-out test set.

Rows have canonical columns, so that a task never asks where they come from:

    classification   text, label [, group]
    instruction      instruction, answer [, input, group]   (task and entry too, for an exact scorer)
    images           image: uint8 tensor (C, H, W), label
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, zip_longest
from typing import Any, Protocol, runtime_checkable

import numpy as np

from fedfm.core.errors import DataError, nearest

Row = dict[str, Any]


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
            total.update(
                json.dumps(
                    row, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_stand_in
                ).encode()
            )
            total.update(b"\n")
        return total.hexdigest()

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Every column of any row, in order of first appearance."""
        return tuple(dict.fromkeys(chain.from_iterable(self.rows)))


@dataclass(frozen=True, eq=False)
class Parties:
    """An opened data set: the training shards in canonical order, and the common held-out rows.

    `held_out` has one shard per test group, named after it; a single shard called "" means no groups.
    `dropped` counts the rows that were left out, by reason.
    """

    shards: tuple[Shard, ...] = field(repr=False)
    held_out: tuple[Shard, ...] = field(default=(), repr=False)
    labels: tuple[str, ...] | None = None
    dropped: dict[str, int] = field(default_factory=dict)

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
    def digest(self) -> str:
        """SHA-256 over the names and digests of all shards (hex)."""
        parts = [[s.party, s.digest] for s in self.shards], [[s.party, s.digest] for s in self.held_out]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def train(self, id: str) -> Shard:
        """The training rows of one party; raises `DataError` when there is no such party."""
        return _named(self.shards, id, "party")

    def test(self, group: str | None = None) -> Shard:
        """The held-out rows of one group, or of all groups in turns, so that any prefix is a fair sample."""
        if group is not None:
            return _named(self.held_out, group, "test group")
        turns = zip_longest(*(s.rows for s in self.held_out))
        return Shard("test", tuple(row for turn in turns for row in turn if row is not None))

    def pooled(self) -> Shard:
        """All training rows in party order: what one owner of everything would train on."""
        return Shard("pooled", tuple(chain.from_iterable(s.rows for s in self.shards)))

    def distribution(self) -> dict[str, dict[str, int]]:
        """Rows per party and label; without labels per group (or task); without either per party."""
        return {
            s.party: dict(sorted(Counter(topic(r) or "rows" for r in s.rows).items())) for s in self.shards
        }


@runtime_checkable
class Source(Protocol):
    """A data spec: a frozen registered dataclass (slot "data")."""

    def open(self, seed: int) -> Parties:
        """Read, divide and hold out; the same seed gives the same rows in the same order."""
        ...


@runtime_checkable
class Partition(Protocol):
    """A partition spec: a frozen registered dataclass (slot "partition")."""

    def split(
        self, rows: Sequence[Mapping[str, Any]], labels: Sequence[str] | None, generator_seed: int
    ) -> dict[str, list[int]]:
        """Row numbers per party: every row exactly once, nobody empty, ascending. `labels`: one per row."""
        ...


def divide(
    rows: Sequence[Row],
    test_rows: Sequence[Row],
    partition: Partition,
    seed: int,
    *,
    labels: Iterable[str] | None = None,
    dropped: Mapping[str, int] | None = None,
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
    return Parties(shards, group_rows(test_rows), _class_names(labels, rows), dict(dropped or {}))


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
    return np.random.default_rng(
        int.from_bytes(hashlib.sha256(f"fedfm.data/{purpose}/{seed}".encode()).digest())
    )


def natural(name: str) -> list[tuple[int, int, str]]:
    """A sort key that puts party-2 before party-10."""
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", name)]


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
