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


LABELS = {"words": ("negative", "positive"), "answers": ("no", "yes"), "truth": (False, True), "own": ("x",)}


@pytest.mark.parametrize("kind", LABELS)
def test_a_party_whose_classes_are_its_own_is_named_among_others_that_share_theirs(kind: str) -> None:
    rows = {"a": labelled(12), "b": labelled(12, also=" b"), "c": labelled(12, LABELS[kind], " c")}
    (told,) = [n for n in Arrays(rows).open(0, TEXT).notes if "no label" in n]
    assert told.startswith("c shares no label with another party (c: ") and "the others: neg, pos" in told
    rows["d"] = labelled(12, ("m", "n"), " d")
    (told,) = [n for n in Arrays(rows).open(0, TEXT).notes if "no label" in n]
    assert told.startswith("c, d share no label")
    rows = {"a": labelled(12), "b": labelled(12, ("pos",)), "c": labelled(12, ("neg",))}
    assert not any("no label" in n for n in Arrays(rows).open(0, TEXT).notes)


def test_a_text_under_several_labels_is_told_of_within_training_and_between_training_and_test() -> None:
    rows, turned = (
        labelled(12),
        [{**r, "label": {"pos": "neg", "neg": "pos"}[r["label"]]} for r in labelled(4)],
    )
    within = Arrays({"a": rows, "b": turned}, test=labelled(4, also=" t")).open(0, TEXT).notes
    assert "4 training inputs stand under several labels (8 rows; one is 'neg' and 'pos')" in within
    beside = Arrays({"a": rows}, test=turned).open(0, TEXT).notes
    assert "4 of 4 test rows are training rows under another label" in beside
    assert not any("label" in n for n in Arrays({"a": rows}, test=labelled(4)).open(0, TEXT).notes)
    numbers = [{"x": [1.0, 2.0], "label": "ab"[i % 2]} for i in range(12)]  # features that happen to be alike
    assert not any("several labels" in n for n in Arrays(numbers).open(0, None).notes)


@pytest.mark.parametrize("odd", [2.7, "Total", "poss"])
def test_a_class_of_a_single_row_beside_classes_of_many(odd: Any) -> None:
    rows = [*labelled(24), {"text": "odd one", "label": odd}]
    (told,) = [n for n in Arrays(rows).open(0, TEXT).notes if "single row" in n]
    assert told.startswith(f"the label '{odd}' is in a single row, others in up to 12")
    (told,) = [
        n for n in Arrays([*rows, {"text": "b", "label": "b"}]).open(0, TEXT).notes if "single row" in n
    ]
    assert told.startswith(f"the labels '{odd}', 'b' are in a single row each")
    few = [{"text": f"t {i}", "label": f"l {i // 2}"} for i in range(9)]
    assert not any("single row" in n for n in Arrays(few).open(0, TEXT).notes)
