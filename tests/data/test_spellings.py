"""Labels and parties whose names differ in their spelling alone: told by check and run, with examples and owners."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from bring import TEXT, jsonl, labelled

import fedfm
from fedfm.data.arrays import Arrays
from fedfm.data.cleaning.spellings import core
from fedfm.data.files import Files


def notes(one: tuple[Any, ...], other: tuple[Any, ...]) -> list[str]:
    rows = {"a": labelled(20, one), "b": labelled(20, other, " b")}
    return [n for n in Arrays(rows, test_fraction=0.0).open(0, TEXT).notes if "look like one" in n]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0211", "211"),
        ("0211", 211),
        ("A01", "A1"),
        ("2024-01", "2024-1"),
        ("1.50", "1.5"),
        ("1,5", 1.5),
        ("+1.5", "1.5"),
        ("New York", "NewYork"),
        ("new york", "New  York"),
        ("Straße", "STRASSE"),
        ("x\u00a0y", "x y"),
        ("ab\u200bc", "abc"),
        ("\uff21", "A"),
        ("\ufb01lm", "film"),
        ("etc.", "etc"),
    ],
)
def test_one_code_in_two_spellings_beside_a_label_that_is_shared(one: Any, other: Any) -> None:
    (told,) = notes((one, "shared"), (other, "shared"))
    assert told.startswith("the labels ") and {" (a)", " (b)"} == set(re.findall(r" \([ab]\)", told))
    assert told.endswith("if they are, give them one spelling")


@pytest.mark.parametrize(
    ("one", "other"),
    [("1.05", "1.5"), ("-1", "1"), ("10", "1"), ("0", "00 a"), ("I10.0", "I10"), ("no", "nö"), ("1-2", "12")],
)
def test_other_names_are_not_taken_for_spellings(one: str, other: str) -> None:
    assert not notes((one, "shared"), (other, "shared")) and core(one) != core(other)


def test_many_such_labels_are_one_note_and_the_owners_are_named() -> None:
    (told,) = notes(tuple(f"0{i}" for i in range(5)), tuple(str(i) for i in range(5)))
    assert told.startswith(
        "the labels '0' (b) and '00' (a); '01' (a) and '1' (b) look like one (and 3 more such)"
    )
    hidden = notes(("x\u00a0y", "z"), ("x y", "z"))[0]
    assert "'x y' (b) and 'x\\xa0y' (a)" in hidden


def test_a_column_that_calls_one_party_by_two_names() -> None:
    rows = [{**r, "site": ("St. Mary", "st. mary", "Rome")[i % 3]} for i, r in enumerate(labelled(30))]
    told = Arrays(rows, party_column="site").open(0, TEXT).notes
    assert "the parties 'St. Mary' and 'st. mary' look like one: if they are, give them one spelling" in told


def test_targets_and_files_are_told_alike_and_one_spelling_is_silent(tmp_path: Path) -> None:
    for party, code in (("a", "0211"), ("b", "211"), ("c", "211")):
        jsonl(tmp_path / f"{party}.jsonl", labelled(20, (code, "0820"), f" {party}"))
    checked = fedfm.probe("quickstart", data=str(tmp_path / "*.jsonl"), model="tiny-encoder")
    assert any("'0211' (a) and '211' (b, c) look like one" in r for r in checked.remarks)
    jsonl(tmp_path / "a.jsonl", labelled(20, ("211", "0820"), " a"))
    assert not any("look like" in n for n in Files(str(tmp_path)).open(0, TEXT).notes)
