"""Folders called train and test are splits: never parties, whose test rows would be learnt from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from bring import TEXT, jsonl, labelled

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
