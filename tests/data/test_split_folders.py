"""Folders called train and test are splits: never parties, whose test rows would be learnt from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from bring import TEXT, jsonl, labelled

import fedfm
from fedfm.data.arrays import Arrays, as_source
from fedfm.data.files import Files
from fedfm.data.partition.iid import Iid
from said import said


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pasted(told: str) -> dict[str, Any]:
    words = shlex.split(told.split("fix: ")[1].split("\n")[0])
    found = {k: yaml.safe_load(v) for k, v in (w.removeprefix("data.").split("=", 1) for w in words)}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}


@pytest.mark.parametrize("test", ["test", "Testing", "val"])
@pytest.mark.parametrize("path", ["d", "d/*/*.jsonl", ("d/train", "d/{}")])
def test_folders_of_splits_are_refused_and_the_fix_reads_them(path: Any, test: str) -> None:
    for who in ("a", "b"):
        jsonl(Path("d/train") / f"{who}.jsonl", labelled(12, also=f" {who}"))
        jsonl(Path(f"d/{test}") / f"{who}.jsonl", labelled(4, also=f" {who} test"))
    path = tuple(p.format(test) for p in path) if isinstance(path, tuple) else path
    for more in ({}, {"partition": Iid(2)}):
        told = said(lambda more=more: Files(path, **more).open(0, TEXT))
        assert told.startswith("1 problem") and "are splits, and would be parties" in told
        parties = Files(**pasted(told), **more).open(0, TEXT)
        assert len(parties.ids) == 2 and len(parties.pooled()) == 24 and len(parties.test()) == 8
        assert all("test" in r["text"] for r in parties.test().rows)


def test_folders_of_splits_below_folders_of_parties() -> None:
    for who in ("a", "my b"):
        jsonl(Path(who) / "train" / f"rows-{who[-1]}.jsonl", labelled(12, also=f" {who}"))
        jsonl(Path(who) / "test" / f"rows-{who[-1]}.jsonl", labelled(4, also=f" {who} test"))
    parties = Files(**pasted(said(lambda: Files("*/*/*.jsonl").open(0, TEXT)))).open(0, TEXT)
    assert parties.ids == ("rows-a", "rows-b") and len(parties.test()) == 8


def test_other_folders_are_parties_as_before() -> None:
    for who in ("train", "depot"):
        jsonl(Path("d") / who / "x.jsonl", labelled(12, also=f" {who}"))
    assert Files("d").open(0, TEXT).ids == ("depot", "train")
    assert Files("d/train").open(0, TEXT).ids == ("x",)


SPLITS = {  # what lies beside each other, and what of it is trained on, tested on
    ("train", "test", "test_ood"): (1, 2),
    ("train", "validation_matched", "validation_mismatched"): (1, 2),
    ("train", "test", "validation_matched", "validation_mismatched"): (1, 1),
    ("train_r1", "train_r2", "dev_r1", "test_r1"): (2, 1),
    ("train", "test", "unsupervised"): (1, 1),
    ("Train", "test.new", "Test old"): (1, 2),
}
PARTIES = (
    ("testlab", "trainer", "devon"),
    ("dev-berlin", "test-munich"),
    ("train-yard", "depot"),
    ("test", "val"),
)


@pytest.mark.parametrize("names", SPLITS)
def test_files_that_are_called_as_more_splits_are_refused_and_the_fix_reads_them(names: Any) -> None:
    for name in names:
        jsonl(Path("d") / f"{name}.jsonl", labelled(12, also=f" {name}"))
    train, tests = SPLITS[names]
    for path, more in (("d", {}), ("d/*.jsonl", {"partition": Iid(2)})):
        told = said(lambda path=path, more=more: Files(path, **more).open(0, TEXT))
        assert told.startswith("1 problem") and "are splits, and would be parties" in told
        parties = Files(**pasted(told), **more).open(0, TEXT)
        assert len(parties.pooled()) == 12 * train and len(parties.test()) == 12 * tests
        assert all(" train" in r["text"].lower() for r in parties.pooled().rows)


@pytest.mark.parametrize("names", SPLITS)
@pytest.mark.parametrize("deep", [False, True])
def test_mappings_of_more_splits_are_refused_and_the_fix_reads_them(names: Any, deep: bool) -> None:
    data: Any = {name: labelled(12, also=f" {name}") for name in names}
    data = {"a": data, "b": data} if deep else data
    told = said(lambda: as_source(data).open(0, TEXT))
    assert "mapping of splits" in told or "parties with splits" in told
    parties = eval(told.split("fix: ")[1], {"data": data, "fedfm": fedfm}).open(0, TEXT)
    train, tests = SPLITS[names]
    assert len(parties.pooled()) == 12 * train * (1 + deep) and len(parties.test()) == 12 * tests * (1 + deep)
    assert all(" train" in r["text"].lower() for r in parties.pooled().rows)
    for said_ in (said(lambda: Arrays(data).open(0, TEXT)),):
        assert said_.split("fix: ")[1] == told.split("fix: ")[1]


def test_a_mapping_of_each_party_s_splits_by_name() -> None:
    data = {f"{who}-{k}": labelled(12, also=f" {who} {k}") for who in ("a", "b") for k in ("train", "test")}
    told = said(lambda: as_source({**data, "c": labelled(12, also=" train")}).open(0, TEXT))
    data["c"] = labelled(12, also=" train")
    parties = eval(told.split("fix: ")[1], {"data": data, "fedfm": fedfm}).open(0, TEXT)
    assert parties.ids == ("a", "b", "c") and len(parties.test("b")) == 12
    assert all(" train" in r["text"] for r in parties.pooled().rows)


def test_a_party_that_is_called_train_is_told_of_and_no_split_of_a_data_set() -> None:
    datasets = pytest.importorskip("datasets")
    data = {name: labelled(12, also=f" {name}") for name in ("train", "holdout")}
    for name, rows in data.items():
        jsonl(Path("d") / f"{name}.jsonl", rows)
    for source in (as_source(data), Files("d")):
        opened = source.open(0, TEXT)
        assert opened.ids == ("holdout", "train") and "'train' and holdout are parties" in " ".join(
            opened.notes
        )
    data = datasets.DatasetDict({k: datasets.Dataset.from_list(rows) for k, rows in data.items()})
    told = said(lambda: as_source(data).open(0, TEXT))
    parties = eval(told.split("fix: ")[1], {"data": data, "fedfm": fedfm}).open(0, TEXT)
    assert {r["text"].split()[-1] for r in parties.test().rows} == {"holdout"} and len(parties.pooled()) == 12


@pytest.mark.parametrize("names", PARTIES)
def test_names_that_resemble_splits_are_parties(names: Any) -> None:
    data = {name: labelled(12, also=f" {name}") for name in names}
    for name, rows in data.items():
        jsonl(Path("d") / f"{name}.jsonl", rows)
    for source in (as_source(data), Files("d")):
        opened = source.open(0, TEXT)
        assert set(opened.ids) == set(names) and not any("are parties" in n for n in opened.notes)
