"""Values by their kind, one rule in every format; half characters, deep nesting, pictures; every lost row accounted for."""

from __future__ import annotations

import json
import shlex
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bring import LM, PICTURE, TEXT, asked, jsonl, labelled

from fedfm.config.text import override
from fedfm.core.schema import Unfit
from fedfm.data import kinds
from fedfm.data.arrays import Arrays
from fedfm.data.files import Files
from fedfm.data.partition.iid import Iid
from said import said

LONG = "a" * (kinds.MOST_TEXT + 1)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def csv(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "text,label\n" + "".join(f"t{i},{names[i % len(names)]}\n" for i in range(16)), encoding="utf-8"
    )


# ---- labels ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("one", "other", "classes"),
    [
        ((1, 0), ["1.0", "0.0"], ("0", "1")),
        ((True, False), ["true", "False"], ("false", "true")),
        (
            (unicodedata.normalize("NFC", "café"), "x"),
            [unicodedata.normalize("NFD", "café"), " x "],
            ("café", "x"),
        ),
        ((1.0, "2"), ["1", "2.00"], ("1", "2")),
        ((0.5, 1.5), ["0.5", "1.5"], ("0.5", "1.5")),
        (("01", "1a"), ["01", "1a"], ("01", "1a")),  # codes keep their zeros
    ],
)
def test_one_label_in_two_spellings_is_one_class(
    one: Any, other: list[str], classes: tuple[str, ...]
) -> None:
    jsonl(Path("d/a.jsonl"), labelled(names=one))
    csv(Path("d/b.csv"), other)
    opened = Files("d").open(0, TEXT)
    assert opened.labels == classes and not [n for n in opened.notes if "label" in n]
    assert set(opened.distribution()["a"]) == set(opened.distribution()["b"]) == set(classes)


def test_a_missing_label_is_no_class_in_any_format() -> None:
    jsonl(Path("d/a.jsonl"), labelled(names=(float("nan"), "x", "y")))
    csv(Path("d/b.csv"), ["NaN", "x", "y"])
    csv(Path("d/c.csv"), ["", "x", "y"])
    opened = Files("d").open(0, TEXT)
    assert opened.labels == ("x", "y")
    assert {p: opened.account.reasons(party=p) for p in "abc"} == dict.fromkeys("abc", {"no label": 6})


def test_labels_that_look_alike_and_parties_that_share_none_are_said() -> None:
    jsonl(Path("d/a.jsonl"), labelled(names=("Cat", "dog")))
    jsonl(Path("d/b.jsonl"), labelled(names=("cat", "dog "), also=" b"))
    assert any(
        "the labels 'Cat' (a) and 'cat' (b) look like one" in n for n in Files("d").open(0, TEXT).notes
    )
    jsonl(Path("e/a.jsonl"), labelled(names=(True, False)))
    jsonl(Path("e/b.jsonl"), labelled(names=(1, 0), also=" b"))
    assert any(
        "no two parties share a label (a: false, true; b: 0, 1)" in n for n in Files("e").open(0, TEXT).notes
    )


@pytest.mark.parametrize("value", [[1], {"a": 1}, float("inf"), b"x"])
def test_what_is_no_name(value: Any) -> None:
    with pytest.raises(kinds.Wrong):
        kinds.Label().clean(value)


def test_scalars_of_other_libraries_are_plain() -> None:
    assert [kinds.name(v) for v in (np.int64(3), np.float32(2.0), np.bool_(True), torch.tensor(4))] == [
        "3",
        "2",
        "true",
        "4",
    ]
    assert (
        kinds.empty(np.float64("nan"))
        and kinds.empty(torch.tensor(float("nan")))
        and not kinds.empty(np.int8(0))
    )


# ---- texts ----------------------------------------------------------------------------------------------------
def test_an_answer_is_prose_and_stays_as_it_is() -> None:
    Path("a.jsonl").write_text(
        '{"instruction": "Complete:\\ndef f(x):\\n", "answer": "    return x\\n"}\n'
        '{"instruction": "price", "answer": 2.50}\n{"instruction": "n", "answer": 7}\n{"instruction": "y", "answer": true}\n'
        '{"instruction": "big", "answer": 1e3}\n'
    )
    rows = Files("a.jsonl", test_fraction=0.0).open(0, LM).pooled().rows
    assert [r["answer"] for r in rows] == ["    return x\n", "2.50", "7", "True", "1e3"]
    assert rows[0]["instruction"] == "Complete:\ndef f(x):\n"


@pytest.mark.parametrize("where", ["text", "label", "group"])
def test_half_a_character_is_named_by_file_and_line(where: str) -> None:
    rows = [{**r, "group": "g"} for r in labelled()]
    rows[4][where] = "cut \ud83d"
    jsonl(Path("d/a.jsonl"), rows)
    message = said(lambda: Files("d").open(0, TEXT))
    assert f"a.jsonl:5: '{where}' is text with half a character" in message and message.isprintable() is False
    message.encode()  # it can be printed
    assert "half a character" in said(lambda: Arrays(rows).open(0, TEXT))


@pytest.mark.parametrize(
    ("wanted", "long"),
    [
        (TEXT, {"text": LONG, "label": "a"}),
        (TEXT, {"text": "short", "label": LONG}),
        (LM, {"instruction": "short", "answer": LONG}),
        (LM, {"messages": [{"role": "user", "content": "short"}, {"role": "assistant", "content": LONG}]}),
    ],
    ids=["text", "label", "answer", "chat"],
)
def test_a_text_that_no_tokenizer_could_take_is_left_out_and_counted(wanted: Any, long: Any) -> None:
    """Three hundred million characters in a small .gz took all memory of the machine."""
    rows = [{**r, "instruction": "i", "answer": "a"} for r in labelled()]
    if "messages" in long:
        rows = [{"messages": [{**m, "content": "short"} for m in long["messages"]]} for _ in rows]
    parties = Arrays([*rows, long], test_fraction=0.0).open(0, wanted)
    assert len(parties.pooled().rows) == len(rows)
    assert [(lost.rows, "longer than" in lost.reason) for lost in parties.account.entries] == [(1, True)]


@pytest.mark.parametrize("fault", ["half", "fields", "kind"])
def test_a_thousand_files_with_a_thousand_faults_are_one_page(fault: str) -> None:
    """Some of the first are shown, five a file, all are counted; what is wrong everywhere is read once."""
    for k in range(60):
        rows = [{"text": f"t{i}", "label": "a"} for i in range(12)]
        if fault == "fields":
            Path(f"p{k:02}.csv").write_text("text,label\n" + "".join("t,a,more\n" for _ in rows))
        else:
            bad: Any = "cut \ud83d" if fault == "half" else 7
            jsonl(Path(f"p{k:02}.jsonl"), [r | {"text": bad} for r in rows])
    end = "csv" if fault == "fields" else "jsonl"
    message = said(lambda: Files(f"p*.{end}").open(0, TEXT))
    assert message.startswith("720 problems") and len(message.splitlines()) <= 70
    assert message.count("\n    fix: ") == 20 and f"... and 7 more in p00.{end}" in message.replace(
        f"{Path.cwd()}/", ""
    )
    assert message.endswith("... and 672 more in 56 other places")
    Path(f"p59.{end}").rename(f"one.{end}")
    alone = said(lambda: Files(f"one.{end}").open(0, TEXT))
    assert alone.startswith("12 problems") and "other place" not in alone and "and 7 more in " in alone


def test_deep_nesting_is_a_fault_and_no_recursion() -> None:
    deep = "[" * 100_000 + "]" * 100_000
    Path("a.jsonl").write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": ' + deep + "}\n")
    assert "a.jsonl:2: not valid JSON" in said(lambda: Files("a.jsonl").open(0))
    rows = [{**r, "entry": json.loads("[" * 90 + "]" * 90)} for r in asked()]
    assert "nested more than 64 deep" in said(lambda: Arrays(rows).open(0, LM))


# ---- the account ----------------------------------------------------------------------------------------------
def test_lost_rows_by_party_split_and_reason() -> None:
    jsonl(Path("a.jsonl"), [*labelled(), {"text": " ", "label": "pos"}, {"text": "x", "label": None}])
    jsonl(Path("b.jsonl"), labelled(also=" b"))
    jsonl(Path("t/t.jsonl"), [*labelled(4, also=" t"), {"text": "x"}, {"label": "pos"}])
    account = Files(("a.jsonl", "b.jsonl"), test_path="t").open(0, TEXT).account
    assert account.reasons(party="a", split="train") == {"no text": 1, "no label": 1} and not account.rows(
        party="b"
    )
    assert account.reasons(split="test") == {"no label": 1, "no text": 1}


def test_a_party_with_nothing_left_is_a_problem() -> None:
    jsonl(Path("a.jsonl"), labelled())
    jsonl(Path("b.jsonl"), [{"text": "", "label": "pos"}] * 3)
    assert "b.jsonl: the file gives no rows" in said(lambda: Files(("a.jsonl", "b.jsonl")).open(0, TEXT))
    rows = [{**r, "who": "ab"[i % 2]} for i, r in enumerate(labelled())]
    rows += [{"text": "", "label": "pos", "who": "c"}] * 3
    message = said(lambda: Arrays(rows, party_column="who").open(0, TEXT))
    assert "party 'c'" in message and "all 3 rows are left out: 3 no text" in message


def test_no_test_row_left_is_refused() -> None:
    jsonl(Path("a.jsonl"), labelled())
    jsonl(Path("t.jsonl"), [{"text": "x", "label": None}] * 12)
    assert "all 12 rows are left out: 12 no label" in said(
        lambda: Files("a.jsonl", test_path="t.jsonl").open(0, TEXT)
    )
    jsonl(Path("one.jsonl"), [{"text": str(i), "label": f"c{i}"} for i in range(10)])
    message = said(lambda: Files("one.jsonl").open(0, TEXT))
    assert "no test row is left after holding out: 2 held-out row of a label that nobody trains on" in message
    jsonl(Path("single.jsonl"), labelled(1))
    assert "no test row" in said(lambda: Files("single.jsonl").open(0, TEXT))
    assert len(Files("single.jsonl", test_fraction=0.0).open(0, TEXT).test()) == 0  # asked for


def test_an_unlabelled_test_split_names_the_one_that_has_labels() -> None:
    datasets = pytest.importorskip("datasets")
    from fedfm.data.hub import Hub

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["n", "p"])}
    )

    def part(labels: list[int]) -> Any:
        rows = {"text": [f"t{i} {len(labels)}" for i in range(len(labels))], "label": labels}
        return datasets.Dataset.from_dict(rows, features=features)

    splits = {"train": part([0, 1] * 20), "validation": part([0, 1] * 3), "test": part([-1] * 12)}
    datasets.DatasetDict(splits).save_to_disk("glue")
    message = said(lambda: Hub("glue", partition=Iid(2)).open(0, TEXT))
    assert "all 12 rows are left out: 12 no label" in message and "data.test_split=validation" in message
    assert len(Hub("glue", partition=Iid(2), test_split="validation").open(0, TEXT).test()) == 6
    datasets.DatasetDict({k: splits[k] for k in ("train", "test")}).save_to_disk("two")
    message = said(lambda: Hub("two", partition=Iid(2)).open(0, TEXT))
    pasted = override({"data": {}}, [shlex.split(message.rsplit("fix: ", 1)[1])[0]])["data"]
    assert (
        pasted == {"test_fraction": 0.2}
        and len(Hub("two", partition=Iid(2), **pasted).open(0, TEXT).test()) == 8
    )
    assert len(Hub("glue", partition=Iid(2), test_fraction=0.2).open(0, TEXT).test()) == 8


# ---- pictures -------------------------------------------------------------------------------------------------
def pictures(shape: Any, n: int = 24, dtype: str = "uint8") -> list[dict[str, Any]]:
    r = np.random.default_rng(0)
    return [{"image": r.integers(0, 255, shape(i)).astype(dtype), "label": "ab"[i % 2]} for i in range(n)]


def test_pictures_of_two_shapes_are_refused_with_a_knob_that_mends_them() -> None:
    sizes, modes = pictures(lambda i: (8, 8 + i % 3, 3)), pictures(lambda i: (8, 8) if i % 2 else (8, 8, 3))
    message = said(lambda: Arrays({"p": sizes}).open(0, PICTURE))
    assert "'image' of p, row 2 has the shape (3, 8, 9), that of p, row 1 has (3, 8, 8)" in message
    assert "data.image_size=8" in message and "data.image_mode=RGB" in said(
        lambda: Arrays(modes).open(0, PICTURE)
    )
    assert Arrays(sizes, image_size=8).open(0, PICTURE).schema.shapes == {"image": (3, 8, 8)}
    assert Arrays(modes, image_mode="RGB").open(0, PICTURE).schema.shapes == {"image": (3, 8, 8)}
    assert Arrays(modes, image_mode="L", image_size=4).open(0, PICTURE).schema.shapes == {"image": (1, 4, 4)}


def test_pictures_of_every_kind() -> None:
    from PIL import Image

    grey = np.arange(64, dtype="uint8").reshape(8, 8)
    deep = Image.fromarray(grey.astype("uint16") * 256)  # 16 bits
    same = [
        grey,
        torch.from_numpy(grey),
        Image.fromarray(grey),
        deep,
        grey.astype("float64") / 255,
        grey[None],
    ]
    cleaned = [kinds.Image().clean(v) for v in same]
    assert all(
        torch.equal(c, cleaned[0]) and c.shape == (1, 8, 8) and c.dtype == torch.uint8 for c in cleaned
    )
    palette, alpha = Image.fromarray(grey).convert("P"), Image.fromarray(grey).convert("RGBA")
    assert kinds.Image().clean(palette).shape == kinds.Image().clean(alpha).shape == (3, 8, 8)
    assert kinds.Image().clean(Image.fromarray(grey > 9)).unique().tolist() == [0, 255]
    for bad in (
        "a.png",
        np.zeros((0, 3)),
        np.full((4, 4), -1.5),
        {"bytes": b"no picture"},
        np.zeros((9, 9, 9)),
    ):
        with pytest.raises(Unfit):
            kinds.Image().clean(bad)


def test_other_kinds() -> None:
    assert kinds.Labels().clean('["b", "a", "b", 1.0]') == ("1", "a", "b")
    assert kinds.Tags().clean(np.array(["O", "B"])) == ("O", "B")
    spans = [{"start": 3, "end": 5, "label": "x"}, (0, 2, "y")]
    assert kinds.Spans().clean(spans) == ((0, 2, "y"), (3, 5, "x")) and kinds.Spans().clean([]) == ()
    assert kinds.Reply().clean("[a] plain answer") == "[a] plain answer"
    for kind, bad in ((kinds.Spans(), [(2, 1, "x")]), (kinds.Labels(), "x"), (kinds.Array(), [[1], [2, 3]])):
        with pytest.raises(kinds.Wrong):
            kind.clean(bad)
