"""Several classes a row: as lists, as lists that a table made texts of, and as columns of which one is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bring import LM, TEXT, asked, jsonl, labelled

from fedfm.data.arrays import Arrays
from fedfm.data.files import Files
from said import said


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


HOTS = [[1, 0, 1], [0, 1, 0], [1, 1, 1]]
NAMES = [["animal", "music"], [], ["music"]]


@pytest.mark.parametrize(
    "values",
    [
        HOTS,
        NAMES,
        [tuple(v) for v in HOTS],
        [np.array(v) for v in HOTS],
        [np.array(v, "float32") / 3 for v in HOTS],
        [set(v) or {"none"} for v in NAMES],
        ['["animal", "music"]', "[]", "[true, null]"],
    ],
)
def test_lists_in_a_table_of_text_are_refused_as_lists_are(values: list[Any]) -> None:
    rows = [{"text": f"t {i}", "label": values[i % 3]} for i in range(12)]
    pd.DataFrame(rows).to_csv("a.csv", index=False)
    message = said(lambda: Files("a.csv").open(0, TEXT))
    assert (
        "'label' is a list as text in 12 of 12 rows" in message and "no task several at once yet" in message
    )
    if not isinstance(values[0], set | str):
        assert "'label' is a list in 12 of 12 rows" in said(lambda: Arrays({"a": rows}).open(0, TEXT))


@pytest.mark.parametrize("names", [("[draft]", "final"), ("(a", "b)"), ("[a, b]", "[c] d"), ("{x}", "{y}")])
def test_names_in_brackets_are_names(names: tuple[str, str]) -> None:
    jsonl(Path("a.jsonl"), labelled(names=names))
    assert Files("a.jsonl").open(0, TEXT).labels == tuple(sorted(names))


def test_columns_of_which_the_first_is_taken_are_told() -> None:
    rows = [{"text": f"t {i}", "animal": i % 2, "music": i % 3, "quality": 1} for i in range(12)]
    jsonl(Path("a.jsonl"), rows)
    data = Files("a.jsonl", columns={"label": ["animal", "music", "quality"]}, test_fraction=0.0)
    (note,) = data.open(0, TEXT).notes
    assert note.startswith(
        "'label' is the first of animal, music, quality that is not empty, and 10 of 12 rows have"
    )
    assert "of several classes a row one alone is learnt" in note


def test_answers_under_two_names_are_told_where_a_row_has_both() -> None:
    rows = [{**r, "response": "another"} for r in asked(answer="output")]
    for party, some in {
        "a": rows,
        "b": [{"instruction": r["instruction"], "response": "x"} for r in rows],
    }.items():
        jsonl(Path(f"d/{party}.jsonl"), some)
    data = Files("d", columns={"answer": ["output", "response"]}, test_fraction=0.0)
    (note,) = [n for n in data.open(0, LM).notes if "first of" in n]
    assert "'answer' is the first of output, response that is not empty, and 12 of 12 rows" in note
    for row in rows:
        row["response"] = row["output"]
    jsonl(Path("d/a.jsonl"), rows)
    assert not [n for n in data.open(0, LM).notes if "first of" in n]
