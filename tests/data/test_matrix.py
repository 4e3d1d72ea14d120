"""Every format with every layout, through every door: the same rows as the same data in JSONL, or refused with the reason.

A sample runs always, all of it under `slow`.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from bring import jsonl
from doors import DOORS, LAYOUTS, N

from fedfm.core.errors import DataError
from fedfm.data.arrays import Arrays
from fedfm.data.files import Files
from fedfm.data.partition.iid import Iid

OPENED: dict[str, dict[str, Any]] = {
    "held out": {},
    "divided": {"partition": Iid(3)},
    "server": {"test_fraction": 0.5, "server_rows": 3, "public_rows": 2},
    "all": {"test_fraction": 0.0},
}
SAMPLE = [(d, layout, list(OPENED)[i % 4]) for i, (d, layout) in enumerate(product(DOORS, LAYOUTS))]
WHOLE = [c for c in product(DOORS, LAYOUTS, OPENED) if c not in SAMPLE]


def _source(data: Any, how: dict[str, Any]) -> Any:
    if isinstance(data, str):
        return Files(data, **how)
    return Arrays(data if "partition" in how else {"x": data}, **how)


def _matches(door: str, layout: str, how: str, tmp_path: Path) -> None:
    columns, row = LAYOUTS[layout]
    rows = [row(i) for i in range(N)]
    expected = _source(str(jsonl(tmp_path / "jsonl" / "x.jsonl", rows)), OPENED[how]).open(7, columns)
    data = DOORS[door](rows, tmp_path)
    if door == "arrays" and layout != "images":
        with pytest.raises(DataError, match="there is no column|no "):
            _source(data, OPENED[how]).open(7, columns)
        return
    got = _source(data, OPENED[how]).open(7, columns)
    assert got.pooled().rows[0].keys() == expected.pooled().rows[0].keys()
    assert got.digest == expected.digest and got.account == expected.account and got.labels == expected.labels


@pytest.mark.parametrize(("door", "layout", "how"), SAMPLE)
def test_the_same_rows_through_every_door(door: str, layout: str, how: str, tmp_path: Path) -> None:
    _matches(door, layout, how, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("door", "layout", "how"), WHOLE)
def test_the_same_rows_through_every_door_and_every_opening(
    door: str, layout: str, how: str, tmp_path: Path
) -> None:
    _matches(door, layout, how, tmp_path)
