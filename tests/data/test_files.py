"""The user's own data: files of every format, a saved Hugging Face data set, and what their errors say."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from bring import TEXT

from fedfm.config.text import override
from fedfm.core.errors import MissingExtra
from fedfm.core.schema import Account
from fedfm.data.digits import Digits
from fedfm.data.files import Files
from fedfm.data.hub import Hub
from fedfm.data.partition.by_field import ByField
from fedfm.data.partition.dirichlet import Dirichlet
from fedfm.data.partition.iid import Iid
from fedfm.data.reasoning_gym import ReasoningGym
from fedfm.running.commands.tuned import read_texts
from said import said


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


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
    assert (
        parties.labels == ("a", "b") and parties.columns == ("text", "label") and parties.account == Account()
    )
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
    assert opened.groups == ("k1", "k2") and [r["text"] for r in opened.group("k2").rows] == ["v"]
    assert opened.account.reasons() == {"no party": 1, "no group": 1}
    assert opened.account.rows(split="test") == 1
    # Without a column, several test files are the groups, and one is no group.
    write(folder / "tests" / "x.jsonl", tests)
    write(folder / "tests" / "y.jsonl", tests[:1])
    assert Files("all.jsonl", test_path="tests").open(0).groups == ("x", "y")
    assert Files("all.jsonl", test_path="tests/x.jsonl", partition=Iid(2)).open(0).groups == ()
    assert len(Files("all.jsonl", test_path="tests", partition=Iid(2)).open(0).group("x")) == 2
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
    assert (
        opened.account.reasons(party="a") == {"no instruction": 2, "no answer": 1} and opened.labels is None
    )
    assert len(opened.test()) == 0


def test_plain_text_when_only_text_is_mapped(folder: Path) -> None:
    write(folder / "a.jsonl", [{"body": f"t{i}"} for i in range(5)])
    assert Files("a.jsonl", columns={"text": "body"}).open(0).columns == ("text",)


def test_label_types(folder: Path) -> None:
    write(folder / "a.jsonl", [{"text": "x", "label": v} for v in (1, 1.0, True, " 1 ", "1")])
    assert Files("a.jsonl", test_fraction=0.0).open(0).labels == ("1", "true")


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
        [{"text": 3, "label": "x"}, {"text": "a", "label": [1]}],
    )
    (folder / "empty.jsonl").write_text("")
    write(folder / "blank.jsonl", [{"text": "", "label": "x"}])
    (folder / "ragged.csv").write_text("text,label\na,b,c\nd\n")
    (folder / "latin.csv").write_bytes("text,label\nd\xe9j\xe0,a\n".encode("latin-1"))
    (folder / "list.jsonl").write_text('[\n{"text": "a", "label": "x"}\n]\n')
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
        "empty.jsonl: the file gives no rows",
        "why: it is empty",
        "all 1 rows are left out: 1 no text",
        "ragged.csv:2: 3 fields where the header has 2",
        "ragged.csv:3: 1 field",
        "latin.csv:2: the file is not UTF-8",
        "cannot read '.md' files",
    ):
        assert part in message, part
    assert message.count("fix:") == message.count("why:") == 12


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


def test_a_missing_column_is_one_problem_with_a_setting_to_paste(folder: Path) -> None:
    for k in range(5):
        write(folder / f"shop-{k}.jsonl", [{"review": f"row {i}", "stars": i % 2} for i in range(4)])
    message = said(lambda: Files("shop-*.jsonl").open(0))
    assert message.startswith("2 problems")
    assert "shop-0.jsonl, shop-1.jsonl, shop-2.jsonl and 2 more: there is no column 'text'" in message
    assert message.count("they have: review, stars\n") == 2 and "known here" not in message
    fix = message.rsplit("fix: ", 1)[1]
    assert fix == "'data.columns={text: review, label: stars}'" and message.count(fix) == 2
    columns = override({"data": {"name": "files"}}, shlex.split(fix))["data"]["columns"]
    assert len(Files("shop-*.jsonl", columns=columns).open(0).ids) == 5
    # What is mapped already stays, and a name with a space or a comma is quoted.
    write(folder / "odd.jsonl", [{"what, where": "a long text", "topic": "x"}])
    message = said(lambda: Files("odd.jsonl", columns={"label": "topic", "text": "body"}).open(0))
    assert "it has: what, where, topic" in message
    fix = shlex.split(message.rsplit("fix: ", 1)[1])
    assert override({"data": {}}, fix)["data"]["columns"] == {"label": "topic", "text": "what, where"}
    write(folder / "plain.jsonl", site(1))
    columns_of = {"label": "label", "text": "body"}
    message = said(lambda: Files("plain.jsonl", columns=columns_of).open(0))
    assert "data.columns={label: label, text: text}" in message
    message = said(lambda: Files("odd.jsonl", columns={"text": "topic", "lable": "x"}).open(0))
    assert "rename 'lable' to 'label'" in message
    message = said(
        lambda: Files("shop-*.jsonl", columns=columns, test_group="ward", party_column="shop").open(0)
    )
    assert (
        message.startswith("2 problems") and "data.test_group=" in message and "data.party_column=" in message
    )


def test_label_of_the_test_only(folder: Path) -> None:
    write(folder / "a.jsonl", site(1))
    write(folder / "test.jsonl", [{"text": "x", "label": "c"}])
    assert "the label 'c' is in the test rows only (1)" in said(
        lambda: Files("a.jsonl", test_path="test.jsonl").open(0)
    )
    # Held out at random it is nobody's mistake: the row is left out and counted.
    write(folder / "b.jsonl", [{"text": str(i), "label": f"c{i}" if i < 3 else "d"} for i in range(10)])
    opened = Files("b.jsonl", test_fraction=0.5).open(3)
    lost = opened.account.reasons(split="test", party="b")
    assert lost == {"held-out row of a label that nobody trains on": 5 - len(opened.test())} and lost
    assert opened.labels == tuple(sorted({r["label"] for r in opened.pooled().rows}))


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
    assert (
        len(opened.pooled()) == 59
        and len(opened.test()) == 7
        and opened.account.reasons(split="train") == {"no label": 1}
    )
    by_user = Hub(
        "d",
        columns={"text": "sentence"},
        partition=ByField("who"),
        test_fraction=0.2,
        train_rows=30,
        test_rows=5,
    )
    assert by_user.open(0).ids == ("u0", "u1", "u2") and len(by_user.open(0).test()) == 5
    assert by_user.open(0).test() == by_user.open(1).test()
    assert "no split 'valid'" in said(lambda: Hub("d", test_split="valid").open(0))
    assert "there is no column 'text'" in said(lambda: Hub("d").open(0))
    (folder / "e").mkdir()
    assert "use the data set 'files'" in said(lambda: Hub("e").open(0))


@pytest.mark.parametrize("name", ["rows[1].jsonl", "rows[!2].jsonl", "rows*.jsonl", "rows?.jsonl"])
def test_a_file_that_is_called_like_a_pattern_is_itself(folder: Path, name: str) -> None:
    def sites(path: Any) -> set[str]:
        return {r["text"][:6] for r in Files(path, test_fraction=0.0).open(0, TEXT).pooled().rows}

    write(folder / name, site(1)), write(folder / "rows1.jsonl", site(2))
    for path in (name, (name,), folder / name):
        assert sites(path) == {"site 1"}
    (folder / name).unlink()
    assert sites(name) == {"site 2"}


# ---- texts to predict -----------------------------------------------------------------------------------------
TEXTS = ["two\nlines", "a\u2028b", "c\x85d, e", 'he said "f"', " g "]


@pytest.mark.parametrize("name", ["x.jsonl", "x.JSON", "x.csv", "x.tsv", "x.csv.gz", "x.parquet", "x.xlsx"])
def test_texts_to_predict_are_read_as_those_to_train_on(folder: Path, name: str) -> None:
    """None is cut at a line break of its own, and none is lost without a word."""
    rows = [{"n": str(n), "text": t} for n, t in enumerate(TEXTS)]
    path = folder / name
    if name.endswith((".parquet", ".xlsx")):
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame(rows)
        frame.to_parquet(path) if name.endswith("parquet") else frame.to_excel(path, index=False)
    elif "csv" in name or "tsv" in name:
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, ["n", "text"], delimiter="\t" if "tsv" in name else ";")
        table.writeheader(), table.writerows(rows)
        packed = gzip.compress if name.endswith("gz") else bytes
        path.write_bytes(packed(text.getvalue().encode("utf-8-sig")))
    else:
        text_ = json.dumps(rows, ensure_ascii=False)
        lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
        path.write_text(text_ if name.endswith("JSON") else lines, encoding="utf-8")
    assert read_texts(path) == TEXTS
    assert read_texts(path, "n") == [r["n"] for r in rows]


def test_lines_of_a_text_file_end_where_lines_end(folder: Path) -> None:
    (folder / "x.txt").write_bytes("\ufeffa\u2028b\r\nc\x85d\n".encode())
    assert read_texts(folder / "x.txt") == ["a\u2028b", "c\x85d"]


def test_a_line_that_is_no_row_is_no_missing_prediction(folder: Path) -> None:
    (folder / "x.jsonl").write_text('{"text": "a"}\n"b"\n{"text": "c"}\n')
    assert "x.jsonl:2: " in said(lambda: read_texts(folder / "x.jsonl"))
