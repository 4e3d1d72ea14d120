"""Settings and rows of the data that are refused: the fix is the one that helps, and one that is followed is not complained of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bring import TEXT, jsonl, labelled

import fedfm
from fedfm.core.errors import ConfigError, DataError
from fedfm.data.arrays import Arrays
from fedfm.data.files import Files
from fedfm.running.execute import configure


def points(n: int, seed: int = 0) -> tuple[Any, Any]:
    x = np.random.default_rng(seed).normal(size=(n, 4)).astype("float32")
    return x, (x[:, 0] > 0).astype("int64")


@pytest.mark.parametrize(
    ("setting", "fix"),
    [
        ("data.test_fraction=20", "20 % is data.test_fraction=0.2"),
        ("data.test_fraction=1", "20 % is data.test_fraction=0.2"),
        ("data.own_test=5", "5 % is data.own_test=0.05"),
        ("select={name: uniform, fraction: 30}", "30 % is select.fraction=0.3"),
        ("task.dropout=10", "10 % is task.dropout=0.1"),
        ("uplink={name: topk, fraction: 2}", "2 % is uplink.fraction=0.02"),
    ],
)
def test_a_percentage_is_told_as_a_share(setting: str, fix: str) -> None:
    with pytest.raises(ConfigError, match="a share, at most") as told:
        configure("quickstart", ["data=files", "data.path=x", setting])
    assert fix in str(told.value), told.value


@pytest.mark.parametrize("name", ["test_size", "val_split", "validation_split"])
def test_other_libraries_names_of_the_share_lead_to_it(name: str) -> None:
    with pytest.raises(ConfigError, match="did you mean 'data.test_fraction'"):
        configure("quickstart", ["data=files", "data.path=x", f"data.{name}=0.2"])


def test_names_that_number_classes_are_used_and_no_word_is_said() -> None:
    data = Arrays({"a": points(20), "b": points(20, 1)}, test=points(20, 2), labels=("0", "1"))
    fed = fedfm.Federation(task=fedfm.Torch(net), data=data, client=fedfm.Local(lr=0.1, steps=1))
    found = fedfm.probe(fed)
    assert not [r for r in found.remarks if "labels" in r], found.remarks


def net() -> Any:
    import torch

    return torch.nn.Linear(4, 2)


def test_test_rows_at_one_party_alone_are_refused_with_why_and_fix() -> None:
    data = Arrays({"a": points(20), "b": points(20, 1)}, test={"a": points(20, 2)})
    fed = fedfm.Federation(task=fedfm.Torch(net), data=data, evaluate=fedfm.HeldOut(where="parties"))
    with pytest.raises(DataError, match=r"b has no test rows of its own, and a has\s+why: [\s\S]*fix: "):
        fedfm.probe(fed)
    whole = fedfm.replace(fed, evaluate=fedfm.HeldOut(where="server"))
    assert fedfm.probe(whole).test_rows == 20
    shared = fedfm.replace(fed, data=Arrays({"a": points(20), "b": points(20, 1)}))
    assert fedfm.probe(shared)


def test_rows_in_memory_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no rows"):
        Arrays({"a": labelled(), "b": []}).open(0, TEXT)
    jsonl(tmp_path / "a.jsonl", labelled())
    (tmp_path / "b.jsonl").write_text("")
    with pytest.raises(DataError, match="the file gives no rows"):
        Files(tmp_path).open(0, TEXT)


@pytest.mark.parametrize("label", [-1, -100])
def test_no_label_is_told_where_it_stands(label: int, tmp_path: Path) -> None:
    rows = [{"text": f"row {k}", "label": k % 2} for k in range(20)]
    none = [{**r, "label": label} for r in rows]
    jsonl(tmp_path / "a.jsonl", rows)
    jsonl(tmp_path / "test.jsonl", none)
    files = Files(tmp_path / "a.jsonl", test_path=str(tmp_path / "test.jsonl"))
    with pytest.raises(DataError, match=rf"{label} stands for no label[\s\S]*labelled ones"):
        files.open(0, TEXT)
    notes = Arrays({"a": rows + none[:5]}, test=rows).open(0, TEXT).notes
    assert any(f"'{label}' is a class like the others (5" in n for n in notes), notes
    signs = [{"text": f"row {k}", "label": 2 * (k % 2) - 1} for k in range(20)]
    notes = Arrays({"a": signs}, test=signs).open(0, TEXT).notes
    assert not [n for n in notes if "is a class like" in n]  # -1 and 1 are two classes
