"""Targets that are text: names of classes, numbered alike at every party, or refused with numbers that are alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bring import jsonl

import fedfm
from fedfm.core.schema import Column
from fedfm.data.arrays import Arrays
from fedfm.data.files import Files
from fedfm.data.kinds import Array
from said import said

XY = (Column("x", Array()), Column("y", Array()))
ALL = [0, 1, 2, 3, 5, 7, 8]


def drawn(labels: list[int], seed: int, texts: bool = True, n: int = 60) -> tuple[Any, Any]:
    """Rows of which party has which classes; a class is a place of x."""
    rng = np.random.default_rng(seed)
    y = rng.choice(labels, n)
    x = np.eye(9)[y].astype("float32") + 0.1 * rng.normal(size=(n, 9)).astype("float32")
    return x, np.array([f"l{v}" for v in y]) if texts else y


def score(data: Any, folder: Path, classes: int = 9) -> float:
    fed = fedfm.Federation(
        task=fedfm.Torch(lambda: torch.nn.Linear(9, classes)),
        data=data,
        client=fedfm.Local(lr=0.5, steps=10, batch=16),
        engine=fedfm.InProcess(),
    )
    return float(fedfm.run(fed, rounds=8, out=folder).metric["federated"])


PARTIES = {"c1": drawn([0, 1, 2, 3, 5], 1), "c2": drawn([2, 7, 8], 2)}
TEST = drawn(ALL, 3)
FORMS: dict[str, Any] = {
    "pairs": lambda x, y: (x, y),
    "objects": lambda x, y: (x, y.astype(object)),
    "lists": lambda x, y: ([list(map(float, r)) for r in x], [str(v) for v in y]),
    "columns": lambda x, y: {"x": x, "y": [str(v) for v in y]},
    "rows": lambda x, y: [{"x": r, "y": str(v)} for r, v in zip(x, y, strict=True)],
    "label": lambda x, y: {"x": x, "label": y},
}


@pytest.mark.parametrize("form", FORMS)
def test_parties_with_other_classes_number_them_alike(form: str, tmp_path: Path) -> None:
    make = FORMS[form]
    data = Arrays({k: make(*v) for k, v in PARTIES.items()}, test=make(*TEST))
    parties = data.open(0, None)
    assert parties.labels == tuple(f"l{i}" for i in ALL)
    told = "the targets y are text, such as 'l0': they are names of classes"
    assert any(told in n for n in parties.notes) == (form != "label")
    if form in ("pairs", "label"):
        assert score(data, tmp_path / "run") > 0.98


def test_files_and_a_map_that_calls_a_column_of_texts_y(tmp_path: Path) -> None:
    for k, (x, y) in PARTIES.items():
        rows = [{"feat": r.tolist(), "kind": str(v)} for r, v in zip(x, y, strict=True)]
        jsonl(tmp_path / f"{k}.jsonl", rows)
    own = {"c1": {"y": "kind"}, "c2": {"y": "kind"}}
    for columns in ({"x": "feat", "y": "kind"}, {"x": "feat", **own}):
        data = Files(str(tmp_path), columns=columns, test_fraction=0.0)
        assert data.open(0, None).labels == tuple(f"l{i}" for i in ALL)
    gaps = np.array(["a", None, "b", "nan"], dtype=object)
    found = Arrays((np.zeros((4, 2), "float32"), gaps), test_fraction=0.0).open(0, None)
    assert found.labels == ("a", "b") and found.account.reasons() == {"no label": 2}


def test_a_task_that_declares_numbers_is_told_one_numbering_for_all_and_it_works() -> None:
    told = said(lambda: Arrays(PARTIES, test=TEST).open(0, XY))
    assert told.startswith("1 problem ") and "train['c1'], train['c2'], test: the targets y are text" in told
    fix = told.split("fix: class numbers, the same at every party: ")[1].split("\n")[0]

    def follow(x: Any, y: Any) -> Any:
        scope: dict[str, Any] = {"y": y}
        exec(fix, scope)  # as it is pasted
        return x, np.array(scope["y"])

    opened = Arrays({k: follow(*v) for k, v in PARTIES.items()}, test=follow(*TEST)).open(0, XY)
    for k, (_, y) in PARTIES.items():
        assert [ALL[int(r["y"])] for r in opened.train(k).rows] == [int(v[1:]) for v in y]


def test_more_names_than_a_line_holds() -> None:
    y = np.array([f"n{i:02d}" for i in range(30)])
    told = said(lambda: Arrays((np.zeros((30, 2), "float32"), y)).open(0, XY))
    assert "y = [names.index(v) for v in y], with names = the sorted names of all parties" in told


@pytest.mark.parametrize(("texts", "kind"), [(["1", "0", "1"], int), (["1.5", "2e1", "0"], float)])
def test_numbers_that_are_written_as_texts_are_numbers(texts: list[str], kind: type) -> None:
    x = np.zeros((3, 2), "float32")
    told = said(lambda: Arrays((x, np.array(texts))).open(0, XY))
    assert f"fix: numbers: y = [{kind.__name__}(v) for v in y]" in told
    mended = Arrays((x, np.array([kind(v) for v in texts])), test_fraction=0.0).open(0, XY)
    read = Arrays((x, np.array(texts)), test_fraction=0.0).open(0, None)
    mixed = Arrays({"a": (x, np.array(texts)), "b": (x, np.array([0, 1, 1]))}, test_fraction=0.0).open(
        0, None
    )
    assert [float(r["y"]) for r in read.pooled().rows] == [float(r["y"]) for r in mended.pooled().rows]
    assert len(mixed.pooled()) == 6 and len({r["y"].dtype for r in mixed.pooled().rows}) == 1


def test_names_at_one_party_and_numbers_at_the_other_are_refused_and_the_fix_works() -> None:
    x = np.zeros((4, 2), "float32")
    one, other = np.array(["no", "yes"] * 2), np.array([0, 1, 1, 0])
    told = said(lambda: Arrays({"a": (x, one), "b": (x, other)}).open(0, None))
    assert told.startswith("1 problem") and "in train['b'] they are numbers" in told
    scope: dict[str, Any] = {"y": other}
    exec(told.split("there ")[1].split(", if 0")[0], scope)
    found = Arrays({"a": (x, one), "b": (x, np.array(scope["y"]))}, test_fraction=0.0).open(0, None)
    assert [r["label"] for r in found.train("b").rows] == ["no", "yes", "yes", "no"]


def test_targets_beside_labels_are_refused_and_one_of_them_is_read() -> None:
    columns = {"x": np.zeros((4, 2), "float32"), "y": ["a", "b"] * 2, "label": ["c", "d"] * 2}
    told = said(lambda: Arrays(columns).open(0, None))
    assert "leave the column 'label' out where y is the target; else leave y out" in told
    for left in ("y", "label"):
        rest = {k: v for k, v in columns.items() if k != left}
        assert len(set(Arrays(rest, test_fraction=0.0).open(0, None).labels or ())) == 2


def test_targets_that_are_bytes_are_told_once_and_decoded() -> None:
    x, y = np.zeros((4, 2), "float32"), np.array([b"no", b"yes"] * 2)
    told = said(lambda: Arrays({"a": (x, y), "b": (x, y)}).open(0, None))
    assert told.startswith("1 problem ") and "train['a'], train['b']: the targets y are bytes" in told
    scope: dict[str, Any] = {"y": y}
    exec(told.split("fix: texts: ")[1].split("\n")[0], scope)
    assert Arrays((x, scope["y"]), test_fraction=0.0).open(0, None).labels == ("no", "yes")


def test_targets_of_tables_and_classes_that_are_agreed() -> None:
    pandas = pytest.importorskip("pandas")
    x = np.zeros((4, 2), "float32")
    classes = pandas.Series(pandas.Categorical(["no", "yes"] * 2))
    for y in (classes, classes.astype(str), pandas.Series(["no", "yes"] * 2, dtype="string")):
        assert Arrays((x, y), test_fraction=0.0).open(0, None).labels == ("no", "yes")
    agreed = Arrays((x, classes), labels=("maybe", "no", "yes"), test_fraction=0.0).open(0, None)
    assert agreed.labels == ("maybe", "no", "yes")
