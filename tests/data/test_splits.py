"""Rows of the server and the public, per-party tests, what splits share, seeds, and partitions that leave rows out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bring import LM, TEXT, asked, chat, jsonl, labelled
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfm.data.arrays import Arrays
from fedfm.data.digits import Digits
from fedfm.data.files import Files
from fedfm.data.partition.iid import Iid
from fedfm.data.source import Partition
from fedfm.data.splits import opened, sample
from fedfm.data.wordnet_topics import WordnetTopics
from fedfm.tasks.quadratic import Quadratics
from fedfm.tasks.text.classify import SequenceClassification
from said import said


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def texts(*shards: Any) -> Counter[str]:
    return Counter(r["text"] for s in shards for r in s.rows)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=60), st.integers(0, 60), st.integers(0, 9))
def test_a_sample_has_of_every_kind_its_share(kinds: list[str], count: int, seed: int) -> None:
    count = min(count, len(kinds))
    chosen = sample(kinds, count, np.random.default_rng(seed))
    assert len(chosen) == len(set(chosen)) == count and chosen == sorted(chosen)
    of, all_ = Counter(kinds[i] for i in chosen), Counter(kinds)
    assert all(abs(of[k] - count * n / len(kinds)) < 1 for k, n in all_.items())


@pytest.mark.parametrize("spec", [WordnetTopics, Digits])
def test_server_and_public_rows_leave_the_test_set_and_are_balanced(spec: Any) -> None:
    pytest.importorskip("sklearn")
    plain, parties = spec(test_rows=200).open(0), spec(test_rows=200, server_rows=50, public_rows=30).open(0)
    assert [len(parties.server()), len(parties.public()), len(parties.test())] == [50, 30, 120]
    assert set(Counter(r["label"] for r in parties.server().rows).values()) == {5}
    ids = [id(r) for s in (parties.server(), parties.public(), parties.test()) for r in s.rows]
    assert len(set(ids)) == 200 and parties.shards == plain.shards
    digests = [
        spec(test_rows=200, **k).open(0).digest
        for k in ({}, {"server_rows": 50}, {"public_rows": 50}, {"server_rows": 51})
    ]
    assert len(set(digests)) == 4 and plain.digest == digests[0]


def test_server_rows_of_files_are_drawn_by_group_and_label() -> None:
    for p in ("a", "b", "c", "d"):
        jsonl(Path(f"d/{p}.jsonl"), labelled(40, also=f" {p}"))
    parties = Files("d", test_fraction=0.5, server_rows=24).open(0, TEXT)
    assert len(parties.server()) == 24 and len(parties.test()) == 56
    drawn = Counter((r["text"][-1], r["label"]) for r in parties.server().rows)
    held = Counter((r["text"][-1], r["label"]) for s in (parties.server(), parties.test()) for r in s.rows)
    assert all(abs(drawn[k] - n * 24 / 80) < 1 for k, n in held.items())
    own = [parties.test(p) for p in parties.ids]
    assert texts(*own) == texts(parties.test()) and not texts(*own) & texts(parties.server())


def test_what_is_missing_names_the_knob() -> None:
    jsonl(Path("d/a.jsonl"), labelled())
    parties = Files("d").open(0, TEXT)
    assert "data.server_rows=200" in said(parties.server) and "data.public_rows=200" in said(parties.public)
    assert "no party has test rows of its own" in said(
        lambda: Files("d", partition=Iid(2)).open(0, TEXT).test("party-0")
    )
    assert "there is no party with test rows 'x'" in said(lambda: parties.test("x"))
    message = said(lambda: Files("d", server_rows=3).open(0, TEXT))
    assert "data.server_rows=3 would leave no test row: 3 rows are held out" in message
    assert "leave one of them out" in said(lambda: Files("d", public=Files("d"), public_rows=1).open(0, TEXT))


def test_public_rows_of_their_own_source() -> None:
    jsonl(Path("d/a.jsonl"), labelled())
    jsonl(Path("p/x.jsonl"), labelled(6, also=" open"))
    parties = Files("d", public=Files("p")).open(0, TEXT)
    assert (
        texts(parties.public()) == Counter(r["text"] for r in labelled(6, also=" open"))
        and len(parties.test()) == 3
    )
    assert not parties.notes and parties.digest != Files("d").open(0, TEXT).digest
    assert any("public rows are also rows of" in n for n in Files("d", public=Files("d")).open(0, TEXT).notes)


def test_per_party_test_rows_are_the_union() -> None:
    rows = [{**r, "who": f"w{i % 3}"} for i, r in enumerate(labelled(60))]
    jsonl(Path("a.jsonl"), rows)
    parties = Files("a.jsonl", party_column="who").open(0, TEXT)
    assert texts(*(parties.test(i) for i in parties.ids)) == texts(parties.test())
    assert texts(parties.test(), parties.pooled()) == Counter(r["text"] for r in rows)
    jsonl(Path("t.jsonl"), labelled(4, also=" t"))
    apart = Files("a.jsonl", party_column="who", test_path="t.jsonl").open(0, TEXT)
    assert "no party has test rows" in said(lambda: apart.test("w0")) and len(apart.test()) == 4


def test_the_data_have_a_seed_of_their_own() -> None:
    jsonl(Path("a.jsonl"), labelled(40))
    one, two = Files("a.jsonl", seed=5), Files("a.jsonl")
    assert (
        one.open(0, TEXT).digest
        == one.open(1, TEXT).digest
        == two.open(5, TEXT).digest
        != two.open(0, TEXT).digest
    )
    assert (
        WordnetTopics(100, 40, Iid(2), seed=3).open(0).digest == WordnetTopics(100, 40, Iid(2)).open(3).digest
    )


# ---- what splits share ----------------------------------------------------------------------------------------
def test_rows_of_train_and_test_and_of_two_parties_are_compared() -> None:
    rows = labelled()
    jsonl(Path("train/a.jsonl"), rows)
    jsonl(Path("train/copy.jsonl"), rows)
    jsonl(Path("test/t.jsonl"), rows[:6] + labelled(4, also=" new"))
    notes = Files("train", test_path="test").open(0, TEXT).notes
    assert "6 of 10 test rows are also in the training rows (of a, copy)" in notes
    assert "the parties a, copy hold the same rows" in notes


def test_doubled_rows_are_counted_and_their_twins_in_the_test_too() -> None:
    jsonl(Path("a.jsonl"), labelled(20) * 2)
    jsonl(Path("b.jsonl"), labelled(20, also=" b"))
    parties = Files(("a.jsonl", "b.jsonl")).open(0, TEXT)
    notes = " ".join(parties.notes)
    held = texts(parties.test("a"))
    doubled = sum(n == 1 for n in held.values())
    assert f"{doubled} of {len(parties.test())} test rows are also in the training rows (of a)" in notes
    assert "training rows are duplicates of others of their party (a)" in notes
    jsonl(
        Path("c.jsonl"), [{**r, "group": g} for g in "xy" for r in asked()]
    )  # another group is no other row
    assert any(
        "are also in the training rows" in n for n in Files("c.jsonl", test_fraction=0.5).open(0, LM).notes
    )
    jsonl(Path("m.jsonl"), [chat(f"q{i % 5}", "a") for i in range(20)])
    assert any("are also in the training rows" in n for n in Files("m.jsonl").open(0, LM).notes)
    assert not Files("b.jsonl").open(0, TEXT).notes


# ---- partitions, sources --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Half(Partition):
    """Deals every second row."""

    whole = False

    def split(
        self, rows: Sequence[Mapping[str, Any]], labels: Sequence[str] | None, generator_seed: int
    ) -> dict[str, list[int]]:
        return {"p": list(range(0, len(rows), 2))}


@dataclass(frozen=True)
class Liar(Half):
    """Says that it deals every row."""

    whole = True


def test_rows_that_a_partition_leaves_out_are_lost_and_counted() -> None:
    parties = Arrays(labelled(20), partition=Half(), test_fraction=0.5).open(0, TEXT)
    assert parties.account.reasons() == {"dealt to nobody by Half": 5} and len(parties.train("p")) == 5
    message = said(lambda: Arrays(labelled(20), partition=Liar(), test_fraction=0.5).open(0, TEXT))
    assert "Liar says that it deals every row, and left 5 of 10 out" in message


def test_the_schema_holds_no_row() -> None:
    schema = Digits(40, 20, Iid(2)).open(0).schema
    assert (
        schema.labels == tuple("0123456789")
        and schema.shapes == {"image": (1, 8, 8)}
        and schema.columns == ("image", "label")
    )


def test_a_source_is_opened_as_its_task_reads_it() -> None:
    jsonl(Path("a.jsonl"), [{**r, "extra": 1} for r in labelled()])
    task = SequenceClassification()
    assert opened(Files("a.jsonl"), 0, task).columns == ("text", "label")
    assert "the task reads text, label" in said(lambda: opened(Quadratics(), 0, task))
