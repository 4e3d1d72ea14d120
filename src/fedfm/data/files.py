"""The user's own files: one file, one party."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfm.cards.registry import knob, method
from fedfm.data.cleaning.columns import Piece
from fedfm.data.cleaning.faults import Faults
from fedfm.data.cleaning.layouts import Wanted
from fedfm.data.own import Own
from fedfm.data.reading.folders import named
from fedfm.data.reading.nested import USER, ByUser
from fedfm.data.reading.paths import Place, by_folder, ending, expand, places, split_files, split_folders
from fedfm.data.reading.text import Options, read

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@method(
    "files",
    slot="data",
    section="II.B",
    survey=(13,),
    also=("csv", "json", "jsonl", "excel", "parquet", "folder", "local"),
)
@dataclass(frozen=True)
class Files(Own):
    """Your own JSONL, JSON, CSV, TSV, Excel or Parquet files, packed or not; one file is one party, called as it is.

    Pictures are read from a folder for each class (PARTY/CLASS/*.png, PARTY/train/CLASS/*.jpg, ...), or from the files
    that a table's column `image` names, relative to the table.

    `path` is a glob, a folder or a list of them, relative to the current folder. A folder of folders is a party per
    folder; `train`, `validation` and `test` files side by side are the splits of one party: validation rows beside test
    rows are the server's (`server_rows`), else they are the test rows. A JSON file of LEAF (`users`, `user_data`) gives a
    party per user. A column says whose row it
    is instead when `party_column` is set; `partition` divides all rows when there are no natural parties. The test set
    is `test_path` (its files are never training files), the `test` files, or a random `test_fraction` of every party;
    test groups are the values of `test_group`, else the test files, else the parties. Rows without text, label,
    instruction or answer are left out and counted in `Parties.account`; everything else that is wrong raises one
    `DataError` with all problems. Only mapped and canonical columns are kept.
    """

    path: str | tuple[str, ...] = knob(doc="a glob, a folder, or a list of them", place="rows")
    test_path: str | tuple[str, ...] | None = knob(
        None,
        "held-out files; null: the test files among the others, else test_fraction of every party",
        alternative="test",
        place="rows",
    )
    separator: str = knob("", "what parts the fields of a CSV file; empty: found by trying , ; | and tab")
    quoting: str = knob(
        "auto", "whether quotation marks join a CSV field or are text", choices=("auto", "csv", "none")
    )
    sheet: str = knob("", "the sheet of an .xlsx file; empty: the only one that has rows")

    @property
    def agreed(self) -> frozenset[str]:
        return super().agreed | ({"test"} if self.test_path else frozenset[str]())

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("path", "test_path"):  # a config holds text
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, _plain(given))
        if self.test_path in ("", ()):
            raise ValueError("test_path names no file: leave it out, and set test_fraction")

    def pieces(self, seed: int, faults: Faults) -> list[Piece]:
        """A piece per file."""
        patterns, options = _several(self.path), Options(self.separator, self.quoting, self.sheet)
        tests = [] if self.test_path is None else expand(_several(self.test_path), "test_path", faults)
        held = {os.path.realpath(p) for p in tests}
        paths = [p for p in expand(patterns, "path", faults) if os.path.realpath(p) not in held]
        if not paths and not faults.problems:
            faults.add(
                "path",
                "every file that it matches is a test file",
                f"test_path is {self.test_path!r}",
                "keep at least one training file",
            )
        found = places(paths, by_name=not tests, grouped=by_folder(patterns, paths))
        self._one_name(found, faults)
        split_folders(paths, faults)
        split_files(found, faults)
        pieces = []
        for at in found:
            party = "" if self.partition is not None or self.party_column else at.party
            mine = self._read(at.path, party, at.split, at.party, faults, options)
            if at.split == "validation":
                beside = any(p.split == "test" and p.party == at.party for p in found)
                mine = [self.beside(piece, beside) for piece in mine]
            pieces += mine
        for at in places(tests, by_name=False):
            pieces += self._read(at.path, "", "test", at.party, faults, options)
        return pieces

    def idle(self, columns: Wanted, pieces: Sequence[Piece]) -> Iterator[str]:
        yield from super().idle(columns, pieces)
        formats = {ending(Path(p.place))[0] for p in pieces}
        for name, value, of in (
            ("separator", self.separator, {".csv", ".tsv"}),
            ("quoting", self.quoting.replace("auto", ""), {".csv", ".tsv"}),
            ("sheet", self.sheet, {".xlsx"}),
        ):
            if value and not formats & of:
                yield f"data.{name}={value!r} is not used: no file is {' or '.join(sorted(of))}"

    def _read(
        self, path: Path, party: str, split: str, group: str, faults: Faults, options: Options
    ) -> list[Piece]:
        """The piece that a file is; of a file that gives several users, one of each."""
        lost: Counter[str] = Counter()
        lines = named(path, read(path, faults, lost, options), self._pictures())
        if not isinstance(lines, ByUser) or self.partition is not None or self.party_column:
            return [Piece(str(path), lines, party, split, group, lost)]
        by_user: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        for line, row in lines:
            rest = {k: v for k, v in row.items() if k != USER}
            by_user.setdefault(row[USER], []).append((line, rest))
        return [Piece(f"{path}, {USER} {u}", rows, u, split, u) for u, rows in by_user.items()]

    def _pictures(self) -> set[str]:
        """The columns that may name files of pictures."""
        given = [self.columns, *(v for v in self.columns.values() if isinstance(v, Mapping))]
        maps = [m["image"] for m in given if isinstance(m.get("image"), str)]
        return {"image", *maps}

    def _one_name(self, found: list[Place], faults: Faults) -> None:
        """Two files of one party are its rows only where its folder or its splits say so."""
        names = Counter(at.party for at in found)
        for at in found if self.partition is None and not self.party_column else ():
            if names[at.party] > 1 and not at.shared:
                names[at.party] = 0  # said once
                what = f"a second file gives the party '{at.party}'"
                faults.add(str(at.path), what, "party names are file stems", "rename one of the files")


def _plain(value: Paths) -> str | tuple[str, ...]:
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    return tuple(os.fspath(v) for v in value)


def _several(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value
