"""A Hugging Face data set, from a saved folder or by id."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedfm.core.errors import DataError, MissingExtra, nearest
from fedfm.core.registry import knob, method
from fedfm.data.columns import canonical_rows, required
from fedfm.data.faults import Faults
from fedfm.data.partition.dirichlet import Dirichlet
from fedfm.data.source import Parties, Partition, Row, divide, stream


@method(
    "hub",
    slot="data",
    section="II.B",
    paper="Lhoest et al., Datasets: a community library for natural language processing, EMNLP demos 2021",
)
@dataclass(frozen=True)
class Hub:
    """A Hugging Face data set, divided by a partition. Extra: data.

    `dataset` is a folder written by `save_to_disk` (no network) or an id, which is downloaded unless it is in
    the local cache. Class labels become their names; images become uint8 tensors (C, H, W).
    """

    dataset: str = knob(doc="a saved folder, or an id such as 'ag_news'")
    config: str = knob("", "the configuration (subset) of the data set, where it has several")
    revision: str = knob("", "the commit or tag to load by id; empty: the newest")
    columns: dict[str, str] = knob(doc="canonical name -> column, e.g. {text: sentence}", factory=dict)
    train_split: str = knob("train", "the split to train on")
    test_split: str = knob(
        "test", "the split to test on; empty: hold out test_fraction of the training split"
    )
    test_fraction: float = knob(0.2, "share held out when test_split is empty", low=0.0, high=0.9)
    train_rows: int = knob(0, "at most so many training rows, drawn at random; 0: all", low=0)
    test_rows: int = knob(0, "at most so many held-out rows, always the same; 0: all", low=0)
    partition: Partition = knob(
        doc="how the training rows are divided among parties", factory=lambda: Dirichlet(alpha=0.5, parties=8)
    )

    @property
    def agreed(self) -> frozenset[str]:
        """A public data set, divided here: its labels, and the rows of its own test split."""
        return frozenset({"schema", "test"} if self.test_split else {"schema"})

    def open(self, seed: int) -> Parties:
        """Load and divide; raises `DataError` with all problems, `MissingExtra` without `datasets`."""
        splits = self._load()
        wanted = [s for s in (self.train_split, self.test_split) if s]
        for name in wanted:
            if name not in splits:
                raise DataError(
                    f"hub: '{self.dataset}' has no split '{name}': {nearest(name, splits)}; "
                    "set train_split and test_split (empty test_split holds out a part)"
                )
        train, test = splits[self.train_split], splits.get(self.test_split) if self.test_split else None
        if test is None:
            order = stream(0, "hub/test").permutation(len(train))  # the same test rows whatever the seed
            count = round(len(train) * self.test_fraction)
            train, test = train.select(sorted(order[count:])), train.select(sorted(order[:count]))
        train = _some(train, self.train_rows, seed)
        test = _some(test, self.test_rows, 0)

        faults, dropped = Faults(f"'hub' ({self.dataset})"), Counter[str]()
        needed = _needed(self.columns, train.column_names, faults)
        held = [
            r
            for r, _ in canonical_rows(
                _rows(test), needed, self.columns, self.test_split or "held out", faults, dropped
            )
        ]
        pairs = canonical_rows(_rows(train), needed, self.columns, self.train_split, faults, dropped)
        faults.settle()
        rows = [row for row, _ in pairs]
        labels = {r["label"] for r in [*rows, *held] if "label" in r} or None
        # A column named like a canonical one but mapped elsewhere must not hide the canonical value.
        return divide(
            rows,
            held,
            self.partition,
            seed,
            labels=labels,
            dropped=dropped,
            fields=[{**source, **row} for row, source in pairs],
        )

    def _load(self) -> dict[str, Any]:
        try:
            import datasets
        except ImportError:
            raise MissingExtra("datasets", "data", "the data set 'hub'") from None
        folder = os.path.expanduser(self.dataset)
        try:
            if os.path.isdir(folder):
                if not any(
                    os.path.exists(os.path.join(folder, f)) for f in ("dataset_dict.json", "state.json")
                ):
                    raise DataError(
                        f"hub: the folder '{self.dataset}' was not written by save_to_disk; "
                        "for your own JSONL, CSV or Parquet files use the data set 'files'"
                    )
                loaded = datasets.load_from_disk(folder)
            else:
                loaded = datasets.load_dataset(
                    self.dataset, self.config or None, revision=self.revision or None
                )
        except DataError:
            raise
        except Exception as e:  # the library raises a dozen types here, all of which mean "cannot load"
            said = next(iter(str(e).splitlines()), "")
            raise DataError(
                f"hub: cannot load '{self.dataset}': {type(e).__name__}: {said}; "
                "check the id and the network, or save it where there is one (save_to_disk) "
                "and give the folder"
            ) from e
        return dict(loaded) if isinstance(loaded, Mapping) else {self.train_split: loaded}


def _some(data: Any, count: int, seed: int) -> Any:
    if not count or count >= len(data):
        return data
    return data.select(sorted(stream(seed, "hub/some").permutation(len(data))[:count]))


def _needed(mapping: Mapping[str, str], found: list[str], faults: Faults) -> tuple[str, ...]:
    """As for files, except that an image column makes it an image set."""
    if "image" in mapping or ("image" in found and "text" not in found):
        return tuple(dict.fromkeys(("image", "label", *mapping)))
    return required(mapping, found, faults)


def _rows(data: Any) -> list[tuple[int, Row]]:
    """Plain rows: class numbers become names (-1, the mark of "no label", becomes None), images tensors."""
    names = {c: f.names for c, f in data.features.items() if hasattr(f, "names") and hasattr(f, "int2str")}
    out = []
    for i, row in enumerate(data, 1):
        for column, known in names.items():
            if row[column] is not None:
                row[column] = known[row[column]] if row[column] >= 0 else None
        out.append((i, {c: _tensor(v) if hasattr(v, "getbands") else v for c, v in row.items()}))
    return out


def _tensor(picture: Any) -> Any:
    import numpy as np
    import torch

    if picture.mode not in ("L", "RGB"):
        picture = picture.convert("RGB")
    array = torch.from_numpy(np.array(picture, dtype="uint8"))
    return array.unsqueeze(0) if array.ndim == 2 else array.permute(2, 0, 1).contiguous()
