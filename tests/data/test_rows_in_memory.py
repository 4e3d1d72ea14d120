"""Rows in memory: every kind of object, one owner or many, and what is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bring import PICTURE, TEXT, jsonl, labelled

from fedfm.core.schema import Column
from fedfm.data import given
from fedfm.data.arrays import Arrays
from fedfm.data.files import Files
from fedfm.data.hub import Hub
from fedfm.data.kinds import Array, Label
from fedfm.data.partition.iid import Iid
from said import said

ROWS = labelled()


def forms() -> dict[str, Any]:
    found: dict[str, Any] = {"rows": ROWS, "columns": {k: [r[k] for r in ROWS] for k in ("text", "label")}}
    pandas, datasets = pytest.importorskip("pandas"), pytest.importorskip("datasets")
    return {
        **found,
        "frame": pandas.DataFrame(ROWS, index=range(5, 21)),
        "dataset": datasets.Dataset.from_list(ROWS),
    }


def test_every_form_gives_the_rows_of_the_file(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", ROWS)
    jsonl(tmp_path / "b.jsonl", ROWS[:9])
    digest = Files(str(tmp_path)).open(3, TEXT).digest
    for name, whole in forms().items():
        part = (
            whole.select(range(9))
            if name == "dataset"
            else whole[:9]
            if name != "columns"
            else {k: v[:9] for k, v in whole.items()}
        )
        source = given({"b": part, "a": whole})
        assert isinstance(source, Arrays) and source.open(3, TEXT).digest == digest, name
        assert given(whole).open(3, TEXT).ids == ("party-0",)
        assert len(Arrays(whole, partition=Iid(3)).open(0, TEXT).ids) == 3
        assert Arrays(whole, party_column="label").open(0, TEXT).ids == ("neg", "pos")
        split = given({"train": whole, "test": part}).open(0, TEXT)
        assert len(split.pooled()) == 16 and len(split.test()) == 9 and split.notes


def test_missing_values_of_tables_are_missing() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"text": ["a", None, "c", "d"], "label": pandas.array([1, 0, None, 1], dtype="Int64")}
    )
    parties = Arrays(frame, test_fraction=0.0).open(0, TEXT)
    assert parties.account.reasons() == {"no text": 1, "no label": 1} and parties.labels == ("1",)
    floats = pandas.DataFrame({"text": ["a", "b", "c"], "label": [1.0, float("nan"), 0.0]})
    assert Arrays(floats, test_fraction=0.0).open(0, TEXT).labels == ("0", "1")
    dates = pandas.DataFrame({"text": ["a"], "label": [pandas.Timestamp("2024-01-01")]})
    assert "'label' is of type Timestamp" in said(lambda: Arrays(dates).open(0, TEXT))
    numbered = pandas.DataFrame([["a", "x"], ["b", "y"]] * 8)
    assert Arrays(numbered, columns={"text": "0", "label": "1"}).open(0, TEXT).labels == ("x", "y")
    twice = pandas.DataFrame([["a", "x"]], columns=["text", "text"])
    assert "two columns are called 'text'" in said(lambda: Arrays(twice).open(0, TEXT))


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_arrays_are_pictures_or_numbers(kind: Any) -> None:
    x, y = np.arange(20 * 16, dtype="uint8").reshape(20, 4, 4), np.arange(20) % 2
    parties = Arrays({"a": (kind(x), kind(y)), "b": (kind(x), kind(y))}).open(0, PICTURE)
    assert (
        parties.labels == ("0", "1")
        and parties.schema.shapes == {"image": (1, 4, 4)}
        and len(parties.ids) == 2
    )
    numbers = Arrays((kind(x.astype("float64")), kind(y)), test=(kind(x[:4].astype("float64")), kind(y[:4])))
    own = (Column("x", Array()), Column("y", Array()))
    opened = numbers.open(0, own)
    row = opened.pooled().rows[3]
    assert (
        row["x"].dtype == torch.float32
        and row["x"].shape == (4, 4)
        and int(row["y"]) == 1
        and len(opened.test()) == 4
    )
    named = numbers.open(0, (Column("x", Array()), Column("y", Label())))
    assert {r["y"] for r in named.pooled().rows} == {"0", "1"}
    gap = x.astype("float32")
    gap[2, 1, 1] = np.nan
    assert "train:3: 'x' is an array with a number that is not finite" in said(
        lambda: Arrays((kind(gap), kind(y))).open(0, own)
    )
    assert "20 rows of x and 3 of y" in said(lambda: Arrays((kind(x), kind(y[:3]))).open(0, own))


def test_test_rows_of_each_party() -> None:
    parties = Arrays({"a": ROWS, "b": ROWS}, {"a": labelled(4, also=" t"), "b": labelled(6, also=" u")}).open(
        0, TEXT
    )
    assert (
        [len(parties.test(i)) for i in "ab"] == [4, 6]
        and len(parties.test()) == 10
        and parties.groups == ("a", "b")
    )


def test_what_is_given_becomes_a_source(tmp_path: Path) -> None:
    assert given("x-*.jsonl") == Files("x-*.jsonl") and given(Path("d")) == Files("d")
    assert given([Path("d/a.jsonl"), "e"]) == Files(("d/a.jsonl", "e"))
    spec = Hub("x")
    assert given(spec) is spec
    (tmp_path / "state.json").write_text("{}")
    assert given(tmp_path) == Hub(str(tmp_path)) and given(str(tmp_path)) == Hub(str(tmp_path))
    datasets = pytest.importorskip("datasets")
    saved = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS)}
    )
    assert len(given(saved).open(0, TEXT).test()) == 16


@pytest.mark.parametrize("data", [[1, 2], {"a": 3}, np.zeros(3), {"a": ROWS, "b": 1}])
def test_what_holds_no_rows(data: Any) -> None:
    assert "no rows" in said(lambda: given(data).open(0, TEXT))


def test_odd_parties_and_uneven_columns() -> None:
    assert "two parties are called '1'" in said(lambda: Arrays({1: ROWS, "1": ROWS}).open(0, TEXT))
    assert "a party called None" in said(lambda: Arrays({None: ROWS}).open(0, TEXT))
    assert "cannot be the name" in said(lambda: Arrays({"..": ROWS}).open(0, TEXT))
    assert "columns of different lengths" in said(
        lambda: Arrays({"text": ["a", "b"], "label": ["x"]}).open(0, TEXT)
    )
    assert "holds no rows" in said(lambda: Arrays(3).open(0)) and "there are no rows" in said(
        lambda: Arrays([]).open(0)
    )
    told = said(lambda: given({"a": Arrays(ROWS), "b": Arrays(ROWS)}))
    assert "Arrays is the data of all parties" in told and "fedfm.Arrays({party: rows" in told


def test_a_spec_of_arrays_equals_its_like_and_shows_no_rows() -> None:
    frame = pytest.importorskip("pandas").DataFrame(ROWS)
    assert Arrays(frame) == Arrays(frame) != Arrays(frame.copy()) and Arrays(ROWS) == Arrays(list(ROWS))
    assert hash(Arrays(frame)) == hash(Arrays(frame)) and "good film" not in repr(Arrays(ROWS))
    assert Arrays(frame) != Arrays(frame, test_fraction=0.1)
