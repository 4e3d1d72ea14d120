"""Which rows are held out: by party and by kind, chats whole, validation rows for the server, and one way to say it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from bring import LM, TEXT, chat, jsonl, labelled

from fedfm.config.text import override
from fedfm.core.errors import ConfigError
from fedfm.data import given
from fedfm.data.arrays import Arrays
from fedfm.data.files import Files
from fedfm.data.hub import Hub
from fedfm.data.partition.iid import Iid
from fedfm.data.source import Shard
from fedfm.data.splits import UNUSED
from fedfm.running.execute import configure
from said import said


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def texts(*shards: Shard) -> Counter[str]:
    return Counter(r["text"] for s in shards for r in s.rows)


def grouped(n: int = 60) -> list[dict[str, Any]]:
    return [{**r, "group": f"g{i % 3}"} for i, r in enumerate(labelled(n))]


# ---- own test rows --------------------------------------------------------------------------------------------
def test_own_test_rows_are_drawn_by_group_and_label_and_join_the_test_rows() -> None:
    parties = Arrays(grouped(), partition=Iid(2), test_fraction=0.0, own_test=0.4).open(0, TEXT)
    for i in parties.ids:
        mine = Counter((r["group"], r["label"]) for r in (*parties.train(i).rows, *parties.test(i).rows))
        drawn = Counter((r["group"], r["label"]) for r in parties.test(i).rows)
        assert all(abs(drawn[k] - 0.4 * n) < 1 for k, n in mine.items())
    assert (
        texts(parties.test()) == texts(*(parties.test(i) for i in parties.ids)) and len(parties.test()) == 24
    )
    assert parties.groups == ("g0", "g1", "g2")
    assert texts(parties.test(), parties.pooled()) == Counter(r["text"] for r in grouped())


@pytest.mark.parametrize("groups", [2, 3, 4])
def test_server_rows_are_drawn_by_group_and_label_and_are_no_test_rows(groups: int) -> None:
    """Whatever the period in which groups and labels follow each other: values and payments rest on these rows."""
    rows = [{**r, "group": f"g{i % groups}"} for i, r in enumerate(labelled(120))]
    parties = Arrays(rows, partition=Iid(2), test_fraction=0.4, server_rows=24).open(0, TEXT)
    held = Counter((r["group"], r["label"]) for r in (*parties.server().rows, *parties.test().rows))
    drawn = Counter((r["group"], r["label"]) for r in parties.server().rows)
    assert drawn.total() == 24 and held.total() == 48
    assert all(abs(drawn[k] - n / 2) <= 1 for k, n in held.items())
    assert not texts(parties.server()) & texts(parties.test())


def test_own_test_rows_beside_others() -> None:
    both = Arrays(labelled(40), partition=Iid(2), test_fraction=0.2, own_test=0.25).open(0, TEXT)
    own = texts(*(both.test(i) for i in both.ids))
    assert len(both.test()) == 8 + 8 and own < texts(both.test())
    apart = Arrays(labelled(40), labelled(6, also=" t"), partition=Iid(2), own_test=0.25).open(0, TEXT)
    assert len(apart.test()) == 6 and not own & texts(apart.test())  # what was given as the test set stays it
    served = Arrays(labelled(40), partition=Iid(2), test_fraction=0.0, own_test=0.5, server_rows=4)
    opened = served.open(0, TEXT)
    assert len(opened.server()) == 4 and len(opened.test()) == 16 == sum(
        len(opened.test(i)) for i in opened.ids
    )
    assert not texts(opened.server()) & texts(opened.test(), opened.pooled())


def test_a_chat_is_not_half_held_out() -> None:
    rows = [
        chat(f"q{i}", f"a{i}", f"and {i}?", f"b{i}", *(["so?", "no"] if i % 3 else [])) for i in range(30)
    ]
    for how in ({"own_test": 0.3}, {"test_fraction": 0.4, "server_rows": 12}):
        parties = Arrays({"p": rows}, **{"test_fraction": 0.0} | how).open(0, LM)
        parts = [parties.pooled(), parties.test()] + ([parties.server()] if "server_rows" in how else [])
        first = [
            {(r["history"][0]["content"] if "history" in r else r["instruction"]) for r in s.rows}
            for s in parts
        ]
        assert sum(map(len, first)) == 30 == len(set().union(*first)) and all(first)
    assert "no training row" in said(
        lambda: Arrays({"p": rows[:1]}, test_fraction=0.0, own_test=0.5).open(0, LM)
    )


# ---- validation rows ------------------------------------------------------------------------------------------
def test_validation_rows_in_memory() -> None:
    train, test, val = labelled(20), labelled(8, also=" t"), labelled(10, also=" v")
    data = given({"train": train, "validation": val, "test": test})
    parties = data.open(0, TEXT)
    assert parties.ids == ("party-0",) and len(parties.test()) == 8
    assert parties.account.reasons(split="server") == {UNUSED: 10}
    served = Arrays(train, test, val, server_rows=4).open(0, TEXT)
    assert texts(served.server()) < Counter(r["text"] for r in val) and len(served.test()) == 8
    assert texts(given({"train": train, "dev": val}).open(0, TEXT).test()) == Counter(r["text"] for r in val)
    odd = [*val, {"text": "x", "label": "odd"}]
    assert "'odd' is in the server rows only (1)" in said(
        lambda: Arrays(train, test, odd, server_rows=4).open(0, TEXT)
    )
    clinics = given({"train": train, "north": val})  # names of parties, one of them an unlucky one
    assert clinics.open(0, TEXT).ids == ("north", "train")


def test_validation_rows_of_a_saved_data_set() -> None:
    datasets = pytest.importorskip("datasets")
    parts = {"train": labelled(20), "validation": labelled(10, also=" v"), "test": labelled(8, also=" t")}
    sets = datasets.DatasetDict({k: datasets.Dataset.from_list(rows) for k, rows in parts.items()})
    sets.save_to_disk("d")
    served = Hub("d", server_split="validation", server_rows=5, partition=Iid(2)).open(0, TEXT)
    assert len(served.server()) == 5 and all(r["text"].endswith(" v") for r in served.server().rows)
    assert served.account.reasons(split="server") == {UNUSED: 5} and len(served.test()) == 8
    assert "no split 'val'" in said(lambda: Hub("d", server_split="val").open(0, TEXT))
    assert given(sets).open(0, TEXT).account.reasons(split="server") == {UNUSED: 10}


# ---- one way to say it ----------------------------------------------------------------------------------------
def test_test_rows_are_given_or_held_out_not_both() -> None:
    for make in (
        lambda: Files("d", test_path="t", test_fraction=0.3),
        lambda: Arrays(labelled(), labelled(), test_fraction=0.3),
        lambda: Hub("d", test_split="test", test_fraction=0.3),
    ):
        with pytest.raises(ValueError, match="two ways to say one thing"):
            make()
    assert Files("d", test_path="t").test_fraction is None and Files("d").test_fraction == 0.2
    assert Hub("d").test_fraction is None and Hub("d", test_fraction=0.1).test_split is None
    for make in (lambda: Files("d", test_path=""), lambda: Hub("d", test_split="")):
        with pytest.raises(ValueError, match="test_fraction"):
            make()
    jsonl(Path("d/a.jsonl"), labelled())
    jsonl(Path("t.jsonl"), labelled())
    one = configure("quickstart", ["data=files", "data.path=d", "data.test_path=t.jsonl"])
    assert one.config["data"]["test_fraction"] is None and one.config["data"]["test_path"].endswith("t.jsonl")
    with pytest.raises(ConfigError, match="data.test_path is set too"):
        configure(
            "quickstart", ["data=files", "data.path=d", "data.test_path=t.jsonl", "data.test_fraction=0.3"]
        )
    assert override({"data": {}}, ["data.test_path=null"]) == {"data": {"test_path": None}}


def test_a_fraction_beside_test_files_is_told() -> None:
    for split in ("train", "test"):
        jsonl(Path(f"d/{split}.jsonl"), labelled(also=split))
    assert (
        "data.test_fraction=0.3 is not used: there are test rows"
        in Files("d", test_fraction=0.3).open(0, TEXT).notes
    )
    assert not Files("d").open(0, TEXT).notes


# ---- turns that are read and not trained on -------------------------------------------------------------------
def test_assistants_turns_that_are_no_answers_are_counted() -> None:
    def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
        return {"role": role, "content": content, **more}

    call = [{"function": {"name": "weather", "arguments": {}}}]
    with_tool = [
        turn("assistant", "hello"),
        turn("user", "rain?"),
        turn("assistant", "", tool_calls=call),
        turn("tool", "yes"),
        turn("assistant", "it rains"),
        turn("user", "thanks"),
        turn("assistant", "welcome"),
    ]
    parties = Arrays({"p": [{"messages": with_tool}] * 3}, test_fraction=0.0).open(0, LM)
    assert [r["answer"] for r in parties.pooled().rows] == ["welcome"] * 3
    assert {m["role"] for m in parties.pooled().rows[0]["history"]} == {"user", "assistant", "tool"}
    said_ = {
        why.removeprefix("no answer to a user: an assistant's turn "): n
        for why, n in parties.account.reasons().items()
    }
    assert said_ == {
        "that opens the chat": 3,
        "that calls a tool without a word": 3,
        "behind a turn of tool": 3,
    }
    plain = Arrays({"p": [chat("q", "a")] * 4}, test_fraction=0.0).open(0, LM)
    assert plain.account.entries == ()
