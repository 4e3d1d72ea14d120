"""Names for classes that are numbers: the i-th is of class i, or it is said why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bring import TEXT, jsonl

import fedfm
from fedfm.core.errors import DataError
from fedfm.core.schema import Column
from fedfm.data.arrays import Arrays
from fedfm.data.files import Files
from fedfm.data.kinds import Array, Image, Label
from said import said

XY = (Column("x", Array()), Column("y", Array()))


def pair(dtype: Any = "int64", classes: int = 2) -> tuple[Any, Any]:
    return np.random.default_rng(0).random((12, 4), "float32"), (np.arange(12) % classes).astype(dtype)


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "float32"])
def test_the_i_th_name_is_of_class_i(dtype: str) -> None:
    for names in (("yes", "no"), ("no", "yes")):
        assert Arrays({"a": pair(dtype), "b": pair(dtype)}, labels=names).open(0, XY).labels == names
        columns = dict(zip("xy", pair(dtype), strict=True))
        assert Arrays(columns, labels=names).open(0, XY).labels == names


def test_a_saved_model_calls_its_outputs_by_these_names(tmp_path: Path) -> None:
    data = fedfm.Arrays({"a": pair(), "b": pair()}, test=pair(), labels=("yes", "no"))
    task = fedfm.Torch(lambda: torch.nn.Linear(4, 2))
    fed = fedfm.Federation(task=task, data=data, client=fedfm.Local(lr=0.1), engine=fedfm.InProcess())
    fedfm.run(fed, rounds=1, out=tmp_path / "run")
    assert json.loads((tmp_path / "run/model/config.json").read_text())["labels"] == ["yes", "no"]


def test_names_that_are_the_numbers_stand_in_the_order_of_these() -> None:
    names = tuple(map(str, range(11)))
    assert Arrays(pair(classes=11), labels=names[::-1], test_fraction=0.0).open(0, XY).labels == names


def test_a_class_without_a_name_is_refused() -> None:
    x, y = pair()
    for names, target in ((("a",), y), (("yes", "no"), y + 1), (("yes", "no"), y * 2 - 1)):
        with pytest.raises(DataError, match="the i-th name is of class i"):
            Arrays((x, target), labels=names).open(0, XY)
    assert Arrays((x, y + 0.5), labels=("yes", "no")).open(0, XY).labels == ("no", "yes")  # no classes


def test_names_for_labels_that_are_numbers_are_refused_with_a_way_out(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": i % 2} for i in range(12)]
    jsonl(tmp_path / "a.jsonl", rows)
    names = ("negative", "positive")
    pandas = pytest.importorskip("pandas")
    strings = {"text": np.array([r["text"] for r in rows]), "label": np.array(["0", "1"] * 6)}
    sources: list[Any] = [Files(str(tmp_path), labels=names), Arrays(pandas.DataFrame(rows), labels=names)]
    for source in (*sources, Arrays(strings, labels=names)):
        told = said(lambda source=source: source.open(0, TEXT))
        assert "a number, and data.labels has words" in told and "the names in the rows themselves" in told
    pictures = np.random.default_rng(0).integers(0, 255, (12, 4, 4), "uint8"), pair()[1]
    told = said(
        lambda: Arrays(pictures, labels=names).open(0, (Column("image", Image()), Column("label", Label())))
    )
    assert "a number, and data.labels has words" in told
    assert Files(str(tmp_path), labels=("0", "1")).open(0, TEXT).labels == ("0", "1")


def test_class_numbers_of_a_data_set_that_names_them_are_those_names() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["yes", "no"])
    )
    whole = datasets.Dataset.from_dict({"text": [f"t {i}" for i in range(8)], "label": [0, 1] * 4}, features)
    parties = Arrays(whole, labels=("yes", "no"), test_fraction=0.0).open(0, TEXT)
    assert [r["label"] for r in parties.pooled().rows[:2]] == ["yes", "no"]
