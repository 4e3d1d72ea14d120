"""Partitions: every row once, nobody empty, and the skew that each one promises."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfm import laws
from fedfm.cards.registry import knob
from fedfm.data.arrays import Arrays
from fedfm.data.partition.by_field import ByField
from fedfm.data.partition.deal import apportion
from fedfm.data.partition.dirichlet import Dirichlet
from fedfm.data.partition.iid import Iid
from fedfm.data.partition.quantity import Quantity
from fedfm.data.partition.shards import LabelShards
from fedfm.data.source import Partition
from said import said

quick = settings(max_examples=25, deadline=None)


def labelled(n: int, classes: int = 5) -> tuple[list[dict[str, Any]], list[str]]:
    rows = [{"text": f"row {i}", "label": f"c{i * 7 % classes}"} for i in range(n)]
    return rows, [r["label"] for r in rows]


ALL = [Dirichlet(0.3, 4, 3), LabelShards(4, 2), Iid(4), Quantity(4, 0.5), ByField("label")]


@quick
@given(st.integers(24, 200), st.integers(0, 2**31), st.sampled_from(ALL))
def test_every_row_once_nobody_empty(n: int, seed: int, partition: Partition) -> None:
    rows, labels = labelled(n)
    split = partition.split(rows, labels, seed)
    assert sorted(i for part in split.values() for i in part) == list(range(n))
    assert all(split.values()) and all(part == sorted(part) for part in split.values())
    assert all(type(i) is int for part in split.values() for i in part)
    assert split == partition.split(rows, labels, seed)
    assert isinstance(partition, ByField) or list(split) == [f"party-{k}" for k in range(4)]


@pytest.mark.parametrize("partition", ALL[:4], ids=lambda p: p.method_name)
def test_other_seeds_divide_otherwise(partition: Partition) -> None:
    rows, labels = labelled(100)
    assert len({json.dumps(partition.split(rows, labels, s)) for s in range(5)}) == 5


@quick
@given(st.integers(1, 9), st.integers(9, 90), st.integers(0, 99))
def test_iid_sizes(parties: int, n: int, seed: int) -> None:
    sizes = [len(x) for x in Iid(parties).split([{}] * n, None, seed).values()]
    assert max(sizes) - min(sizes) <= 1


@quick
@given(st.floats(0.05, 10), st.integers(0, 99), st.integers(1, 20))
def test_dirichlet_least_size(alpha: float, seed: int, least: int) -> None:
    rows, labels = labelled(100)
    assert min(map(len, Dirichlet(alpha, 5, least).split(rows, labels, seed).values())) >= least


def skew(partition: Partition, seed: int, n: int = 2000, classes: int = 10) -> float:
    """Mean total variation distance between a party's labels and the global ones."""
    rows, labels = labelled(n, classes)
    distances = []
    for part in partition.split(rows, labels, seed).values():
        share = np.array([sum(labels[i] == f"c{c}" for i in part) for c in range(classes)]) / len(part)
        distances.append(np.abs(share - 1 / classes).sum() / 2)
    return float(np.mean(distances))


def test_dirichlet_moves_from_even_to_one_label() -> None:
    mean = [np.mean([skew(Dirichlet(a, 5, 1), s) for s in range(4)]) for a in (0.02, 0.5, 100)]
    assert mean[0] > 0.6 > mean[1] > 0.2 and mean[2] < 0.06


def test_dirichlet_share_has_the_variance_of_the_law() -> None:
    # Var p_k = (1/K)(1 - 1/K) / (K alpha + 1) for a symmetric Dirichlet; K = 4, alpha = 1: 0.1875 / 5 =
    # 0.0375. 200 seeds x 5 labels = 1,000 draws; the standard error of the variance is below 5 %.
    rows, labels = labelled(1000)
    shares = []
    for seed in range(200):
        first = Dirichlet(1.0, 4, 1).split(rows, labels, seed)["party-0"]
        shares += [sum(labels[i] == f"c{c}" for i in first) / 200 for c in range(5)]
    assert np.mean(shares) == pytest.approx(0.25, abs=0.02)
    assert np.var(shares) == pytest.approx(0.0375, rel=0.2)


def test_shards_limit_the_labels() -> None:
    rows, labels = labelled(1000, 10)
    split = LabelShards(10, 2).split(rows, labels, 0)
    # 20 shards of 50 in 10 labels of 100: no shard holds two labels.
    assert all(len({labels[i] for i in part}) <= 2 and len(part) == 100 for part in split.values())


def test_quantity_skews_sizes_not_labels() -> None:
    rows, labels = labelled(2000, 4)
    split = Quantity(6, 0.4).split(rows, labels, 3)
    sizes = [len(p) for p in split.values()]
    assert max(sizes) > 5 * min(sizes)
    for part in split.values():
        count = Counter(labels[i] for i in part)
        assert max(count.values()) - min(count.get(f"c{c}", 0) for c in range(4)) <= 2


def test_apportion_is_exact() -> None:
    assert apportion(np.array([0.5, 0.3, 0.2]), 7).tolist() == [
        4,
        2,
        1,
    ]  # 3.5, 2.1, 1.4: the largest remainder
    assert apportion(np.array([1 / 3] * 3), 10).sum() == 10


def test_by_field_names_and_order() -> None:
    rows = [{"site": s} for s in (10, 2, 2, 1)]
    assert ByField("site").split(rows, None, 0) == {"1": [3], "2": [1, 2], "10": [0]}


def test_partition_errors() -> None:
    rows, labels = labelled(20)
    assert "20 rows cannot give 4 parties at least 10 each (40 are needed)" in said(
        lambda: Dirichlet(0.5, 4, 10).split(rows, labels, 0)
    )
    assert "use iid or quantity" in said(lambda: Dirichlet(0.5, 2, 1).split(rows, None, 0))
    assert "no labels" in said(lambda: LabelShards(2, 2).split(rows, None, 0))
    assert "cannot give 21 parties" in said(lambda: Iid(21).split(rows, labels, 0))
    assert "cannot give 21 parties" in said(lambda: Quantity(21).split(rows, labels, 0))
    assert "parties is 0" in said(lambda: Iid(0).split(rows, labels, 0))
    assert "alpha is 0" in said(lambda: Dirichlet(0, 2, 1).split(rows, labels, 0))
    assert "did you mean 'label'" in said(lambda: ByField("labels").split(rows, labels, 0))
    assert "1 of 2 rows have no 'a'" in said(lambda: ByField("a").split([{"a": 1}, {"a": None}], None, 0))
    assert "no rows" in said(lambda: ByField("a").split([], None, 0))


@dataclass(frozen=True)
class Deals(Partition):
    """A partition that deals what it is told."""

    parts: Any = knob((), "what is dealt")
    calls: Any = knob(doc="how often", factory=list)

    def split(
        self, rows: Sequence[Mapping[str, Any]], labels: Sequence[str] | None, generator_seed: int
    ) -> dict[str, list[int]]:
        self.calls.append(1)
        return {f"p{i}": list(part) for i, part in enumerate(self.parts or ([len(self.calls)],))}


@pytest.mark.parametrize(
    ("parts", "broken"),
    [
        ((range(60), range(50, 120)), "nobody has a row twice and nobody has none"),
        ((range(120), ()), "nobody has a row twice and nobody has none"),
        ((range(119, -1, -1),), "nobody has a row twice and nobody has none"),
        ((range(100),), "whole means every row"),
        ((), "one seed is one deal"),
    ],
)
def test_the_laws_catch_a_partition_that_breaks_them(parts: Any, broken: str) -> None:
    with pytest.raises(AssertionError, match=broken):
        laws.check(Deals(parts))
    assert not {b.name for b in laws.laws_of(Iid(4)) if b.broken(Iid(4))}


@pytest.mark.parametrize("kind", ["int64", "float32", "bool", "uint8"])
@pytest.mark.parametrize("partition", [Dirichlet(0.1, 5, 2), LabelShards(5, 2)])
def test_class_numbers_of_arrays_are_labels_too(partition: Partition, kind: str) -> None:
    numbers = np.random.default_rng(1).integers(0, 2 if kind == "bool" else 4, 200).astype(kind)
    rows = [{"x": np.zeros(2), "y": y} for y in numbers]
    names = [str(int(y)) for y in numbers]
    assert partition.split(rows, None, 3) == partition.split(rows, names, 3)


@pytest.mark.parametrize("y", [0.5, np.zeros(2), None, "a"])
@pytest.mark.parametrize("partition", [Dirichlet(0.1, 2, 2), LabelShards(2, 2)])
def test_numbers_that_are_no_classes_are_not_skewed_by(partition: Partition, y: Any) -> None:
    rows = [{"x": 1, "y": 1}] * 20 + [{"x": 1, "y": y}]
    assert "no labels or groups (nor class numbers" in said(lambda: partition.split(rows, None, 0))


def test_arrays_of_everybody_are_dealt_by_label() -> None:
    y = np.arange(300) % 3
    x = np.stack([y, -y], 1).astype("float32")
    data = Arrays((x, y), test=(x[:30], y[:30]), partition=LabelShards(3, 1))
    parties = data.read(0, None)
    assert [len({int(r["y"]) for r in s.rows}) for s in parties.shards] == [1, 1, 1]
