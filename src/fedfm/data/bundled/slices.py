"""Reading the slices that ship with the package, and drawing balanced subsets of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from fedfm.core.errors import DataError
from fedfm.data.source import Row, stream


def file_bytes(name: str) -> bytes:
    """The content of a bundled file; raises `DataError` when the installation lacks it."""
    try:
        return (resources.files("fedfm.data.bundled") / name).read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"the bundled file '{name}' is missing from this installation of fedfm; install the package again"
        ) from None


def json_rows(name: str) -> dict[str, list[Row]]:
    """The rows of a `.jsonl.gz` slice by split, without the column `split`."""
    found: dict[str, list[Row]] = {"train": [], "test": []}
    # One parse of the whole file is three times as fast as one per line.
    for row in json.loads("[" + ",".join(gzip.decompress(file_bytes(name)).decode().splitlines()) + "]"):
        found[row.pop("split")].append(row)
    return found


def balanced(labels: Sequence[str], count: int, seed: int | None, *, what: str) -> list[int]:
    """`count` row numbers, as many of each label (one more for the first labels if it does not divide).

    With a seed, random ones in random order. Without, the first of each label in turns: the test rows,
    which must be the same whatever the seed.
    """
    by_label: dict[str, list[int]] = {name: [] for name in sorted(set(labels))}
    for i, label in enumerate(labels):
        by_label[label].append(i)
    if not 1 <= count <= len(labels):
        raise DataError(f"{what} is {count}; this data set has 1 to {len(labels)} of them")
    rng = None if seed is None else stream(seed, f"balanced/{what}")
    order = {n: list(rng.permutation(i)) if rng is not None else i for n, i in by_label.items()}
    # In turns; labels that run out are passed over, so a count near the whole set still works.
    turns = sorted((k, n, int(i)) for n, index in order.items() for k, i in enumerate(index))
    picked = [i for _, _, i in turns[:count]]
    return picked if rng is None else [picked[k] for k in rng.permutation(count)]


def pick(rows: Sequence[Any], index: Sequence[int]) -> list[Any]:
    """The rows with these numbers, in this order."""
    return [rows[i] for i in index]
