"""The data sets that have a name: bundled ones, and text sets of the extra."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from importlib import resources

import pytest

from fedfm.data.bundled.slices import balanced
from fedfm.data.chatterbot import Chatterbot
from fedfm.data.digits import Digits
from fedfm.data.fashion_mnist import CLASSES, FashionMnist
from fedfm.data.partition.iid import Iid
from fedfm.data.partition.shards import LabelShards
from fedfm.data.reasoning_gym import EASY, ReasoningGym, score
from fedfm.data.wordnet_topics import WordnetTopics
from said import said


# The bundled sets
def names() -> set[str]:
    return {f.name for f in (resources.files("fedfm.data") / "bundled").iterdir()}


@pytest.mark.parametrize(
    ("name", "notice"),
    [
        ("wordnet-topics", "WordNet 3.0 Copyright 2006 by Princeton University"),
        ("fashion-mnist", "Copyright © 2017 Zalando SE"),
    ],
)
def test_licence_and_card_ship(name: str, notice: str) -> None:
    folder = resources.files("fedfm.data") / "bundled"
    assert {f"{name}.LICENSE.txt", f"{name}.README.md"} <= names()
    assert notice in (folder / f"{name}.LICENSE.txt").read_text(encoding="utf-8")
    assert "licence" in (folder / f"{name}.README.md").read_text(encoding="utf-8")


def test_wordnet_slice() -> None:
    raw = gzip.decompress(
        (resources.files("fedfm.data") / "bundled" / "wordnet-topics.jsonl.gz").read_bytes()
    )
    rows = [json.loads(line) for line in raw.decode().splitlines()]
    count = Counter((r["split"], r["label"]) for r in rows)
    assert len(count) == 20 and {n for (s, _), n in count.items() if s == "train"} == {500}
    assert {n for (s, _), n in count.items() if s == "test"} == {100}
    texts = [r["text"].casefold() for r in rows]
    assert len(set(texts)) == 6000 and min(len(t.split()) for t in texts) >= 3


def test_wordnet_opened() -> None:
    opened = WordnetTopics().open(0)
    assert len(opened.ids) == 8 and len(opened.pooled()) == 4000 and len(opened.test()) == 400
    assert set(Counter(r["label"] for r in opened.pooled().rows).values()) == {400}
    assert set(Counter(r["label"] for r in opened.test().rows).values()) == {40}
    assert opened.columns == ("text", "label") and len(opened.labels or ()) == 10 and opened.groups == ()
    assert opened.digest == WordnetTopics().open(0).digest
    assert (
        opened.pooled() != WordnetTopics().open(1).pooled()
        and opened.test() == WordnetTopics().open(1).test()
    )
    small = WordnetTopics(train_rows=33, test_rows=3, partition=Iid(3)).open(5)
    assert len(small.pooled()) == 33 and len(small.test()) == 3 and len(small.labels or ()) == 10
    assert "train_rows is 5001" in said(lambda: WordnetTopics(train_rows=5001).open(0))


def test_fashion_mnist() -> None:
    torch = pytest.importorskip("torch")
    opened = FashionMnist(train_rows=6000, test_rows=1000, partition=Iid(4)).open(0)
    image = opened.train("party-0").rows[0]["image"]
    assert image.shape == (1, 28, 28) and image.dtype == torch.uint8
    assert set(Counter(r["label"] for r in opened.pooled().rows).values()) == {600}
    assert Counter(r["label"] for r in opened.test().rows) == dict.fromkeys(CLASSES, 100)
    assert (
        opened.labels == tuple(sorted(CLASSES))
        and opened.digest == FashionMnist(6000, 1000, Iid(4)).open(0).digest
    )


def test_digits() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    opened = Digits(partition=LabelShards(5, 2)).open(0)
    image = opened.test().rows[0]["image"]
    assert (
        image.shape == (1, 8, 8)
        and image.dtype == torch.uint8
        and max(r["image"].max() for r in opened.test().rows) > 200
    )
    assert len(opened.pooled()) == 1437 and len(opened.test()) == 360 and opened.labels == tuple("0123456789")
    assert set(Counter(r["label"] for r in Digits(100, 50, Iid(2)).open(1).pooled().rows).values()) == {10}


def test_balanced_passes_over_labels_that_run_out() -> None:
    labels = ["a"] * 5 + ["b"]
    assert balanced(labels, 4, None, what="n") == [0, 5, 1, 2]
    assert sorted(balanced(labels, 6, 3, what="n")) == [0, 1, 2, 3, 4, 5]


# Text sets of the extra
def test_chatterbot() -> None:
    pytest.importorskip("chatterbot_corpus")
    opened = Chatterbot().open(0)
    assert "coding" in opened.ids and "health" not in opened.ids
    assert opened.account.reasons()["topic with fewer than 20 rows"] > 0
    assert opened.columns == ("instruction", "answer", "group") and set(opened.groups) <= set(opened.ids)
    assert all(sum(r["group"] == topic for r in opened.test().rows) <= 12 for topic in opened.ids)
    assert not {r["instruction"].casefold() for r in opened.test().rows} & {
        r["instruction"].casefold() for r in opened.pooled().rows
    }
    assert opened.distribution()["coding"] == {"coding": len(opened.train("coding"))}
    assert opened.digest == Chatterbot().open(0).digest != Chatterbot().open(1).digest
    assert Chatterbot("french", min_rows=5).open(0).ids
    assert "did you mean 'english'" in said(lambda: Chatterbot("englsh").open(0))
    assert "lower min_rows" in said(lambda: Chatterbot(min_rows=10_000).open(0))


def test_reasoning_gym_rows_and_scores() -> None:
    pytest.importorskip("reasoning_gym")
    spec = ReasoningGym(rows_per_party=60, test_rows=20)
    opened = spec.open(0)
    assert opened.ids == opened.groups == spec.tasks == tuple(EASY)
    rows = (*opened.pooled().rows, *opened.test().rows)
    assert all(
        len(r["instruction"]) < 220 and len(r["answer"]) <= 12 and r["group"] == r["task"] for r in rows
    )
    assert [len(s) for s in opened.shards] == [60] * 8 and json.loads(json.dumps(rows)) == list(rows)
    for task in opened.ids:
        asked = [r["instruction"] for r in opened.test(task).rows]
        assert len(set(asked)) == len(asked) == 20
        assert not set(asked) & {r["instruction"] for r in opened.train(task).rows}
    assert opened.account.reasons()["chain_sum: training question that is in the test"] > 0
    assert {score(r, f" {r['answer']}\n") for r in rows} == {1.0}
    assert {score(r, f"the answer is {r['answer']}") for r in rows} == {0.0}  # part marks are none
    assert {score(r, "") for r in rows} == {0.0}
    assert opened.digest == spec.open(0).digest
    assert opened.test() == spec.open(1).test() and opened.pooled() != spec.open(1).pooled()


def test_reasoning_gym_errors() -> None:
    pytest.importorskip("reasoning_gym")
    message = said(lambda: ReasoningGym(("chain_sums", "gcd", "gcd"), {"lcm": {}}).open(0))
    for part in ("did you mean 'chain_sum'", "'gcd' is named twice", "config names 'lcm'"):
        assert part in message
    assert "it takes max_numbers, max_value" in said(
        lambda: ReasoningGym(("gcd",), {"gcd": {"top": 3}}).open(0)
    )
    assert "too few different questions" in said(
        lambda: ReasoningGym(("count_bits",), {"count_bits": {"max_n": 9}}).open(0)
    )
