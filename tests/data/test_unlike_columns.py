"""One party's columns or shapes are others: it is named, not those that are as they ought to be, and once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedfm.data.arrays import Arrays
from fedfm.data.files import Files
from said import said


def table(seed: int, *, also: str = "", less: str = "") -> Any:
    frame = pd.DataFrame(np.random.default_rng(seed).normal(size=(12, 3)), columns=["age", "bp", "hr"])
    frame["label"] = [i % 2 for i in range(12)]
    if also:
        frame.insert(0, also, range(12))
    return frame.drop(columns=less) if less else frame


def test_the_party_that_has_a_column_more_is_named() -> None:
    parties = {"a": table(0), "b": table(1, also="ward")}
    message = said(lambda: Arrays(parties, test=table(9)).open(0, None))
    assert "1 problem in the data" in message
    assert "train['b']: there is a column 'ward', which is not in train['a'], test" in message
    assert (
        "fix: leave 'ward' out there (in pandas rows.drop(columns='ward'))" in message
        and "YOUR_COLUMN" not in message
    )
    parties["b"] = parties["b"].drop(columns="ward")  # as the fix says
    assert set(Arrays(parties, test=table(9)).open(0, None).columns) == {"age", "bp", "hr", "label"}


def test_the_party_that_lacks_a_column_is_named() -> None:
    parties = {"a": table(0), "b": table(1, less="hr"), "c": table(2)}
    message = said(lambda: Arrays(parties, test=table(9)).open(0, None))
    assert "train['b']: there is no column 'hr', which is in train['a'], train['c'], test" in message
    assert "give 'hr' there too, or leave it out everywhere" in message and "YOUR_COLUMN" not in message


def test_of_files_and_of_the_test_rows_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, frame in {"a": table(0), "b": table(1), "t": table(2, also="ward")}.items():
        frame.to_csv(f"{name}.csv", index=False)
    message = said(lambda: Files(("a.csv", "b.csv"), test_path="t.csv").open(0, None))
    assert "t.csv: there is a column 'ward', which is not in a.csv, b.csv" in message
    message = said(
        lambda: Files(("a.csv", "t.csv"), test_fraction=0.0).open(0, None)
    )  # nobody is in the right
    assert (
        "t.csv: there is a column 'ward', which is not in a.csv" in message
        and "or give it everywhere" in message
    )


def points(width: int, n: int = 10) -> tuple[Any, Any]:
    return np.ones((n, width), "float32"), np.arange(n) % 2


@pytest.mark.parametrize("odd", ["a", "b", "d"])
def test_another_width_is_one_problem_of_the_party_that_has_it(odd: str) -> None:
    parties = {p: points(5 if p == odd else 4) for p in "abcd"}
    message = said(lambda: Arrays(parties, test=points(4)).open(0, None))
    assert (
        "1 problem in the data" in message
        and f"train['{odd}']: 'x' of {odd}, row 1 has the shape (5,)" in message
    )
    assert "(and in 9 more of its 10 rows it is not (4,))" in message


def test_a_test_set_of_another_width_and_a_single_row_are_one_problem_each() -> None:
    message = said(lambda: Arrays({"a": points(4), "b": points(4)}, test=points(3)).open(0, None))
    assert "1 problem in the data" in message and "test: 'x' of test, row 1 has the shape (3,)" in message
    rows = [{"x": [1.0] * (3 if i == 5 else 4), "y": 0.0} for i in range(10)]
    message = said(lambda: Arrays({"a": rows, "b": rows[:5]}).open(0, None))
    assert "'x' of a, row 6 has the shape (3,), that of a, row 1 has (4,)\n" in message
