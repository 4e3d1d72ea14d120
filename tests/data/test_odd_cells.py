"""Tables of numbers for a module of one's own: a cell that is none, a column of names, and which column is the target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedfm.data.arrays import Arrays
from fedfm.data.files import Files
from said import said

pandas = pytest.importorskip("pandas")


def table(seed: int = 0, **more: Any) -> Any:
    rng = np.random.default_rng(seed)
    columns = {"age": rng.integers(20, 80, 20), "dose": rng.normal(size=20), "survived": np.arange(20) % 2}
    return pandas.DataFrame({**columns, **more})


@pytest.mark.parametrize("cell", ["NA", "?", "5%", "2024-01-31", "3,5", "male", "n/a", "-"])
def test_a_cell_that_is_no_number_is_named_with_its_row_and_an_empty_one_leaves_the_row_out(
    cell: str, tmp_path: Path
) -> None:
    frame = table().astype(object)
    frame.loc[7, "age"] = cell
    frame.to_csv(tmp_path / "a.csv", index=False)
    told = said(lambda: Files(str(tmp_path / "a.csv")).open(0, None))
    assert told.startswith("1 problem") and f"a.csv:9: 'age' is '{cell}', which is no number" in told
    told = said(lambda: Arrays({"p": frame, "q": table(1)}).open(0, None))
    assert f"train['p']:8: 'age' is '{cell}', which is no number" in told and "'text'" not in told
    frame.loc[7, "age"] = ""
    frame.to_csv(tmp_path / "a.csv", index=False)
    opened = Files(str(tmp_path / "a.csv"), test_fraction=0.0).open(0, None)
    assert len(opened.pooled()) == 19 and opened.account.reasons() == {"no age": 1}


def test_a_column_of_names_is_told_and_is_the_class_where_the_fix_says_so(tmp_path: Path) -> None:
    frame = table(kind=["setosa", "virginica"] * 10)
    frame.to_csv(tmp_path / "a.csv", index=False)
    told = said(lambda: Files(str(tmp_path / "a.csv")).open(0, None))
    assert "the column 'kind' holds text, such as 'setosa'" in told and "data.columns={label: kind}" in told
    opened = Files(str(tmp_path / "a.csv"), columns={"label": "kind"}).open(0, None)
    assert opened.labels == ("setosa", "virginica") and set(opened.columns) == {
        "age",
        "dose",
        "survived",
        "label",
    }


@pytest.mark.parametrize("target", ["label", "y"])
@pytest.mark.parametrize("files", [False, True])
def test_the_target_of_a_table_of_numbers_may_have_any_name(target: str, files: bool, tmp_path: Path) -> None:
    tables = {"a": table(), "b": table(1)}
    for name, frame in tables.items():
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    data: Any = (
        Files(str(tmp_path), columns={target: "survived"})
        if files
        else Arrays(tables, columns={target: "survived"})
    )
    opened = data.open(0, None)
    assert set(opened.columns) == {"age", "dose", target} and not opened.notes
    first = opened.train("a").rows[0]
    assert (opened.labels == ("0", "1")) == (target == "label") and isinstance(first["age"], torch.Tensor)
    assert "a column 'dose'" in said(lambda: _without_dose(tables, tmp_path, target))


def _without_dose(tables: Any, folder: Path, target: str) -> Any:
    tables["b"].drop(columns="dose").to_csv(folder / "b.csv", index=False)
    return Files(str(folder), columns={target: "survived"}).open(0, None)


def test_true_and_false_of_a_file_are_what_they_are_in_memory(tmp_path: Path) -> None:
    frame = table(town=np.arange(20) % 3 == 0)
    frame.to_csv(tmp_path / "a.csv", index=False)
    opened = Files(str(tmp_path / "a.csv"), test_fraction=0.0).open(0, None)
    assert {r["town"].dtype for r in opened.pooled().rows} == {torch.bool}
    memory = Arrays({"a": frame}, test_fraction=0.0).open(0, None).pooled().rows
    assert [bool(r["town"]) for r in opened.pooled().rows] == [bool(r["town"]) for r in memory]
    mixed = frame.astype({"town": object})
    mixed.loc[3, "town"] = 2
    mixed.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(Exception, match="town"):
        Files(str(tmp_path / "a.csv")).open(0, None)
