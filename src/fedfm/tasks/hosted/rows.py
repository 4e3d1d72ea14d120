"""The parties of a federation of trainers: each has the rows of its own trainer, and they stay in it.

A row is where it lies (party, split, number) and a digest of what it holds, so that a resumed run finds other rows out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np

from fedfm.cards.registry import knob, method
from fedfm.core.blame import place
from fedfm.core.errors import DataError, FedfmError, ModelError, words_of
from fedfm.data.source import LENT, Parties, Row, Shard, written
from fedfm.data.splits import Source, compared
from fedfm.tasks.hosted.host import Host, host
from fedfm.tasks.hosted.script import scripted, sha256
from fedfm.tasks.hosted.streams import aside


@dataclass(frozen=True, eq=False)
class Hosts(Parties):
    """An opened data set whose parties have trainers; `again` makes one anew."""

    hosts: Mapping[str, Host] = field(default_factory=dict, repr=False)
    scripts: Mapping[str, str] = field(default_factory=dict)  # SHA-256 by path
    again: Callable[[str], Host] | None = field(default=None, repr=False)

    @cached_property
    def digest(self) -> str:
        """Of all rows, as of every data set, and of the script that makes the trainers."""
        rows: str = vars(Parties)["digest"].func(self)
        return (
            hashlib.sha256(f"{rows} {sorted(self.scripts.items())}".encode()).hexdigest()
            if self.scripts
            else rows
        )


@method("trainers", slot="data", section="II.B", also=("hf-trainer", "sft-trainer"))
@dataclass(frozen=True)
class Trainers(Source):
    """What the parties' own trainers hold: `make(party)` gives a transformers.Trainer (or TRL's), or is a script's path.

    Training rows are its `train_dataset`, test rows its `eval_dataset`; those of all parties are the common test rows.
    Each trainer is made once a run, with the generators of Python, numpy and torch seeded by `init_seed`, the same for
    every party, so that a head that is drawn is drawn alike.
    """

    make: Any = knob(None, "a function of a party's name that gives its trainer, or the path of a script")
    parties: tuple[str, ...] = knob((), "names of the parties")
    init_seed: int = knob(0, "seed of what `make` draws, the same for every party", low=0)

    def read(self, seed: int, columns: Any) -> Hosts:
        if not self.parties or len(set(self.parties)) < len(self.parties):
            raise DataError(
                f"data.parties: {', '.join(self.parties) or 'nobody is named'}\n    why: each party has a name and a trainer "
                "of its own\n    fix: parties=('clinic-a', 'clinic-b')"
            )
        hosts = {p: self._host(p) for p in self.parties}
        shards = tuple(Shard(p, _rows(p, "train", h.train, 0)) for p, h in hosts.items())
        own = tuple(
            Shard(p, tuple(r for k, rows in enumerate(h.tests) for r in _rows(p, "test", rows, k)))
            for p, h in hosts.items()
        )
        held = tuple(r for s in own for r in s.rows)
        if not held:
            raise DataError(
                "no trainer has test rows\n    why: without them nobody can say what the federated model is worth\n"
                "    fix: Trainer(..., eval_dataset=...), at one party at least"
            )
        found = Hosts(
            shards,
            (Shard("", held),),
            own=own if all(len(s) for s in own) else (),
            hosts=hosts,
            scripts={} if callable(self.make) else {f"script {self.make}": sha256(self.make)},
            again=self._host,
        )
        return replace(found, notes=compared(found))

    def _host(self, party: str) -> Host:
        """The trainer of a party, made here. Raises ModelError for whatever its function or script raises."""
        make = self.make if callable(self.make) else scripted(self.make) if self.make else None
        if make is None:
            raise DataError(
                "data.make: nothing makes the parties' trainers\n    why: each party trains with its own\n"
                "    fix: make=f with f(party) that returns a transformers.Trainer, or the path of a script that makes one"
            )
        with aside(self.init_seed):
            try:
                made = make(party)
            except (FedfmError, MemoryError):
                raise
            except Exception as e:
                raise ModelError(
                    f"the trainer of {party} cannot be made: {words_of(e)[:300]}\n    why: raised at {place(e)}\n"
                    "    fix: mend the function or script; it is called with the party's name"
                ) from e
            return host(party, made)


class Picked(Sequence[Any]):
    """Rows of the trainers' data sets, by where they lie."""

    def __init__(self, places: Sequence[tuple[Any, int]]):
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, k: Any) -> Any:
        rows, number = self.places[k]
        return rows[number]

    def whole(self) -> Any:
        """As the data sets are: one of them itself if it is all of it, in order, or `datasets.Dataset`s put together."""
        runs = [
            (k, [n for _, (_, n) in part])
            for k, part in groupby(enumerate(self.places), lambda e: id(e[1][0]))
        ]
        sets = {id(rows): rows for rows, _ in self.places}
        if len(runs) == 1 and runs[0][1] == list(range(len(sets[runs[0][0]]))):
            return sets[runs[0][0]]
        if not runs or not all(type(rows).__module__.startswith("datasets.") for rows in sets.values()):
            return self
        from datasets import concatenate_datasets

        return concatenate_datasets([sets[k].select(numbers) for k, numbers in runs])


def picked(hosts: Mapping[str, Host], rows: Shard) -> Picked:
    """The rows that a shard names."""
    places = []
    for row in rows.rows:
        held = hosts[row["of"]]
        sets = [held.train] if row["split"] == "train" else held.tests
        places.append((sets[row["set"]], row["row"]))
    return Picked(places)


def _rows(party: str, split: str, held: Any, number: int) -> tuple[Row, ...]:
    with aside(0):  # a data set may draw (augmentation): the same at each opening
        each = ((party, split, number, k, _digest(held[k])) for k in range(len(held)))
        return tuple(dict(zip(LENT, row, strict=True)) for row in each)


def _digest(item: Any) -> str:
    """SHA-256 of what a row holds: numbers, words and arrays by their content, pictures by their pixels."""
    content = item if isinstance(item, Mapping) else {"": item}
    return hashlib.sha256(written({str(k): _plain(v) for k, v in content.items()})).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, str | int | float) or hasattr(value, "detach"):
        return value
    array = np.asarray(value)
    return type(value).__qualname__ if array.dtype.hasobject else array
