"""Class numbers of a Parquet file are read by the names that `datasets` wrote beside them; comments before a table are said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedfm.core.errors import DataError
from fedfm.data.files import Files
from fedfm.tasks.text.classify import SequenceClassification

pyarrow = pytest.importorskip("pyarrow")
COLUMNS = SequenceClassification.columns
TEXTS = [f"t{i}" for i in range(12)]


def wrote(file: Path, names: Any, numbers: list[int]) -> None:
    import pyarrow.parquet

    table = pyarrow.table({"text": [f"{file.stem} {t}" for t in TEXTS], "label": numbers})
    if names is not None:
        told = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(told)})
    pyarrow.parquet.write_table(table, file)


def test_each_file_counts_in_its_own_order(tmp_path: Path) -> None:
    wrote(tmp_path / "a.parquet", ["neg", "pos"], [0, 1] * 6)
    wrote(tmp_path / "b.parquet", ["pos", "neg"], [1, 0] * 5 + [-1, -1])
    found = Files(str(tmp_path / "*.parquet"), test_fraction=0.0).read(0, COLUMNS)
    assert found.labels == ("neg", "pos") and len(found.train("b")) == 10
    for party in found.ids:
        assert {r["text"][-1]: r["label"] for r in found.train(party).rows}["2"] == "neg"


def test_what_tools_of_today_write_is_read_alike(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for party, names in (("a", ["neg", "pos"]), ("b", ["pos", "neg"])):
        labels = [names.index(("neg", "pos")[i % 2]) for i in range(12)]
        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
        )
        rows = {"text": [f"{party} {t}" for t in TEXTS], "label": labels}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / f"{party}.parquet"))
    found = Files(str(tmp_path / "*.parquet"), test_fraction=0.0).read(0, COLUMNS)
    assert {
        (r["text"][-1], r["label"]) for i in found.ids for r in found.train(i).rows if r["text"][-1] in "23"
    } == {
        ("2", "neg"),
        ("3", "pos"),
    }


@pytest.mark.parametrize("names", [None, []])
def test_numbers_without_names_stay_numbers(names: Any, tmp_path: Path) -> None:
    wrote(tmp_path / "a.parquet", names, [0, 1] * 6)
    assert Files(str(tmp_path / "a.parquet"), test_fraction=0.0).read(0, COLUMNS).labels == ("0", "1")


def test_comments_before_a_table_are_said(tmp_path: Path) -> None:
    table = "text,label\n" + "".join(f"{t},{'ny'[i % 2]}\n" for i, t in enumerate(TEXTS))
    (tmp_path / "a.csv").write_text("# exported 2024\n# by x\n" + table)
    with pytest.raises(
        DataError, match=r"(?s)1 problem .*2 lines of comment stand before the table.*sed -i 1,2d"
    ):
        Files(str(tmp_path / "a.csv")).read(0, COLUMNS)
    (tmp_path / "a.csv").write_text("#text" + table[4:])  # a name that begins so is a name
    assert (
        len(
            Files(str(tmp_path / "a.csv"), columns={"text": "#text"}, test_fraction=0.0)
            .read(0, COLUMNS)
            .train("a")
        )
        == 12
    )
