"""Rows as pairs are read; what holds rows without being any is refused with an expression that takes them out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import fedfm
from fedfm.data.arrays import Arrays, as_source
from said import said

X = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
Y = (X[:, 0] > X[:, 1]).astype("int64")
TX, TY = torch.tensor(X), torch.tensor(Y)
TEXTS, NAMES = [f"text {i}" for i in range(12)], ["ab"[i % 2] for i in range(12)]
PIXELS = np.random.default_rng(0).integers(0, 255, (12, 8, 8), "uint8")


def digest(data: Any, **more: Any) -> str:
    return Arrays(data, test_fraction=0.0, **more).open(0, None).digest


@pytest.mark.parametrize(
    ("rows", "same"),
    [
        (list(zip(X, Y, strict=True)), (X, Y)),
        ([(x, int(y)) for x, y in zip(X, Y, strict=True)], (X, Y)),
        (list(zip(TX, TY, strict=True)), (X, Y)),
        ([[x.tolist(), int(y)] for x, y in zip(X, Y, strict=True)], (X, Y)),
        (list(zip(X, NAMES, strict=True)), {"x": X, "label": NAMES}),
        (list(zip(TEXTS, NAMES, strict=True)), {"text": TEXTS, "label": NAMES}),
        (list(zip(TEXTS, Y, strict=True)), {"text": TEXTS, "label": Y}),
        (list(zip(PIXELS, Y, strict=True)), (PIXELS, Y)),
        ([{"x": x, "y": y} for x, y in zip(TX, TY, strict=True)], (X, Y)),
    ],
)
def test_a_list_of_pairs_is_rows_of_everybody_or_of_a_party(rows: Any, same: Any) -> None:
    assert digest(rows) == digest(same) and digest(tuple(rows)) == digest(same)
    assert digest({"c0": rows, "c1": rows}) == digest({"c0": same, "c1": same})
    assert digest({"c0": rows, "c1": same}) == digest({"c0": same, "c1": same})
    one, other = as_source({"c0": rows}).open(0, None), as_source({"c0": same}).open(0, None)
    assert one.digest == other.digest and one.ids == ("c0",)
    assert as_source(rows).open(0, None).digest == as_source(same).open(0, None).digest
    assert digest({"c0": rows[:2]}) == digest({"c0": [rows[0], rows[1]]})


def test_two_rows_of_pairs_are_two_rows() -> None:
    found = Arrays([("good", "pos"), ("bad", "neg")], test_fraction=0.0).open(0, None).pooled().rows
    assert [dict(r) for r in found] == [{"text": "good", "label": "pos"}, {"text": "bad", "label": "neg"}]
    pair = Arrays((["good", "bad"], ["pos", "neg"]), test_fraction=0.0).open(0, None).pooled().rows
    assert pair == found


def test_columns_of_pairs_stay_columns() -> None:
    columns = {"words": [("a", "b")] * 4, "tags": [("X", "Y")] * 4}
    assert Arrays(columns, test_fraction=0.0).open(0, None).pooled().rows[0]["words"] == ("a", "b")
    mapped = {"tok": [("a", "b")] * 4, "lab": [("X", "Y")] * 4}
    read = Arrays(mapped, columns={"words": "tok", "tags": ["lab"]}, test_fraction=0.0).open(0, None)
    assert read.pooled().rows[0]["tags"] == ("X", "Y")
    assert "maps no column" in said(lambda: Arrays(mapped, columns={"words": 3}).open(0, None))
    numbers = {"left": [(1.0, 2.0)] * 4, "right": [(3.0, 4.0)] * 4}
    assert Arrays(numbers, test_fraction=0.0).open(0, None).schema.shapes == {"left": (2,), "right": (2,)}


def test_a_run_on_pairs_is_the_run_on_arrays(tmp_path: Path) -> None:
    def run(name: str, make: Any) -> Any:
        data = Arrays({f"c{i}": make(X[i::3], Y[i::3]) for i in range(3)}, test=make(X, Y))
        fed = fedfm.Federation(
            task=fedfm.Torch(lambda: torch.nn.Linear(4, 2)),
            data=data,
            client=fedfm.Local(lr=0.3, steps=5, batch=4),
            engine=fedfm.InProcess(),
        )
        return fedfm.run(fed, rounds=2, out=tmp_path / name).summary["model_digest"]

    pairs = run("pairs", lambda x, y: list(zip(torch.tensor(x), torch.tensor(y), strict=True)))
    assert pairs == run("arrays", lambda x, y: (x, y))


class Own(Dataset[Any]):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int) -> Any:
        return TX[i], TY[i]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(zip(TX, TY, strict=True))


WHOLE = TensorDataset(TX, TY)
TRIPLES = [dict(zip(("x", "y", "column_3"), r, strict=True)) for r in zip(X, Y, X, strict=True)]
MAPPED = [{"a": float(x[0]), "y": int(y)} for x, y in zip(X, Y, strict=True)]
PAIRED = [{"text": t, "text_pair": t, "label": n} for t, n in zip(TEXTS, NAMES, strict=True)]
REFUSED: dict[str, tuple[Any, Any]] = {  # what is given, and the rows that it means
    "dataset": (WHOLE, (X, Y)),
    "subset": (Subset(WHOLE, range(12)), (X, Y)),
    "own": (Own(), (X, Y)),
    "stream": (Stream(), (X, Y)),
    "loader": (DataLoader(WHOLE, batch_size=5), (X, Y)),
    "triples": (list(zip(X, Y, X, strict=True)), TRIPLES),
    "mappings": ([({"a": float(x[0])}, int(y)) for x, y in zip(X, Y, strict=True)], MAPPED),
    "arrays": ([(x, x[:3]) for x in X], (X, X[:, :3])),
    "two": ({"u1": (X, Y), "u2": (X, Y)}, {"u1": (X, Y), "u2": (X, Y)}),
}


def fixes(told: str) -> list[str]:
    return re.split(r" if each is a \w+(?:, |$)| \(and .*", told.split("fix: ")[1].split("\n")[0])


def pasted(fix: str, data: Any) -> Any:
    return eval(fix, {"data": data, "torch": torch, "numpy": np, "fedfm": fedfm})


@pytest.mark.parametrize("name", REFUSED)
def test_what_holds_rows_is_refused_and_the_fix_takes_them_out(name: str) -> None:
    given, meant = REFUSED[name]
    parties = {"c0": given, "c1": given}
    told = said(lambda: Arrays(parties).open(0, None))
    assert "holds no rows that can be read" in told and told == said(
        lambda: as_source(parties).open(0, None)
    ).replace("data:", "arrays: train:", 1)
    mended = pasted(fixes(told)[0], parties)
    flat = {f"{p}-{u}": v for p in parties for u, v in meant.items()} if name == "two" else None
    assert digest(mended) == digest(flat or {"c0": meant, "c1": meant})
    if flat is None:
        told = said(lambda: Arrays({"c0": meant, "c1": given}).open(0, None))
        assert digest(pasted(fixes(told)[0], {"c0": meant, "c1": given})) == digest(
            {"c0": meant, "c1": meant}
        )
        for told in (said(lambda: Arrays(given).open(0, None)), said(lambda: as_source(given))):
            assert digest(pasted(fixes(told)[0], given)) == digest(meant)


@pytest.mark.parametrize("make", [torch.tensor, np.asarray])
def test_pairs_of_arrays_may_be_rows_batches_or_parties(make: Any) -> None:
    batches = [(make(X[:6]), make(Y[:6])), (make(X[6:]), make(Y[6:]))]
    rows, joined, parties = fixes(said(lambda: as_source(batches)))[:3]
    assert digest(pasted(joined, batches)) == digest((X, Y))
    assert as_source(pasted(parties, batches)).open(0, None).ids == ("0", "1")
    assert len(Arrays(pasted(rows, batches), test_fraction=0.0).open(0, None).pooled()) == 2
    told = said(lambda: Arrays({"c": batches}).open(0, None))
    assert digest(pasted(fixes(told)[1], {"c": batches})) == digest({"c": (X, Y)})


def test_splits_where_parties_belong_and_the_other_way_round() -> None:
    splits = {"train": (X, Y), "test": (X[:4], Y[:4]), "validation": (X[:3], Y[:3])}
    mended = pasted(fixes(said(lambda: Arrays(splits).open(0, None)))[0], splits).open(0, None)
    assert len(mended.pooled()) == 12 and len(mended.test()) == 4
    deep = {"c0": splits, "c1": splits}
    for told in (said(lambda: Arrays(deep).open(0, None)), said(lambda: as_source(deep))):
        mended = pasted(fixes(told)[0], deep).open(0, None)
        assert mended.ids == ("c0", "c1") and len(mended.test("c1")) == 4
    turned = {"train": {"c0": (X, Y)}, "val": {"c0": (X, Y)}, "test": {"c0": (X, Y)}}
    for told in (said(lambda: Arrays(turned).open(0, None)), said(lambda: as_source(turned))):
        assert pasted(fixes(told)[0], turned).open(0, None).ids == ("c0",)


@pytest.mark.parametrize(("data", "column"), [(X, "x"), ([1.0, 2.0, 3.0], "x"), (TX, "x")])
def test_values_alone_are_given_a_name(data: Any, column: str) -> None:
    told = said(lambda: Arrays(data).open(0, None))
    assert Arrays(pasted(fixes(told)[0], data), test_fraction=0.0).open(0, None).columns == (column,)
    assert list(pasted(fixes(said(lambda: Arrays(TEXTS).open(0, None)))[0], TEXTS)) == ["text"]


def test_arrays_of_parties_beside_test_pairs_are_told_what_is_read() -> None:
    told = said(lambda: Arrays({"c0": X, "c1": X}, test=(X, Y)).open(0, None))
    assert "columns x and y: for parties called c0, c1 too" in told and "without" not in told


def _foreign(kind: str) -> tuple[Any, Any]:
    """What is given, and the rows that it means."""
    rows = [{"text": t, "label": n} for t, n in zip(TEXTS, NAMES, strict=True)]
    if kind == "sparse":
        return (pytest.importorskip("scipy.sparse").csr_matrix(X), Y), (X, Y)
    if kind == "sparse targets":
        sparse = pytest.importorskip("scipy.sparse").csr_matrix
        return (sparse(X), sparse(X)), (X, X)
    if kind == "sparse tensor":
        return (TX.to_sparse(), TY), (X, Y)
    if kind == "sparse alone":
        return pytest.importorskip("scipy.sparse").csr_array(X), {"x": X}
    return pytest.importorskip("pyarrow").Table.from_pylist(rows), rows


@pytest.mark.parametrize("kind", ["sparse", "sparse targets", "sparse tensor", "sparse alone", "arrow"])
def test_rows_of_another_library_are_refused_and_the_fix_takes_them_out(kind: str) -> None:
    given, meant = _foreign(kind)
    for told in (said(lambda: Arrays(given).open(0, None)), said(lambda: as_source(given))):
        assert digest(pasted(fixes(told)[0], given)) == digest(meant)
    parties = {"c0": given, "c1": given}
    for told in (said(lambda: Arrays(parties).open(0, None)), said(lambda: as_source(parties))):
        assert digest(pasted(fixes(told)[0], parties)) == digest({"c0": meant, "c1": meant})


class Polars:
    """As much of a DataFrame of polars as is asked for."""

    shape = (12, 2)

    def to_dicts(self) -> Any:
        return [{"text": t, "label": n} for t, n in zip(TEXTS, NAMES, strict=True)]


def test_tables_of_polars_and_tables_in_groups_are_refused_and_the_fix_takes_them_out() -> None:
    told = said(lambda: as_source(Polars()))
    assert digest(pasted(fixes(told)[0], Polars())) == digest(Polars().to_dicts())
    groups = pytest.importorskip("pandas").DataFrame({**dict(enumerate(X.T)), "y": Y}).groupby("y")
    mended = as_source(pasted(fixes(said(lambda: as_source(groups)))[0], groups))
    assert mended.open(0, None).ids == ("0", "1")


@pytest.mark.parametrize("form", ["pandas", "arrow", "numpy", "torch"])
def test_a_data_set_under_a_format_gives_the_rows_that_it_holds(form: str) -> None:
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_list([{"text": t, "label": i % 2} for i, t in enumerate(TEXTS)])
    whole = whole.cast_column("label", datasets.ClassLabel(names=["neg", "pos"]))
    assert digest({"c0": whole.with_format(form)}) == digest({"c0": whole})
    streamed = whole.to_iterable_dataset()
    assert digest({"c0": streamed.with_format(form)}) == digest({"c0": streamed})
    turned = whole.with_transform(lambda b: {"text": [f"{t}!" for t in b["text"]], "label": b["label"]})
    assert all(r["text"].endswith("!") for r in Arrays(turned).open(0, None).pooled().rows)
