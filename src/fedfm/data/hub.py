"""A Hugging Face data set, from a saved folder or by id."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from fedfm.cards.registry import knob, method
from fedfm.core.errors import DataError, MissingExtra
from fedfm.data.cleaning.columns import Piece
from fedfm.data.cleaning.faults import Faults
from fedfm.data.own import Own
from fedfm.data.partition.dirichlet import Dirichlet
from fedfm.data.reading.memory import lines
from fedfm.data.source import Partition, stream
from fedfm.text import nearest


@method(
    "hub",
    slot="data",
    section="II.B",
    paper="Lhoest et al., Datasets: a community library for natural language processing, EMNLP demos 2021",
    also=("huggingface", "datasets", "dataset"),
)
@dataclass(frozen=True)
class Hub(Own):
    """A Hugging Face data set, divided by a partition or by a column. Extra: data.

    `dataset` is a folder written by `save_to_disk` (no network) or an id, which is downloaded unless it is in
    the local cache. Class labels become their names; images become uint8 tensors (C, H, W).
    """

    dataset: str = knob(doc="a saved folder, or an id such as 'ag_news'", place="folder")
    config: str = knob("", "the configuration (subset) of the data set, where it has several")
    revision: str = knob("", "the commit or tag to load by id; empty: the newest")
    train_split: str = knob("train", "the split to train on")
    test_split: str | None = knob(
        "test",
        "the split to test on; null: hold out test_fraction of the training split",
        alternative="test",
    )
    train_rows: int = knob(0, "at most so many training rows, drawn at random; 0: all", low=0)
    test_rows: int = knob(0, "at most so many held-out rows, always the same; 0: all", low=0)
    server_split: str = knob("", "the split that data.server_rows are taken from; empty: the held-out rows")
    _: KW_ONLY
    test_fraction: float | None = knob(
        None, "share of the training split that is held out", low=0.0, high=0.9, alternative="test"
    )
    partition: Partition | None = knob(
        doc="how the training rows are divided among parties; null with a party_column",
        factory=lambda: Dirichlet(alpha=0.5, parties=8),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.test_split == "":
            raise ValueError(
                "test_split names no split: test_fraction=0.2 holds out a part of the training split"
            )

    @property
    def agreed(self) -> frozenset[str]:
        return super().agreed | ({"test"} if self.test_split else frozenset[str]())

    def pieces(self, seed: int, faults: Faults) -> list[Piece]:
        """The training split and the test split; raises `MissingExtra` without `datasets`."""
        splits = self._load()
        for name in (s for s in (self.train_split, self.test_split, self.server_split) if s):
            if name not in splits:
                raise DataError(
                    f"hub: '{self.dataset}' has no split '{name}': {nearest(name, splits)}; "
                    "set train_split and test_split (test_fraction=0.2 instead holds out a part)"
                )
        train, test = splits[self.train_split], splits.get(self.test_split) if self.test_split else None
        if test is None and self._fraction:
            order = stream(0, "hub/test").permutation(len(train))  # the same test rows whatever the seed
            count = round(len(train) * self._fraction)
            train, test = train.select(sorted(order[count:])), train.select(sorted(order[:count]))
        owner = "" if self.partition is not None or self.party_column else "party-0"
        found = [Piece(self.train_split, lines(_some(train, self.train_rows, seed), "", faults), owner)]
        if test is not None:
            rows = lines(_some(test, self.test_rows, 0), "", faults)
            found.append(Piece(self.test_split or "held out", rows, "", "test"))
        if self.server_split:
            rows = lines(splits[self.server_split], "", faults)
            found.append(self.beside(Piece(self.server_split, rows), True))
        return found

    def other_tests(self) -> str:
        """The first other split that has labels (or needs none)."""
        label = self.columns.get("label", "label")
        for name, data in self._load().items():
            if name not in (self.train_split, self.test_split):
                rows = [row for _, row in lines(data, name, Faults(name))]
                if any(isinstance(label, str) and row.get(label) is not None for row in rows):
                    return f"data.test_split={name}, whose rows have labels"
        return "data.test_fraction=0.2 holds out a part of the training split"

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
