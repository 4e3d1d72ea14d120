"""Columns of objects and lists where a cell is meant: one fault, and a line that makes cells of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bring import LM, TEXT, jsonl, labelled

from fedfm.data.arrays import Arrays
from fedfm.data.files import Files
from said import said


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


ROWS = labelled(24)
MADE: dict[str, Any] = {  # rows, the settings that they are read with, and the parties that they mean
    "inside": ([{"id": i, "data": r} for i, r in enumerate(ROWS)], {}, ("x",)),
    "party object": (
        [{**r, "by": {"at": i, "name": f"u{i % 2}"}} for i, r in enumerate(ROWS)],
        {"party_column": "by"},
        ("u0", "u1"),
    ),
    "party list": (
        [{**r, "by": [f"u{i % 2}", "z"]} for i, r in enumerate(ROWS)],
        {"party_column": "by"},
        ("u0", "u1"),
    ),
    "label object": (
        [{"text": r["text"], "label": {"id": i, "name": r["label"], "at": None}} for i, r in enumerate(ROWS)],
        {},
        ("x",),
    ),
    "mapped object": (
        [{"body": {"raw": r["text"], "n": 3}, "topic": r["label"]} for r in ROWS],
        {"columns": {"text": "body", "label": "topic"}},
        ("x",),
    ),
    "text list": ([{"text": r["text"].split(), "label": r["label"]} for r in ROWS], {}, ("x",)),
}


def settings(told: str) -> dict[str, str]:
    fix = told.split("fix: ")[1].split("\n")[0]
    line, then = fix.rsplit("; then ", 1)
    assert subprocess.run(line, shell=True, check=True, capture_output=True).returncode == 0
    return dict(s.removeprefix("data.").split("=", 1) for s in then.split(" "))


def write(form: str, rows: list[Any], path: str = "x") -> str:
    if form == "jsonl":
        return str(jsonl(Path(f"{path}.jsonl"), rows))
    if form in ("wrapped", "columns"):
        table = {k: [r[k] for r in rows] for k in rows[0]}
        Path(f"{path}.json").write_text(json.dumps(table if form == "columns" else {"v": 1, "rows": rows}))
        return f"{path}.json"
    if form == "lines":
        jsonl(Path(f"{path}.json"), rows)
        return f"{path}.json"
    if form == "json":
        Path(f"{path}.json").write_text(json.dumps(rows))
        return f"{path}.json"
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.Table.from_pylist(rows), f"{path}.parquet")
    return f"{path}.parquet"


@pytest.mark.parametrize("form", ["jsonl", "json", "wrapped", "columns", "lines", "parquet"])
@pytest.mark.parametrize("name", MADE)
def test_a_nested_column_is_one_fault_and_the_line_makes_cells_of_it(name: str, form: str) -> None:
    rows, how, parties = MADE[name]
    path = write(form, rows)
    told = said(lambda: Files(path, **how).open(0, TEXT))
    assert told.count("fix: ") == 1 and " -c " in told
    found = Files(**{**how, **settings(told)}, test_fraction=0.0).open(0, TEXT)
    assert found.ids == parties and found.labels == ("neg", "pos")
    assert {r["text"] for r in found.pooled().rows} == {r["text"] for r in ROWS}


@pytest.mark.parametrize("name", MADE)
def test_rows_in_memory_are_given_an_expression(name: str) -> None:
    rows, how, parties = MADE[name]
    told = said(lambda: Arrays(rows, **how).open(0, TEXT))
    mended = eval(told.split("fix: ")[1].split("\n")[0], {"rows": rows})
    found = Arrays(mended, **how, test_fraction=0.0).open(0, TEXT)
    assert len(found.pooled()) == 24 and (found.ids == parties or parties == ("x",))


def test_files_of_parties_and_test_files_are_one_line_each() -> None:
    for who in ("a", "b c"):
        write("jsonl", [{"data": {**r, "text": f"{r['text']} {who}"}} for r in ROWS], who)
    Path("held").mkdir()
    write("jsonl", [{"data": {**r, "text": f"{r['text']} t"}} for r in ROWS[:6]], "held/a")
    found = Files(**settings(said(lambda: Files("*.jsonl", test_path="held").open(0, TEXT)))).open(0, TEXT)
    assert found.ids == ("a", "b c") and len(found.test()) == 6 and len(found.pooled()) == 48


def test_many_files_of_one_folder_are_a_pattern() -> None:
    Path("d").mkdir()
    for i in range(12):
        write("jsonl", [{"data": {**r, "text": f"{r['text']} {i}"}} for r in ROWS], f"d/p{i}")
    told = said(lambda: Files("d").open(0, TEXT))
    assert "d/*.jsonl; then data.path=flat" in told
    assert len(Files(**settings(told)).open(0, TEXT).ids) == 12


def test_lists_of_texts_of_a_leaf_user() -> None:
    users = {
        u: {"x": [r["text"].split() for r in ROWS], "y": [r["label"] for r in ROWS]} for u in ("f0", "f1")
    }
    Path("x.json").write_text(json.dumps({"users": list(users), "num_samples": [24, 24], "user_data": users}))
    how = {"columns": {"text": "x", "label": "y"}}
    told = said(lambda: Files("x.json", **how).open(0, TEXT))
    found = Files(**how, **settings(told), test_fraction=0.0).open(0, TEXT)
    assert found.ids == ("f0", "f1") and found.train("f0").rows[0]["text"] == ROWS[0]["text"]


@pytest.mark.parametrize("odd", [{"raw": "t"}, ["t"], 3])
def test_one_odd_cell_is_told_of_its_row(odd: Any) -> None:
    told = said(lambda: Arrays([{**ROWS[0], "text": odd}, *ROWS[1:]]).open(0, TEXT))
    assert "train:1: 'text' is not text" in told and "holds" not in told


ANSWERS: dict[str, Any] = {
    "list": lambda i: [f"it is {i}", "kilo"],
    "squad": lambda i: {"answer_start": [i], "text": [f"it is {i}", "kilo"]},
    "object": lambda i: {"id": i, "text": f"it is {i}"},
}


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("column", ["answers", "answer"])
def test_of_several_answers_the_first_is_the_answer(kind: str, column: str) -> None:
    rows = [{"instruction": f"what is {i}", column: ANSWERS[kind](i)} for i in range(12)]
    how = {"columns": {"answer": column}}
    made = said(lambda: Arrays(rows, **how).open(0, LM)).split("fix: ")[1].split("\n")[0]
    memory = Arrays(eval(made, {"rows": rows}), **how, test_fraction=0.0).open(0, LM)
    line = settings(said(lambda: Files(write("jsonl", rows), **how).open(0, LM)))
    files = Files(**line, **how, test_fraction=0.0).open(0, LM)
    assert [r["answer"] for r in memory.pooled().rows] == [f"it is {i}" for i in range(12)]
    assert files.pooled().rows == memory.pooled().rows


@pytest.mark.parametrize(
    "column", ["choices", "options", "option_a", "passage", "article", "supporting_facts", "context"]
)
def test_what_a_question_is_about_is_told_where_no_prompt_holds_it(column: str) -> None:
    rows = [{"instruction": f"what is {i}", "answer": "a", column: f"text {i}"} for i in range(12)]
    notes = Arrays(rows).open(0, LM).notes
    assert f"the column '{column}' is not read: no prompt holds it; put it into `input`" in notes
    asked = Arrays(rows, columns={"input": column}).open(0, LM)
    assert not any("no prompt" in n for n in asked.notes) and "input" in asked.columns
    if column != "context":
        labels = [{**r, column: "x"} for r in labelled(12)]
        assert not any("prompt" in n for n in Arrays(labels).open(0, TEXT).notes)


def test_a_question_and_its_answer_under_headings_are_parted() -> None:
    text = "Below is an instruction.\n\n### Instruction:\nsay {0}\n\n### Input:\nhow\n\n### Response:\nok {0}"
    rows = [{"text": text.format(i)} for i in range(12)]
    made = said(lambda: Arrays(rows).open(0, LM)).split("fix: ")[1].split("\n")[0]
    opened = Arrays(eval(made, {"rows": rows}), test_fraction=0.0).open(0, LM).pooled().rows
    line = settings(said(lambda: Files(write("jsonl", rows)).open(0, LM)))
    assert Files(**line, test_fraction=0.0).open(0, LM).pooled().rows == opened
    assert opened[3]["answer"] == "ok 3" and opened[3]["instruction"] == "say 3\n\n### Input:\nhow"


def test_one_label_a_row_in_a_column_called_labels_is_proposed_as_the_label() -> None:
    rows = [{"text": r["text"], "labels": r["label"]} for r in ROWS]
    told = said(lambda: Arrays(rows).open(0, TEXT))
    assert "fix: 'data.columns={label: labels}'" in told
    assert "data.columns={label: YOUR_COLUMN}, for a row has one" in said(lambda: Arrays(rows).open(0, None))
    assert Arrays(rows, columns={"label": "labels"}).open(0, TEXT).labels == ("neg", "pos")
    listed = [{**r, "labels": ["a", "b"]} for r in rows]
    assert "data.columns" not in said(lambda: Arrays(listed).open(0, TEXT))


def test_chats_whose_answers_all_use_tools_say_that_this_is_not_learnt() -> None:
    turns = [("user", "q"), ("assistant", ""), ("tool", "r"), ("assistant", "a")]
    chat: Any = [{"role": r, "content": c} for r, c in turns]
    chat[1]["tool_calls"] = [{"name": "f"}]
    assert "how tools are used is not learnt" in said(lambda: Arrays([{"messages": chat}] * 8).open(0, LM))
