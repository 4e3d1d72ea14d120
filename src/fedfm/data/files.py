"""The user's own files: one file, one party."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedfm.core.registry import knob, method
from fedfm.data.columns import canonical_rows, required
from fedfm.data.faults import Faults
from fedfm.data.readers import Lines, expand, read
from fedfm.data.source import Parties, Partition, Row, Shard, divide, group_rows, natural, stream

Pairs = list[tuple[Row, Mapping[str, Any]]]


@method("files", slot="data", section="II.B", survey=(13,))
@dataclass(frozen=True)
class Files:
    """Your own JSONL, CSV or Parquet files; one file is one party (its name is the file's stem).

    `path` is a glob, a folder or a list of them, relative to the current folder. A column says whose row it
    is instead when `party_column` is set; `partition` divides all rows when there are no natural parties.
    The test set is `test_path` (its files are never training files), or a random `test_fraction` of every
    party; test groups are the values of `test_group`, else the test files, else the parties. Rows without
    text, label, instruction or answer are left out and counted in `Parties.dropped`; everything else that is
    wrong raises one `DataError` with all problems. Only mapped and canonical columns are kept.
    """

    path: str | tuple[str, ...] = knob(doc="a glob, a folder, or a list of them")
    columns: dict[str, str] = knob(
        doc="canonical name -> your column, e.g. {text: body, label: topic}", factory=dict
    )
    party_column: str = knob("", "the column that names the party; empty: one file is one party")
    partition: Partition | None = knob(None, "divide all rows this way instead of by file or column")
    test_path: str | tuple[str, ...] = knob(
        "", "held-out files; empty: hold out test_fraction of every party"
    )
    test_fraction: float = knob(
        0.2, "share of every party's rows held out when there is no test_path", low=0.0, high=0.9
    )
    test_group: str = knob("", "the column that names the test groups")

    @property
    def agreed(self) -> frozenset[str]:
        """What is known before any party's rows are read."""
        return frozenset({"test"} if self.test_path else ())

    def open(self, seed: int) -> Parties:
        """Read everything, check everything, divide; raises `DataError` with all problems at once."""
        faults, dropped = Faults("'files'"), Counter[str]()
        if self.party_column and self.partition is not None:
            faults.add(
                "partition",
                "both party_column and partition are set",
                "a row can have one owner only",
                "leave one of them out",
            )
        tests = expand(_several(self.test_path), "test_path", faults) if self.test_path else []
        held = {p.resolve() for p in tests}
        paths = [p for p in expand(_several(self.path), "path", faults) if p.resolve() not in held]
        if not paths and not faults.problems:
            faults.add(
                "path",
                "every file that it matches is a test file",
                f"test_path is {self.test_path!r}",
                "keep at least one training file",
            )
        raw = {p: read(p, faults) for p in [*paths, *tests]}
        found = dict.fromkeys(k for lines in raw.values() for _, row in lines for k in row)
        needed = required(self.columns, found, faults)
        pairs = {}
        for path, lines in raw.items():
            # The groups are the test rows', which are everybody's when they are held out at random.
            grouped = self.test_group if path in tests or not tests else ""
            has = dict.fromkeys(k for _, row in lines for k in row)
            if grouped and lines and grouped not in has:
                faults.absent(
                    str(path), grouped, "test_group", list(has), "name one of them: data.test_group=COLUMN"
                )
                grouped = ""
            mapping = {**self.columns, **({"group": grouped} if grouped else {})}
            columns = tuple(dict.fromkeys((*needed, *(("group",) if grouped else ()))))
            pairs[path] = self._rows(path, lines, columns, mapping, faults, dropped)
        pool = [pair for p in paths for pair in pairs[p]]
        owners = self._owners(paths, pairs, faults, dropped)
        held_out = _test_groups({p.stem: [row for row, _ in pairs[p]] for p in tests})
        if tests:
            _unseen(
                [r for s in held_out for r in s.rows], [row for row, _ in pool], str(self.test_path), faults
            )
        faults.settle()

        known = {row["label"] for row, _ in pool if "label" in row}
        if self.partition is not None:
            train, test = (pool, []) if tests else _hold_out(pool, self.test_fraction, stream_of(seed, "all"))
            parties = divide(
                [r for r, _ in train],
                [r for r, _ in test],
                self.partition,
                seed,
                labels=known or None,
                dropped=dropped,
                fields=[{**s, **r} for r, s in train],
            )
            held_out = held_out or parties.held_out
            parties = replace(parties, held_out=held_out)
        else:
            cuts = {
                name: (own, []) if tests else _hold_out(own, self.test_fraction, stream_of(seed, name))
                for name, own in owners.items()
            }
            shards = tuple(Shard(name, tuple(r for r, _ in train)) for name, (train, _) in cuts.items())
            by_party = tuple(
                Shard(name, tuple(r for r, _ in test)) for name, (_, test) in cuts.items() if test
            )
            labels = tuple(sorted(known)) if known else None
            parties = Parties(shards, held_out or _by_group(by_party), labels, dict(dropped))
        return parties if tests else _labels_stay(parties)

    def _rows(
        self,
        path: Path,
        lines: Lines,
        needed: tuple[str, ...],
        mapping: Mapping[str, str],
        faults: Faults,
        dropped: Counter[str],
    ) -> Pairs:
        kept = canonical_rows(lines, needed, mapping, str(path), faults, dropped)
        if not kept and not faults.spoilt(str(path)):
            why = f"all {len(lines)} rows lack {' or '.join(needed)}" if lines else "it is empty"
            faults.add(
                str(path), "the file gives no rows", why, "fill the file or leave it out of the pattern"
            )
        return kept

    def _owners(
        self, paths: list[Path], pairs: dict[Path, Pairs], faults: Faults, dropped: Counter[str]
    ) -> dict[str, Pairs]:
        """The rows of each party in natural order of the parties' names."""
        owners: dict[str, Pairs] = {}
        if self.party_column:
            for path in paths:
                columns = dict.fromkeys(k for _, source in pairs[path] for k in source)
                if columns and self.party_column not in columns:
                    fix = "name the column that says whose row it is: data.party_column=COLUMN"
                    faults.absent(str(path), self.party_column, "party_column", list(columns), fix)
                for row, source in pairs[path]:
                    if source.get(self.party_column) in (None, ""):
                        dropped["no party"] += 1
                    else:
                        owners.setdefault(str(source[self.party_column]), []).append((row, source))
            if not owners and not faults.problems:
                faults.add(
                    "party_column",
                    f"no row has a value in '{self.party_column}'",
                    "so there are no parties",
                    "name the column that says whose row it is",
                )
        else:
            stems = Counter(p.stem for p in paths)
            for path in paths:
                # hospital-a/train.jsonl and hospital-b/train.jsonl are two parties.
                name = path.stem if stems[path.stem] == 1 else f"{path.resolve().parent.name}-{path.stem}"
                if name in owners and self.partition is None:
                    faults.add(
                        str(path),
                        f"a second file gives the party '{name}'",
                        "party names are file stems",
                        "rename one of the files",
                    )
                owners[name] = owners.get(name, []) + pairs[path]
        return {name: owners[name] for name in sorted(owners, key=natural)}


def stream_of(seed: int, name: str) -> Any:
    """The random stream that holds out rows of the party `name`."""
    return stream(seed, f"files/{name}")


def _several(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (os.fspath(value),) if isinstance(value, str | os.PathLike) else tuple(value)


def _hold_out(rows: Pairs, fraction: float, rng: Any) -> tuple[Pairs, Pairs]:
    """Train and test rows in file order; at least one row stays in training."""
    count = min(max(round(len(rows) * fraction), 1 if fraction > 0 else 0), len(rows) - 1)
    held = set(rng.permutation(len(rows))[: max(count, 0)].tolist())
    return [r for i, r in enumerate(rows) if i not in held], [r for i, r in enumerate(rows) if i in held]


def _test_groups(files: Mapping[str, list[Row]]) -> tuple[Shard, ...]:
    """The groups of the test files: the values of the group column, else the files, if there are several."""
    return _by_group(
        tuple(Shard(stem if len(files) > 1 else "", tuple(rows)) for stem, rows in files.items())
    )


def _by_group(shards: tuple[Shard, ...]) -> tuple[Shard, ...]:
    """The same rows by their group column, when all have one."""
    grouped = group_rows([r for s in shards for r in s.rows])
    return grouped if grouped[0].party else shards


def _unseen(test: list[Row], train: list[Row], place: str, faults: Faults) -> None:
    """Note the labels that no training row has."""
    known = {r["label"] for r in train if "label" in r}
    strange = Counter(r["label"] for r in test if "label" in r and r["label"] not in known)
    for label, n in sorted(strange.items()):
        faults.add(
            place,
            f"the label '{label}' is in the test rows only ({n})",
            f"training has: {', '.join(sorted(known)[:12])}",
            "correct the spelling, or add training rows",
        )


def _labels_stay(parties: Parties) -> Parties:
    """Leave out, and count, the randomly held-out rows whose label nobody trains on."""
    trained = {r["label"] for s in parties.shards for r in s.rows if "label" in r}
    if not trained:
        return parties
    lost = sum(r["label"] not in trained for s in parties.held_out for r in s.rows)
    if not lost:
        return parties
    held = tuple(Shard(s.party, tuple(r for r in s.rows if r["label"] in trained)) for s in parties.held_out)
    return Parties(
        parties.shards,
        tuple(s for s in held if s.rows),
        tuple(sorted(trained)),
        {**parties.dropped, "held-out row of a label that nobody trains on": lost},
    )
