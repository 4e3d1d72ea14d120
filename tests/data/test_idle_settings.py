"""A setting of the data that changes nothing is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bring import TEXT, jsonl, labelled

from fedfm.core.schema import Column
from fedfm.data import kinds
from fedfm.data.files import Files


@pytest.mark.parametrize(
    "setting",
    [{"image_size": 28}, {"image_mode": "L"}, {"separator": ";"}, {"quoting": "none"}, {"sheet": "one"}],
    ids=lambda s: next(iter(s)),
)
def test_a_setting_of_another_sort_of_file_is_told(setting: dict[str, Any], tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", labelled())
    notes = Files(tmp_path, **setting).open(0, TEXT).notes
    assert any(n.startswith(f"data.{next(iter(setting))}=") and "is not used" in n for n in notes), notes
    assert not Files(tmp_path).open(0, TEXT).notes


def test_a_separator_of_csv_files_is_used(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text;label\n" + "".join(f"row {k};{'ab'[k % 2]}\n" for k in range(20)))
    assert not Files(tmp_path, separator=";").open(0, TEXT).notes


def test_labels_without_a_column_of_labels_are_told(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", [{"instruction": f"say {k}", "answer": f"{k}"} for k in range(20)])
    asked = (Column("instruction", kinds.Text()), Column("answer", kinds.Text()))
    notes = Files(tmp_path, labels=("a", "b")).open(0, asked).notes
    assert "data.labels is not used: no column of labels is read" in notes
