"""Columns that count rows are no features, and those that say whose a row is are told of under any spelling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bring import TEXT, labelled

from fedfm.data.arrays import Arrays
from fedfm.data.files import Files

pandas = pytest.importorskip("pandas")
ORDER = np.random.default_rng(0).permutation(30)


def table(**more: Any) -> Any:
    rng = np.random.default_rng(1)
    return pandas.DataFrame({"a": rng.normal(size=30), **more, "b": rng.normal(size=30), "label": ORDER % 2})


@pytest.mark.parametrize("name", ["__index_level_0__", "Unnamed: 0", "Unnamed: 0.1", "index", "id", "row_id"])
def test_what_counts_the_rows_is_left_out_and_said(name: str, tmp_path: Path) -> None:
    frame = table(**{name: ORDER + 1})
    frame.to_csv(tmp_path / "a.csv", index=False)
    for source in (
        Arrays({"p": frame}),
        Arrays({"p": frame.rename(columns={"label": "target"})}),
        Files(str(tmp_path / "a.csv")),
    ):
        opened = source.open(0, None)
        assert name not in opened.columns and opened.schema.shapes.get("x", (2,)) == (2,)
        assert [n for n in opened.notes if f"'{name}' is left out: it counts the rows" in n]


def test_x_of_a_pair_is_read_whole_and_they_are_said() -> None:
    """A module of a fixed width stands behind it: at another party, or in the test rows, the column may be a feature."""
    one, two = table(row_id=ORDER), table(row_id=ORDER // 2)
    opened = Arrays({"p": (one, "label"), "q": (two, "label")}).open(0, None)
    assert opened.schema.shapes["x"] == (3,)
    (told,) = [n for n in opened.notes if "counts the rows" in n]
    assert told.startswith("'row_id'") and "x.drop(columns='row_id')" in told


def test_doubled_names_of_features_are_no_traceback() -> None:
    x = pandas.DataFrame(np.ones((6, 2)), columns=["index", "index"])
    assert Arrays({"p": (x, np.arange(6) % 2)}).open(0, None).schema.shapes["x"] == (2,)


@pytest.mark.parametrize("name", ["level_1", "row"])
def test_what_may_be_a_feature_by_its_name_stays(name: str) -> None:
    assert name in Arrays({"p": table(**{name: ORDER + 1})}).open(0, None).columns


def test_the_index_that_pandas_and_datasets_keep_is_left_out(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    frame = table().sample(frac=1, random_state=0)
    frame.to_parquet(tmp_path / "a.parquet")
    for source in (Files(str(tmp_path / "a.parquet")), Arrays({"p": datasets.Dataset.from_pandas(frame)})):
        assert set(source.open(0, None).columns) == {"a", "b", "label"}


@pytest.mark.parametrize("values", [ORDER // 2, ORDER + 0.5, ORDER % 7, ORDER * 3])
def test_a_feature_that_is_called_index_stays(values: Any) -> None:
    opened = Arrays({"p": table(index=values)}).open(0, None)
    assert "index" in opened.columns and not any("left out" in n for n in opened.notes)
    assert Arrays({"p": (table(index=values), "label")}).open(0, None).schema.shapes["x"] == (3,)


def test_a_column_that_is_mapped_or_read_by_the_task_stays() -> None:
    rows = [{**r, "index": i} for i, r in enumerate(labelled(30))]
    assert not any("left out" in n for n in Arrays(rows).open(0, TEXT).notes)
    frame = table(index=ORDER).drop(columns="label")
    mapped = Arrays({"p": frame}, columns={"x": "a", "y": "index"}).open(0, None)
    assert mapped.columns == ("x", "y")


OWNERS = [
    "patient_id",
    "Patient ID",
    "patient-id",
    "patientId",
    "participant_id",
    "speaker_id",
    "mrn",
    "client_id",
    "author",
]


@pytest.mark.parametrize("name", OWNERS)
def test_whose_rows_they_are_is_told_under_any_spelling(name: str) -> None:
    rows = [{**r, name: i // 3} for i, r in enumerate(labelled(30))]
    (told,) = [n for n in Arrays(rows).open(0, TEXT).notes if "may be learnt from and tested on" in n]
    assert f"rows of one '{name}'" in told and f"data.party_column={name}" in told
    (told,) = [n for n in Arrays({"p": table(**{name: ORDER // 3})}).open(0, None).notes if "tested on" in n]
    assert f"'{name}' is a feature too" in told
    (told,) = [
        n
        for n in Arrays({"p": (table(**{name: ORDER // 3}), "label")}).open(0, None).notes
        if "tested on" in n
    ]
    assert f"'{name}' says whose a row is, and is a feature of x" in told


@pytest.mark.parametrize("name", ["patience", "authority", "clientele", "mrna"])
def test_other_columns_say_not_whose_rows_they_are(name: str) -> None:
    rows = [{**r, name: i // 3} for i, r in enumerate(labelled(30))]
    assert not any("tested on" in n for n in Arrays(rows).open(0, TEXT).notes)
