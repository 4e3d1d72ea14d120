"""The task says what it reads: columns, maps, proposals, chats; what cannot be meant is refused with a fix that works."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bring import LM, TEXT, asked, chat, jsonl, labelled

from fedfm.config.text import override
from fedfm.core.schema import Column
from fedfm.data.chatterbot import Chatterbot
from fedfm.data.files import Files
from fedfm.data.kinds import ASSISTANT, Number, Text
from fedfm.data.wordnet_topics import WordnetTopics
from fedfm.tasks.text.preference import Preference
from said import said


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def offered(message: str) -> Any:
    """The column map that an error offers last."""
    fix = message.rsplit("fix: ", 1)[1].splitlines()[0]
    return override({"data": {}}, shlex.split(fix))["data"]["columns"]


# ---- maps -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["number", "input", "system", "labels"])
def test_a_mapped_column_that_the_task_does_not_read_is_refused(name: str) -> None:
    jsonl(Path("a.jsonl"), [{"s": "a", "l": "xy"[i % 2], "t": "b"} for i in range(12)])
    message = said(lambda: Files("a.jsonl", columns={"text": "s", "label": "l", name: "t"}).open(0, TEXT))
    assert f"the task does not read a column '{name}'" in message
    assert ("it reads text, text_pair, label, group" in message) or ("did you mean 'label'" in message)


def test_a_system_prompt_beside_a_question_or_a_chat_is_read() -> None:
    """It was dropped in silence beside ShareGPT's conversations, where other tools write it."""
    told = {"system": "talk like a pirate"}
    jsonl(Path("a.jsonl"), [{**r, **told} for r in asked()])
    jsonl(Path("b.jsonl"), [{**chat(f"ahoy {i}", "arr"), "system_prompt": told["system"]} for i in range(4)])
    jsonl(
        Path("c.jsonl"), [{"instruction": f"q{i}", "chosen": "a", "rejected": "b", **told} for i in range(4)]
    )
    for file, task in (("a.jsonl", LM), ("b.jsonl", LM), ("c.jsonl", Preference.columns)):
        parties = Files(file, test_fraction=0.0).open(0, task)
        assert {r["system"] for r in parties.pooled().rows} == {told["system"]} and not parties.notes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", "[{}]"),
        ("functions", "[{}]"),
        ("history", "[[1, 2]]"),
        ("context", "it rains"),
        ("weight", 2),
        ("reasoning", "hm"),
        ("thinking", "hm"),
    ],
)
def test_a_column_that_says_something_and_is_not_read_is_told(name: str, value: Any) -> None:
    jsonl(Path("a.jsonl"), [{**r, name: value, "id": i} for i, r in enumerate(asked())])
    (note,) = Files("a.jsonl", test_fraction=0.0).open(0, LM).notes
    assert note.startswith(f"the column '{name}' is not read: ")
    message = said(lambda: Files("a.jsonl", columns={name: name}).open(0, LM))
    assert f"the task does not read a column '{name}'" in message
    if value != 2 and name != "history":  # mapped to a column that is read, it is
        mapped = Files("a.jsonl", columns={"input": name}, test_fraction=0.0).open(0, LM)
        assert not mapped.notes and {r["input"] for r in mapped.pooled().rows} == {value}


@pytest.mark.parametrize("name", ["patient", "patient_id", "Subject", "userId", "session_no", "docid"])
def test_rows_of_one_person_on_both_sides_of_a_split_are_told(name: str) -> None:
    rows = [{**r, name: i // 3} for i, r in enumerate(labelled())]
    jsonl(Path("a.jsonl"), rows)
    (note,) = Files("a.jsonl").open(0, TEXT).notes
    assert f"rows of one '{name}' may be learnt from and tested on" in note and "data.test_path" in note
    jsonl(Path("b.jsonl"), [{**r, name: i} for i, r in enumerate(rows)])  # one row each: no harm
    assert not Files("b.jsonl").open(0, TEXT).notes
    jsonl(Path("t.jsonl"), rows[:4])
    assert not [n for n in Files("b.jsonl", test_path="t.jsonl").open(0, TEXT).notes if "one '" in n]
    assert not Files("a.jsonl", test_fraction=0.0).open(0, TEXT).notes


def test_a_mapped_column_that_nobody_has_is_missed_even_if_it_is_optional() -> None:
    jsonl(Path("a.jsonl"), asked())
    message = said(lambda: Files("a.jsonl", columns={"input": "context"}).open(0, LM))
    assert "there is no column 'context' (for 'input')" in message


def test_a_sentence_pair_is_read_where_the_task_has_it() -> None:
    rows = [{"premise": f"p{i}", "hypothesis": f"h{i}", "label": "yn"[i % 2]} for i in range(10)]
    jsonl(Path("a.jsonl"), rows)
    pair = tuple(replace(c, required=c.name != "group") for c in TEXT)
    opened = Files("a.jsonl", columns={"text": "premise", "text_pair": "hypothesis"}, test_fraction=0.0).open(
        0, pair
    )
    assert opened.pooled().rows[3] == {"text": "p3", "label": "n", "text_pair": "h3"}
    assert offered(said(lambda: Files("a.jsonl").open(0, pair))) == {
        "text": "premise",
        "text_pair": "hypothesis",
    }


def test_a_regression_reads_numbers() -> None:
    jsonl(Path("a.jsonl"), [{"text": f"t{i}", "score": i / 4 if i % 2 else str(i / 4)} for i in range(8)])
    task = (Column("text", Text()), Column("number", Number()))
    opened = Files("a.jsonl", columns={"number": "score"}, test_fraction=0.0).open(0, task)
    assert [r["number"] for r in opened.pooled().rows] == [i / 4 for i in range(8)]
    jsonl(Path("b.jsonl"), [{"text": "t", "score": s} for s in ("0,5", True, "x", 1e999)])
    message = said(lambda: Files("b.jsonl", columns={"number": "score"}).open(0, task))
    for part in ("decimal comma", "not a number but bool", "'x'", "which is not finite"):
        assert part in message


def test_one_column_under_several_names() -> None:
    jsonl(Path("d/a.jsonl"), asked(answer="output"))
    jsonl(Path("d/b.jsonl"), asked(answer="response"))
    for one in ("output", "response"):  # the fix for one party does not undo the other
        message = said(lambda one=one: Files("d", columns={"answer": one}).open(0, LM))
        assert offered(message)["answer"] == [one, "response" if one == "output" else "output"]
    opened = Files("d", columns={"answer": ["output", "response"]}).open(0, LM)
    assert opened.ids == ("a", "b") and opened.account.rows() == 0
    assert opened == opened and Files("d", columns=offered(message)).open(0, LM).ids == ("a", "b")
    # half of a party's rows under another name: none of them is lost
    jsonl(
        Path("e/a.jsonl"),
        [{"instruction": f"q{i}", ("output" if i % 2 else "response"): "x"} for i in range(20)],
    )
    assert Files("e", columns={"answer": "output"}).open(0, LM).account.reasons(party="a") == {
        "no answer": 10
    }
    both = Files("e", columns={"answer": ["output", "response"]}).open(0, LM)
    assert both.account.rows() == 0 and len(both.pooled()) == 16


def test_a_map_per_party() -> None:
    jsonl(Path("d/a.jsonl"), [{"q": "one", "r": str(i)} for i in range(6)])
    jsonl(
        Path("d/b.jsonl"), [{"r": "two", "q": str(i)} for i in range(6)]
    )  # the same names, the other way round
    columns = {"a": {"instruction": "q", "answer": "r"}, "b": {"instruction": "r", "answer": "q"}}
    opened = Files("d", columns=columns).open(0, LM)
    assert {r["instruction"] for r in opened.pooled().rows} == {"one", "two"}
    message = said(lambda: Files("d", columns={**columns, "c": {"answer": "r"}}).open(0, LM))
    assert "a map for 'c', which is no party" in message and "the parties are a, b" in message


@pytest.mark.parametrize("columns", [{1: "text"}, {"text": 1}, {"text": ""}, {"text": []}, {"text": [None]}])
def test_a_map_that_maps_no_column(columns: Any) -> None:
    jsonl(Path("a.jsonl"), labelled())
    assert "maps no column" in said(lambda: Files("a.jsonl", columns=columns).open(0, TEXT))


# ---- proposals: tried before they are offered -----------------------------------------------------------------
def test_a_file_without_a_header_gets_no_map() -> None:
    Path("n.csv").write_text("".join(f"{r['text'][:9]},{r['label']}\n" for r in labelled()))
    message = said(lambda: Files("n.csv").open(0, TEXT))
    assert "no header" in message and "data.columns=" not in message
    message = said(lambda: Files("n.csv", columns={"text": "good film", "label": "pos"}).open(0, TEXT))
    assert "n.csv:1: it looks as if there is no header" in message


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"prompt": "q", "chosen": "good", "rejected": "bad"}, "preference pairs"),
        (chat("a", "b"), "chats"),
        ({"conversations": [{"from": "human", "value": "a"}]}, "chats"),
        (asked()[0], "instructions"),
    ],
)
def test_rows_of_another_kind_are_named(row: dict[str, Any], what: str) -> None:
    jsonl(Path("a.jsonl"), [{"id": i, "kind": "xy"[i % 2], **row} for i in range(12)])
    message = said(lambda: Files("a.jsonl").open(0, TEXT))
    assert f"these rows are {what}; the task reads text, label" in message and "data.columns=" not in message


def test_a_column_of_identifiers_is_no_label() -> None:
    jsonl(Path("a.jsonl"), [{"text": f"t{i}", "id": i, "note": f"n{i}"} for i in range(12)])
    message = said(lambda: Files("a.jsonl").open(0, TEXT))
    assert "label: id" not in message and "label: note" not in message and "YOUR_COLUMN" in message


@pytest.mark.parametrize("other", ["site", "next", "context_id", "tex", "labels_by", "level"])
def test_a_column_that_sounds_a_little_alike_is_not_the_text(other: str) -> None:
    """Whoever took the offer `text: site` would have trained on the names of sites, and read a score of it."""
    rows = [
        {"review": r["text"], "stars": r["label"], other: f"ward-{i % 3}"} for i, r in enumerate(labelled())
    ]
    jsonl(Path("a.jsonl"), rows)
    assert offered(said(lambda: Files("a.jsonl").open(0, TEXT))) == {"text": "review", "label": "stars"}


def test_a_map_the_wrong_way_round_is_offered_the_right_way() -> None:
    jsonl(Path("a.jsonl"), [{"body": r["text"], "topic": r["label"]} for r in labelled()])
    message = said(lambda: Files("a.jsonl", columns={"body": "text", "topic": "label"}).open(0, TEXT))
    assert message.startswith("1 problem") and "the wrong way round" in message
    assert offered(message) == {"text": "body", "label": "topic"}
    assert Files("a.jsonl", columns=offered(message)).open(0, TEXT).labels == ("neg", "pos")


def test_every_map_that_is_offered_works() -> None:
    """Over many column names: what can be pasted opens, with every row."""
    for body in ("review", "Body", "note", "what, where", "a"):
        for topic in ("stars", "Class", "z", "kind of it"):
            rows = [{topic: r["label"], "n": i, body: r["text"]} for i, r in enumerate(labelled(24))]
            jsonl(Path("a.jsonl"), rows)
            columns = offered(said(lambda: Files("a.jsonl").open(0, TEXT)))
            opened = Files("a.jsonl", columns=columns, test_fraction=0.0).open(0, TEXT)
            assert columns == {"text": body, "label": topic} and len(opened.pooled()) == 24


# ---- chats ----------------------------------------------------------------------------------------------------
def test_messages_and_sharegpt_give_the_same_rows() -> None:
    talk = [("1+1?", "2", "and 1 more?", "3"), ("hello", "hi")]
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    rows = [chat(*t, system="be short" * (i % 2)) for i, t in enumerate(talk * 6)]
    share = [
        {
            "id": str(i),
            "conversations": [{"from": names[m["role"]], "value": m["content"]} for m in r["messages"]],
        }
        for i, r in enumerate(rows)
    ]
    jsonl(Path("m/a.jsonl"), rows)
    jsonl(Path("s/a.jsonl"), share)
    one, two = (Files(d).open(3, LM) for d in "ms")
    assert one.digest == two.digest and one.account.rows() == 0
    found = sorted((r["instruction"], r["answer"], len(r.get("history", ()))) for r in one.train("a").rows)
    assert set(found) == {("1+1?", "2", 0), ("and 1 more?", "3", 2), ("hello", "hi", 1)}
    later = next(r for r in one.train("a").rows if r["instruction"] == "hello")
    assert later["history"] == ({"role": "system", "content": "be short"},)
    # the rows of one chat are on one side of the split
    asked_ = {r["answer"] for r in one.test("a").rows}
    assert len(one.test("a")) == sum(2 if a == "2" else 1 for a in asked_ if a != "3") or len(asked_) == 1


def test_without_a_task_a_chat_stays_whole() -> None:
    jsonl(Path("a.jsonl"), [chat("a", "b", "c", "d")] * 5)
    row = Files("a.jsonl").open(0).pooled().rows[0]
    assert [m["content"] for m in row["messages"]] == list("abcd") and set(row) == {"messages"}


def test_odd_chats_are_left_out_or_refused() -> None:
    tool = [
        {"role": "user", "content": "weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "w", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "rain"},
        {"role": "assistant", "content": "It rains."},
        {"role": "user", "content": [{"type": "text", "text": "And "}, {"type": "text", "text": "now?"}]},
        {"role": "assistant", "content": "Sun."},
    ]
    jsonl(
        Path("a.jsonl"),
        [{"messages": tool}] * 4 + [chat("a")] * 2 + [{"messages": []}, {"messages": tool[:2]}],
    )
    opened = Files("a.jsonl", test_fraction=0.0).open(0, LM)
    assert {(r["instruction"], r["answer"], len(r["history"])) for r in opened.pooled().rows} == {
        ("And now?", "Sun.", 4)
    }
    assert opened.account.reasons(party="a") == {
        "messages: a chat without an assistant's turn": 2,
        "messages: an empty list": 1,
        "messages: a chat in which every answer calls a tool or follows its turn: how tools are used is not learnt": 1,
        f"{ASSISTANT} that calls a tool without a word": 4,
        f"{ASSISTANT} behind a turn of tool": 4,
    }
    bad: list[Any] = [["x"], [{"text": "x"}], [{"role": "user", "content": 3}], "[{", "hello"]
    jsonl(Path("b.jsonl"), [{"messages": m} for m in bad])
    message = said(lambda: Files("b.jsonl").open(0, LM))
    for part in (
        "a turn that is str",
        "a turn without a role",
        "whose content is int",
        "not a list of turns",
    ):
        assert part in message
    assert message.count("b.jsonl:") == 5


def test_a_data_set_of_another_kind_is_refused_for_every_source() -> None:
    assert "the task reads instruction, answer" in said(lambda: WordnetTopics().open(0, LM))
    pytest.importorskip("chatterbot_corpus")
    assert "and no text or label" in said(lambda: Chatterbot().open(0, TEXT))


@pytest.mark.parametrize("column", ["label", "topic"])
def test_labels_that_are_lists_are_one_problem_a_file(column: str) -> None:
    jsonl(Path("a.jsonl"), [{"text": f"t{i}", column: ["x", "y"][: i % 3]} for i in range(12)])
    jsonl(Path("b.jsonl"), [{"text": f"t{i}", column: "xy"[i % 2]} for i in range(12)])
    columns = {} if column == "label" else {"label": column}
    message = said(lambda: Files("*.jsonl", columns=columns).open(0, TEXT))
    assert message.startswith("1 problem") and f"'{column}' is a list in 12 of 12 rows" in message
    assert "one class a row" in message and "('a+b')" in message


def test_columns_of_marks_are_told_that_one_class_is_learnt() -> None:
    rows = [{"text": f"t{i}", "rude": i % 2, "spam": (i // 2) % 2} for i in range(12)]
    jsonl(Path("a.jsonl"), rows)
    message = said(lambda: Files("a.jsonl").open(0, TEXT))
    assert "rude, spam are marks of several classes a row, and one is learnt" in message
    assert offered(message) == {"label": "rude"}


def test_a_group_of_test_rows_keeps_no_person_on_one_side() -> None:
    jsonl(Path("a.jsonl"), [{**r, "patient": f"p{i // 3}"} for i, r in enumerate(labelled())])
    notes = Files("a.jsonl", test_group="patient").open(0, TEXT).notes
    assert any("rows of one 'patient' may be learnt from and tested on" in n for n in notes)
