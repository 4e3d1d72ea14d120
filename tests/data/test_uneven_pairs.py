"""A second text that is in some files alone is refused; what is only added is told; pictures and tables as pairs are read."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from PIL import Image

import fedfm
from fedfm.core.errors import DataError
from fedfm.data.source import Parties
from fedfm.tasks.text.causal import CausalLM
from fedfm.tasks.text.classify import SequenceClassification
from fedfm.tasks.vision.image import ImageClassification

PAIRS = SequenceClassification.columns


def wrote(folder: Path, **parts: str) -> str:
    """JSONL files of pairs, whose second text stands under the name that is given."""
    for party, second in parts.items():
        rows = [
            {"text": f"{party} {i}", "label": "ny"[i % 2]} | ({second: f"s {i}"} if second else {})
            for i in range(8)
        ]
        (folder / f"{party}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(folder / "*.jsonl")


def read(path: str, wanted: Any = PAIRS, **knobs: Any) -> Parties:
    return fedfm.Files(path, **knobs).read(0, wanted)


@pytest.mark.parametrize(
    ("parts", "knobs", "fix"),
    [
        ({"a": "text_pair", "b": "sentence2"}, {}, r"data.columns=\{text_pair: \[text_pair, sentence2\]\}"),
        ({"a": "text_pair", "b": ""}, {}, "give it there too"),
        (
            {"a": "sentence2", "b": "text_pair"},
            {"columns": {"text_pair": "sentence2"}},
            r"\[sentence2, text_pair\]",
        ),
        ({"a": "second", "b": ""}, {"columns": {"text_pair": "second"}}, "give it there too"),
    ],
)
def test_a_second_text_in_some_files_alone_is_refused(
    parts: Any, knobs: Any, fix: str, tmp_path: Path
) -> None:
    path = wrote(tmp_path, **parts)
    with pytest.raises(DataError, match=rf"(?s)there is no column 'text_pair', which .*fix: .*{fix}"):
        read(path, **knobs)


def test_the_fix_works_and_test_files_are_looked_at_too(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    path, tests = wrote(tmp_path, a="sentence2", b="sentence2"), wrote(tmp_path / "t", t="text_pair")
    with pytest.raises(DataError, match=r"there is no column 'text_pair', which"):
        read(path, test_path=tests, columns={"text_pair": "sentence2"})
    found = read(path, test_path=tests, columns={"text_pair": ["sentence2", "text_pair"]})
    assert all(r["text_pair"] for i in found.ids for r in found.train(i).rows) and len(found.test()) == 8
    assert all(r["text_pair"] for r in found.test().rows)


def test_a_usual_name_that_nobody_reads_is_told(tmp_path: Path) -> None:
    notes = read(wrote(tmp_path, a="sentence2", b="sentence2")).notes
    assert any(
        "'sentence2' is not read: is it the text_pair? data.columns={text_pair: sentence2}" in n
        for n in notes
    )
    assert not any("not read" in n for n in read(wrote(tmp_path, a="text_pair", b="text_pair")).notes)


def test_what_is_only_added_is_told(tmp_path: Path) -> None:
    for party, more in (("a", {"input": "x"}), ("b", {})):
        rows = [{"instruction": f"{party} {i}", "answer": f"{i}"} | more for i in range(6)]
        (tmp_path / f"{party}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    found = read(str(tmp_path / "*.jsonl"), CausalLM.columns)
    assert any("the column 'input' is in" in n and "b.jsonl" in n for n in found.notes)


def picture(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), value, "uint8")).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("as_", [list, np.array, lambda x: np.array(x, dtype=object)])
def test_bytes_of_pictures_and_their_labels_are_a_pair(as_: Any) -> None:
    x, y = [picture(i) for i in range(12)], ["n", "y"] * 6
    found = fedfm.Arrays({"a": (as_(x), y)}, (as_(x), y)).read(0, ImageClassification.columns)
    assert found.labels == ("n", "y") and [int(r["image"].max()) for r in found.train("a").rows] == list(
        range(12)
    )
    opened = [Image.open(io.BytesIO(v)) for v in x]
    assert (
        len(fedfm.Arrays({"a": (opened, y)}, (opened, y)).read(0, ImageClassification.columns).train("a"))
        == 12
    )


def test_a_table_and_the_name_of_its_target_are_a_pair() -> None:
    table = pandas.DataFrame({"one": np.arange(8.0), "y": ["n", "y"] * 4, "two": np.ones(8)})
    found = fedfm.Arrays({"a": (table, "y"), "b": (table, "y")}, (table, "y")).read(0, None)
    same = fedfm.Arrays({"a": (table[["one", "two"]], table["y"])}, (table[["one", "two"]], table["y"])).read(
        0, None
    )
    assert [[*r["x"].tolist(), r["label"]] for r in found.train("b").rows] == [
        [*r["x"].tolist(), r["label"]] for r in same.train("a").rows
    ]
