"""The data slot: shards, partitions, the user's files, the bundled sets, and what their errors say."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import hashlib
import json
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfm.core import registry
from fedfm.core.errors import DataError, MissingExtra
from fedfm.data.bundled.slices import balanced
from fedfm.data.chatterbot import Chatterbot
from fedfm.data.digits import Digits
from fedfm.data.fashion_mnist import CLASSES, FashionMnist
from fedfm.data.files import Files
from fedfm.data.hub import Hub
from fedfm.data.partition.by_field import ByField
from fedfm.data.partition.deal import apportion
from fedfm.data.partition.dirichlet import Dirichlet
from fedfm.data.partition.iid import Iid
from fedfm.data.partition.quantity import Quantity
from fedfm.data.partition.shards import LabelShards
from fedfm.data.reasoning_gym import EASY, ReasoningGym, score
from fedfm.data.source import Parties, Partition, Shard, Source, group_rows, natural
from fedfm.data.wordnet_topics import WordnetTopics
from fedfm.running.cards import describe

quick = settings(max_examples=25, deadline=None)


def labelled(n: int, classes: int = 5) -> tuple[list[dict[str, Any]], list[str]]:
    rows = [{"text": f"row {i}", "label": f"c{i * 7 % classes}"} for i in range(n)]
    return rows, [r["label"] for r in rows]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def said(call: Any) -> str:
    with pytest.raises(DataError) as caught:
        call()
    return str(caught.value)


# Shards and parties


def test_digest_is_of_the_content_in_order() -> None:
    a, b = {"text": "x", "label": "1"}, {"label": "1", "text": "x"}
    assert Shard("p", (a,)).digest == Shard("q", (b,)).digest  # neither key order nor party
    assert Shard("p", (a,)) != Shard("q", (b,)) and Shard("p", (a,)) == Shard("p", (b,))
    assert Shard("p", (a, {"text": "y"})).digest != Shard("p", ({"text": "y"}, a)).digest
    # Derived by hand: the canonical line is {"label":"1","text":"x"} and a line break.
    assert Shard("p", (a,)).digest == hashlib.sha256(b'{"label":"1","text":"x"}\n').hexdigest()


def test_digest_sees_pixels_and_shape() -> None:
    zero = np.zeros((1, 2, 2), np.uint8)
    digest = [
        Shard("p", ({"image": x},)).digest
        for x in (zero, zero + 1, zero.reshape(1, 4, 1), zero.astype(np.int8))
    ]
    assert len(set(digest)) == 4
    torch = pytest.importorskip("torch")
    assert Shard("p", ({"image": torch.from_numpy(zero)},)).digest == digest[0]


def test_shard_is_small_to_print_and_frozen() -> None:
    shard = Shard("p", ({"text": "secret", "label": "1"}, {"text": "b", "input": "c"}))
    assert "secret" not in repr(shard) and len(shard) == 2 and shard.columns == ("text", "label", "input")
    with pytest.raises(dataclasses.FrozenInstanceError):
        shard.party = "q"  # type: ignore[misc]


def test_parties_views() -> None:
    rows = [{"text": str(i), "label": "ab"[i % 2]} for i in range(6)]
    parties = Parties(
        (Shard("x", tuple(rows[:4])), Shard("y", tuple(rows[4:]))),
        (Shard("g", tuple(rows[:3])), Shard("h", tuple(rows[3:4]))),
    )
    assert parties.ids == ("x", "y") and parties.groups == ("g", "h")
    assert parties.pooled().rows == tuple(rows)
    assert parties.test("h").rows == (rows[3],)
    assert parties.test().rows == (rows[0], rows[3], rows[1], rows[2])  # in turns
    assert parties.distribution() == {"x": {"a": 2, "b": 2}, "y": {"a": 1, "b": 1}}
    assert "did you mean 'x'" in said(lambda: parties.train("xx"))
    assert "test group 'k'" in said(lambda: parties.test("k"))
    assert Parties((Shard("x", ({"text": "t"},)),)).distribution() == {"x": {"rows": 1}}
    assert len(Parties(parties.shards).test()) == 0


def test_natural_order_and_groups() -> None:
    assert sorted(["p10", "p2", "a", "2", "p"], key=natural) == ["2", "a", "p", "p2", "p10"]
    assert [s.party for s in group_rows([{"group": "b"}, {"group": "a"}])] == ["a", "b"]
    assert [s.party for s in group_rows([{"group": "b"}, {}])] == [""]


# Partitions


ALL = [Dirichlet(0.3, 4, 3), LabelShards(4, 2), Iid(4), Quantity(4, 0.5), ByField("label")]


@quick
@given(st.integers(24, 200), st.integers(0, 2**31), st.sampled_from(ALL))
def test_every_row_once_nobody_empty(n: int, seed: int, partition: Partition) -> None:
    rows, labels = labelled(n)
    split = partition.split(rows, labels, seed)
    assert sorted(i for part in split.values() for i in part) == list(range(n))
    assert all(split.values()) and all(part == sorted(part) for part in split.values())
    assert all(type(i) is int for part in split.values() for i in part)
    assert split == partition.split(rows, labels, seed)
    assert isinstance(partition, ByField) or list(split) == [f"party-{k}" for k in range(4)]


@pytest.mark.parametrize("partition", ALL[:4], ids=lambda p: p.method_name)
def test_other_seeds_divide_otherwise(partition: Partition) -> None:
    rows, labels = labelled(100)
    assert len({json.dumps(partition.split(rows, labels, s)) for s in range(5)}) == 5


@quick
@given(st.integers(1, 9), st.integers(9, 90), st.integers(0, 99))
def test_iid_sizes(parties: int, n: int, seed: int) -> None:
    sizes = [len(x) for x in Iid(parties).split([{}] * n, None, seed).values()]
    assert max(sizes) - min(sizes) <= 1


@quick
@given(st.floats(0.05, 10), st.integers(0, 99), st.integers(1, 20))
def test_dirichlet_least_size(alpha: float, seed: int, least: int) -> None:
    rows, labels = labelled(100)
    assert min(map(len, Dirichlet(alpha, 5, least).split(rows, labels, seed).values())) >= least


def skew(partition: Partition, seed: int, n: int = 2000, classes: int = 10) -> float:
    """Mean total variation distance between a party's labels and the global ones."""
    rows, labels = labelled(n, classes)
    distances = []
    for part in partition.split(rows, labels, seed).values():
        share = np.array([sum(labels[i] == f"c{c}" for i in part) for c in range(classes)]) / len(part)
        distances.append(np.abs(share - 1 / classes).sum() / 2)
    return float(np.mean(distances))


def test_dirichlet_moves_from_even_to_one_label() -> None:
    mean = [np.mean([skew(Dirichlet(a, 5, 1), s) for s in range(4)]) for a in (0.02, 0.5, 100)]
    assert mean[0] > 0.6 > mean[1] > 0.2 and mean[2] < 0.06


def test_dirichlet_share_has_the_variance_of_the_law() -> None:
    # Var p_k = (1/K)(1 - 1/K) / (K alpha + 1) for a symmetric Dirichlet; K = 4, alpha = 1: 0.1875 / 5 =
    # 0.0375. 200 seeds x 5 labels = 1,000 draws; the standard error of the variance is below 5 %.
    rows, labels = labelled(1000)
    shares = []
    for seed in range(200):
        first = Dirichlet(1.0, 4, 1).split(rows, labels, seed)["party-0"]
        shares += [sum(labels[i] == f"c{c}" for i in first) / 200 for c in range(5)]
    assert np.mean(shares) == pytest.approx(0.25, abs=0.02)
    assert np.var(shares) == pytest.approx(0.0375, rel=0.2)


def test_shards_limit_the_labels() -> None:
    rows, labels = labelled(1000, 10)
    split = LabelShards(10, 2).split(rows, labels, 0)
    # 20 shards of 50 in 10 labels of 100: no shard holds two labels.
    assert all(len({labels[i] for i in part}) <= 2 and len(part) == 100 for part in split.values())


def test_quantity_skews_sizes_not_labels() -> None:
    rows, labels = labelled(2000, 4)
    split = Quantity(6, 0.4).split(rows, labels, 3)
    sizes = [len(p) for p in split.values()]
    assert max(sizes) > 5 * min(sizes)
    for part in split.values():
        count = Counter(labels[i] for i in part)
        assert max(count.values()) - min(count.get(f"c{c}", 0) for c in range(4)) <= 2


def test_apportion_is_exact() -> None:
    assert apportion(np.array([0.5, 0.3, 0.2]), 7).tolist() == [
        4,
        2,
        1,
    ]  # 3.5, 2.1, 1.4: the largest remainder
    assert apportion(np.array([1 / 3] * 3), 10).sum() == 10


def test_by_field_names_and_order() -> None:
    rows = [{"site": s} for s in (10, 2, 2, 1)]
    assert ByField("site").split(rows, None, 0) == {"1": [3], "2": [1, 2], "10": [0]}


def test_partition_errors() -> None:
    rows, labels = labelled(20)
    assert "20 rows cannot give 4 parties at least 10 each (40 are needed)" in said(
        lambda: Dirichlet(0.5, 4, 10).split(rows, labels, 0)
    )
    assert "use iid or quantity" in said(lambda: Dirichlet(0.5, 2, 1).split(rows, None, 0))
    assert "no labels" in said(lambda: LabelShards(2, 2).split(rows, None, 0))
    assert "cannot give 21 parties" in said(lambda: Iid(21).split(rows, labels, 0))
    assert "cannot give 21 parties" in said(lambda: Quantity(21).split(rows, labels, 0))
    assert "parties is 0" in said(lambda: Iid(0).split(rows, labels, 0))
    assert "alpha is 0" in said(lambda: Dirichlet(0, 2, 1).split(rows, labels, 0))
    assert "did you mean 'label'" in said(lambda: ByField("labels").split(rows, labels, 0))
    assert "1 of 2 rows have no 'a'" in said(lambda: ByField("a").split([{"a": 1}, {"a": None}], None, 0))
    assert "no rows" in said(lambda: ByField("a").split([], None, 0))


# The user's files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def site(k: int, n: int = 20) -> list[dict[str, Any]]:
    return [{"text": f"site {k} row {i}", "label": "ab"[i % 2]} for i in range(n)]


def test_one_file_is_one_party(folder: Path) -> None:
    for k in (1, 2, 10):
        write(folder / f"party-{k}.jsonl", site(k))
    parties = Files("party-*.jsonl").open(0)
    assert parties.ids == parties.groups == ("party-1", "party-2", "party-10")
    assert parties.labels == ("a", "b") and parties.columns == ("text", "label") and parties.dropped == {}
    for k in (1, 2, 10):
        train, test = parties.train(f"party-{k}").rows, parties.test(f"party-{k}").rows
        assert (len(train), len(test)) == (16, 4)
        assert sorted(r["text"] for r in train + test) == sorted(r["text"] for r in site(k))
    assert parties.digest == Files("party-*.jsonl").open(0).digest != Files("party-*.jsonl").open(1).digest
    assert Files(str(folder)).open(0).digest == parties.digest
    assert Files(("party-1.jsonl", "party-2.jsonl")).open(0).ids == ("party-1", "party-2")
    # A party that reads only its own file gets the rows that the simulation gives it.
    assert Files("party-2.jsonl").open(0).train("party-2").digest == parties.train("party-2").digest


def test_formats_give_the_same_rows(folder: Path) -> None:
    rows = [{"body": f'é, "{i}";\nsecond line\u2028x', "topic": "ab"[i % 2], "ward": "w"} for i in range(12)]
    write(folder / "j" / "x.jsonl", rows)
    for name, mark in (("c/x.csv", ","), ("t/x.tsv", "\t"), ("s/x.csv", ";")):
        (folder / name).parent.mkdir()
        with open(folder / name, "w", newline="", encoding="utf-8-sig") as f:
            out = csv.DictWriter(f, list(rows[0]), delimiter=mark)
            out.writeheader()
            out.writerows(rows)
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (folder / "p").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "p" / "x.parquet")
    columns = {"text": "body", "label": "topic"}
    opened = {d: Files(f"{d}/x.*", columns=columns).open(3) for d in "jctsp"}
    assert len({p.digest for p in opened.values()}) == 1
    assert opened["j"].columns == ("text", "label")  # the ward stays in the file
    assert sorted(r["text"] for r in (*opened["c"].pooled().rows, *opened["c"].test().rows)) == sorted(
        r["body"] for r in rows
    )


def test_test_files_groups_and_party_column(folder: Path) -> None:
    rows = [{"text": f"t{i}", "label": "ab"[i % 2], "who": f"w{i % 3}"} for i in range(30)]
    write(folder / "all.jsonl", [*rows, {"text": "t", "label": "a"}])
    tests = [{"text": "u", "label": "a", "kind": "k1"}, {"text": "v", "label": "b", "kind": "k2"}]
    write(folder / "test.jsonl", [*tests, {"text": "w", "label": "b"}])
    opened = Files("*.jsonl", party_column="who", test_path="test.jsonl", test_group="kind").open(0)
    assert opened.ids == ("w0", "w1", "w2") and [len(s) for s in opened.shards] == [10, 10, 10]
    assert opened.groups == ("k1", "k2") and [r["text"] for r in opened.test("k2").rows] == ["v"]
    assert opened.dropped == {"no party": 1, "no group": 1}
    # Without a column, several test files are the groups, and one is no group.
    write(folder / "tests" / "x.jsonl", tests)
    write(folder / "tests" / "y.jsonl", tests[:1])
    assert Files("all.jsonl", test_path="tests").open(0).groups == ("x", "y")
    assert Files("all.jsonl", test_path="tests/x.jsonl", partition=Iid(2)).open(0).groups == ()
    assert len(Files("all.jsonl", test_path="tests", partition=Iid(2)).open(0).test("x")) == 2
    assert "no column 'kid'" in said(lambda: Files("all.jsonl", test_path="tests", test_group="kid").open(0))
    # Held out at random, the groups are those of everybody's rows.
    assert Files("all.jsonl", party_column="who", test_group="label").open(0).groups == ("a", "b")


def test_partition_of_pooled_files(folder: Path) -> None:
    write(folder / "all.jsonl", [{**r, "site": f"s{i % 4}"} for i, r in enumerate(site(0, 100))])
    opened = Files("all.jsonl", partition=Dirichlet(1.0, 3, 5)).open(0)
    assert (
        opened.ids == ("party-0", "party-1", "party-2") and len(opened.test()) == 20 and opened.groups == ()
    )
    assert Files("all.jsonl", partition=ByField("site")).open(0).ids == ("s0", "s1", "s2", "s3")


def test_same_stem_in_two_folders(folder: Path) -> None:
    for name in ("hospital-a", "hospital-b"):
        write(folder / name / "train.jsonl", site(1))
    assert Files("*/train.jsonl").open(0).ids == ("hospital-a-train", "hospital-b-train")
    (folder / "hospital-a" / "train.csv").write_text("text,label\nx,a\n")
    assert "a second file gives the party" in said(lambda: Files("hospital-a/train.*").open(0))


def test_instruction_rows_and_counts(folder: Path) -> None:
    rows = [{"prompt": f"q{i}", "output": i, "input": "" if i else "ctx"} for i in range(10)]
    write(
        folder / "a.jsonl",
        [*rows, {"prompt": "  ", "output": "x"}, {"prompt": "q", "output": None}, {"output": "y"}],
    )
    opened = Files("a.jsonl", columns={"instruction": "prompt", "answer": "output"}, test_fraction=0.0).open(
        0
    )
    assert opened.train("a").rows[0] == {"instruction": "q0", "answer": "0", "input": "ctx"}
    assert opened.train("a").rows[1] == {"instruction": "q1", "answer": "1"}
    assert opened.dropped == {"no instruction": 2, "no answer": 1} and opened.labels is None
    assert len(opened.test()) == 0


def test_plain_text_when_only_text_is_mapped(folder: Path) -> None:
    write(folder / "a.jsonl", [{"body": f"t{i}"} for i in range(5)])
    assert Files("a.jsonl", columns={"text": "body"}).open(0).columns == ("text",)


def test_label_types(folder: Path) -> None:
    write(folder / "a.jsonl", [{"text": "x", "label": v} for v in (1, 1.0, True, " 1 ", "1")])
    assert Files("a.jsonl", test_fraction=0.0).open(0).labels == ("1", "True")


def test_nothing_matches(folder: Path) -> None:
    write(folder / "hospital-1.jsonl", site(1))
    message = said(lambda: Files("party-*.jsonl").open(0))
    assert (
        "no file matches 'party-*.jsonl'" in message
        and str(folder) in message
        and "hospital-1.jsonl" in message
    )
    assert "there is no folder 'gone'" in said(lambda: Files("gone/*.csv").open(0))
    (folder / "void").mkdir()
    assert "holds no data files" in said(lambda: Files("void").open(0))
    assert "every file that it matches is a test file" in said(
        lambda: Files("hospital-1.jsonl", test_path="hospital-1.jsonl").open(0)
    )


def test_all_problems_at_once(folder: Path) -> None:
    write(folder / "good.jsonl", site(1))
    (folder / "broken.jsonl").write_text('{"text": "a", "label": "x"}\n{oops\n[1]\n')
    write(folder / "named.jsonl", [{"text": "a", "labl": "x"}])
    write(
        folder / "typed.jsonl",
        [{"text": 3, "label": "x"}, {"text": "a", "label": [1]}, {"text": "a", "label": 0.5}],
    )
    (folder / "empty.jsonl").write_text("")
    write(folder / "blank.jsonl", [{"text": "", "label": "x"}])
    (folder / "ragged.csv").write_text("text,label\na,b,c\nd\n")
    (folder / "latin.csv").write_bytes("text,label\nd\xe9j\xe0,a\n".encode("latin-1"))
    (folder / "list.jsonl").write_text('[\n{"text": "a"}\n]\n')
    (folder / "notes.md").write_text("x")
    message = said(lambda: Files(("*.*", "none-*.csv")).open(0))
    for part in (
        "no file matches 'none-*.csv'",
        "broken.jsonl:2: not valid JSON",
        "broken.jsonl:3: a list where an object",
        "there is no column 'label'",
        "it has: text, labl; did you mean 'labl'?",
        "typed.jsonl:1: 'text' is not text but int",
        "typed.jsonl:2: 'label' is of type list",
        "typed.jsonl:3: 'label' is of type float",
        "empty.jsonl: the file gives no rows",
        "why: it is empty",
        "all 1 rows lack text or label",
        "ragged.csv:2: 3 fields where the header has 2",
        "ragged.csv:3: 1 fields",
        "latin.csv: the file is not UTF-8",
        "not one list over many lines",
        "cannot read '.md' files",
    ):
        assert part in message, part
    assert message.count("fix:") == message.count("why:") >= 14


def test_many_problems_stay_readable(folder: Path) -> None:
    (folder / "a.jsonl").write_text("{x\n" * 1000)
    message = said(lambda: Files("a.jsonl").open(0))
    assert (
        message.startswith("1000 problems") and "and 995 more in a.jsonl" in message and len(message) < 3000
    )


def test_column_map_errors(folder: Path) -> None:
    write(folder / "a.jsonl", [{"body": "t", "topic": "x"}] * 4)
    assert "did you mean 'label'" in said(
        lambda: Files("a.jsonl", columns={"text": "body", "lable": "topic"}).open(0)
    )
    message = said(lambda: Files("a.jsonl", columns={"text": "bodi", "label": "topic"}).open(0))
    assert "there is no column 'bodi' (for 'text')" in message and "did you mean 'body'" in message
    columns = {"text": "body", "label": "topic"}
    assert "(party_column)" in said(lambda: Files("a.jsonl", columns=columns, party_column="who").open(0))
    assert "one owner only" in said(
        lambda: Files("a.jsonl", columns=columns, party_column="topic", partition=Iid(2)).open(0)
    )


def test_label_of_the_test_only(folder: Path) -> None:
    write(folder / "a.jsonl", site(1))
    write(folder / "test.jsonl", [{"text": "x", "label": "c"}])
    assert "the label 'c' is in the test rows only (1)" in said(
        lambda: Files("a.jsonl", test_path="test.jsonl").open(0)
    )
    # Held out at random it is nobody's mistake: the row is left out and counted.
    write(folder / "b.jsonl", [{"text": str(i), "label": f"c{i}"} for i in range(10)])
    opened = Files("b.jsonl").open(0)
    assert opened.dropped == {"held-out row of a label that nobody trains on": 2} and len(opened.test()) == 0


def test_bad_parquet(folder: Path) -> None:
    pytest.importorskip("pyarrow")
    (folder / "a.parquet").write_bytes(b"nonsense")
    assert "not a readable Parquet file" in said(lambda: Files("a.parquet").open(0))


def test_missing_extras_name_the_install_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in ("pyarrow", "datasets", "sklearn.datasets", "reasoning_gym"):
        monkeypatch.setitem(sys.modules, name, None)
    (folder / "a.parquet").write_bytes(b"")
    for spec in (Files("a.parquet"), Hub("x"), Digits(), ReasoningGym()):
        with pytest.raises(MissingExtra, match=r"fedfm\[data\]"):
            spec.open(0)


# A saved Hugging Face data set


def test_hub_from_a_saved_folder(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["neg", "pos"]),
            "who": datasets.Value("string"),
        }
    )
    rows = [{"sentence": f"s{i}", "label": i % 2, "who": f"u{i % 3}"} for i in range(60)]
    rows[7]["label"] = -1  # the library's mark of "no label"
    data = datasets.Dataset.from_list(rows, features=features)
    datasets.DatasetDict({"train": data, "test": data.select(range(7))}).save_to_disk(folder / "d")
    opened = Hub("d", columns={"text": "sentence"}, partition=Dirichlet(1.0, 3, 5)).open(0)
    assert opened.labels == ("neg", "pos") and opened.columns == ("text", "label")
    assert len(opened.pooled()) == 59 and len(opened.test()) == 7 and opened.dropped == {"no label": 1}
    by_user = Hub(
        "d", columns={"text": "sentence"}, partition=ByField("who"), test_split="", train_rows=30, test_rows=5
    )
    assert by_user.open(0).ids == ("u0", "u1", "u2") and len(by_user.open(0).test()) == 5
    assert by_user.open(0).test() == by_user.open(1).test()
    assert "no split 'valid'" in said(lambda: Hub("d", test_split="valid").open(0))
    assert "there is no column 'text'" in said(lambda: Hub("d").open(0))
    (folder / "e").mkdir()
    assert "use the data set 'files'" in said(lambda: Hub("e").open(0))


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
    assert opened.dropped["topic with fewer than 20 rows"] > 0
    assert opened.columns == ("instruction", "answer", "group") and set(opened.groups) <= set(opened.ids)
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
    assert opened.dropped["chain_sum: training question that is in the test"] > 0
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


# Cards


def test_every_spec_is_registered_with_documented_fields() -> None:
    cards = {c.name: c for c in registry.cards() if c.module.startswith("fedfm.data.")}
    assert {n for n, c in cards.items() if c.slot == "data"} == {
        "chatterbot",
        "digits",
        "fashion-mnist",
        "files",
        "hub",
        "reasoning-gym",
        "wordnet-topics",
    }
    assert {n for n, c in cards.items() if c.slot == "partition"} == {
        "by-field",
        "dirichlet",
        "iid",
        "quantity",
        "shards",
    }
    for card in cards.values():
        spec = registry.load(card.name)
        assert all(row["doc"] for row in describe(spec)), card.name
        made = spec("x") if card.name in ("files", "hub") else spec()
        assert isinstance(made, Source if card.slot == "data" else Partition)
        assert card.section and card.summary
