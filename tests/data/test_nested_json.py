"""JSON files that are one object: LEAF's users are parties, and of any other nest a line to paste makes rows."""

from __future__ import annotations

import bz2
import gzip
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from bring import LM, TEXT, jsonl, labelled

import fedfm
from fedfm.data.files import Files
from fedfm.data.partition.iid import Iid
from said import said


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def leaf(path: str, users: dict[str, Any], **more: Any) -> str:
    sizes = [len(u["y"]) for u in users.values()]
    whole = {"users": list(users), "num_samples": sizes, "user_data": users, **more}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(whole))
    return path


def texts(who: str, n: int) -> dict[str, Any]:
    return {"x": [r["text"] + who for r in labelled(n)], "y": [r["label"] for r in labelled(n)]}


def numbers(k: int, n: int) -> dict[str, Any]:
    return {"x": [[i / n, k / 2, 1.0] for i in range(n)], "y": [int(i * 2 > n) for i in range(n)]}


def test_users_of_leaf_are_parties_and_their_test_rows_their_own() -> None:
    train = leaf("train.json", {f"f{i}": numbers(i, 20) for i in range(3)}, hierarchies=[None] * 3)
    test = leaf("test.json", {f"f{i}": numbers(i, 6) for i in range(3)})
    for data in (Files(train, test_path=test), Files("."), Files((train, test))):
        parties = data.open(0, None)
        assert parties.ids == ("f0", "f1", "f2") and parties.groups == parties.ids
        assert [len(parties.train(i)) for i in parties.ids] == [20] * 3 and len(parties.test("f1")) == 6
        assert parties.schema.shapes["x"] == (3,) and not [n for n in parties.notes if "user" in n]
    alone = Files(train, test_fraction=0.25).open(0, None)
    assert [len(alone.test(i)) for i in alone.ids] == [5] * 3


def test_texts_of_leaf_are_mapped_as_the_fix_says_and_run() -> None:
    train = leaf("all_data_0_train_9.json", {f"f{i}": texts(f" {i}", 30) for i in range(3)})
    test = leaf("held/all_data_0_test_9.json", {"f1": texts(" t", 8), "g": texts(" u", 8)})
    told = said(lambda: Files(train, test_path=test).open(0, TEXT))
    assert "data.columns={text: x, label: y}" in told
    parties = Files(train, test_path=test, columns={"text": "x", "label": "y"}).open(0, TEXT)
    assert (
        parties.ids == ("f0", "f1", "f2") and parties.groups == ("f1", "g") and len(parties.test("f1")) == 8
    )
    settings = [f"data.path={train}", f"data.test_path={test}", "data.columns={text: x, label: y}"]
    assert fedfm.probe("quickstart", data="files", model="tiny-encoder", settings=settings).rows == {
        f"f{i}": 30 for i in range(3)
    }


def test_several_files_of_leaf_packed_ones_and_other_owners() -> None:
    leaf("d/all_data_0.json", {"a": numbers(0, 10), "b": numbers(1, 10)})
    whole = Path(leaf("d/all_data_1.json", {"c": numbers(2, 10)})).read_bytes()
    Path("d/all_data_1.json").unlink()
    Path("d/all_data_1.json.gz").write_bytes(gzip.compress(whole))
    assert Files("d").open(0, None).ids == ("a", "b", "c")
    dealt = Files("d", partition=Iid(2)).open(0, None)
    assert len(dealt.ids) == 2 and any("rows of one 'user'" in n for n in dealt.notes)
    assert Files("d", party_column="user").open(0, None).ids == ("a", "b", "c")
    assert "did you mean 'user'?" in said(lambda: Files("d", party_column="users").open(0, None))


def test_what_is_wrong_with_a_user_is_told_of_the_user() -> None:
    broken = {"a": numbers(0, 10), "b": {"x": [[1.0]], "y": [0, 1]}, "": numbers(0, 4)}
    told = said(lambda: Files(leaf("x.json", broken)).open(0, None))
    assert "x.json, user b: columns of different lengths" in told and "a user called ''" in told


ROWS = labelled(12)
BY_ID = {f"id{i}": r for i, r in enumerate(ROWS)}
COLUMNS = {k: [r[k] for r in ROWS] for k in ("text", "label")}
PANDAS = {k: {str(i): r[k] for i, r in enumerate(ROWS)} for k in ("text", "label")}
NESTS: dict[str, tuple[Any, tuple[str, ...]]] = {  # a file, and the parties that it means
    "rows by id": (BY_ID, ("x-flat",)),
    "a table of pandas": (PANDAS, ("x-flat",)),
    "numbers of rows": ({str(i): r for i, r in enumerate(ROWS)}, ("x-flat",)),
    "deep": ({"meta": {"v": 1}, "data": {"count": 12, "rows": ROWS}}, ("x-flat",)),
    "deep columns": ({"version": "1", "data": {"all": COLUMNS}}, ("x-flat",)),
    "parties": ({"a": ROWS, "b": ROWS}, ("a", "b")),
    "parties of columns": ({"a": COLUMNS, "b b": COLUMNS}, ("a", "b b")),
    "parties by id": ({"a": BY_ID, "b": BY_ID}, ("a", "b")),
    "names beside rows": (
        {"columns": ["text", "label"], "index": [*range(12)], "data": [[*r.values()] for r in ROWS]},
        ("x-flat",),
    ),
    "parties below": ({"clients": {"a": ROWS, "b": ROWS}}, ("a", "b")),
    "splits": ({"train": ROWS, "test": ROWS}, ("x-flat",)),
    "splits of columns": ({"train": COLUMNS, "dev": COLUMNS}, ("x-flat",)),
    'it\'s "quoted" $HOME': ({'it\'s "q" $HOME': {"rows": ROWS}, "n": 1}, ("x-flat",)),
}


def follow(told: str) -> dict[str, Any]:
    """Paste the line into a shell, and take the settings that stand behind it."""
    line, settings = told.split("fix: ")[1].split("\n")[0].rsplit("; then ", 1)
    assert subprocess.run(line, shell=True, check=True, capture_output=True).returncode == 0
    found = [s.strip("'").removeprefix("data.").split("=", 1) for s in settings.split(" ")]
    return {k: yaml.safe_load(v) if "*" not in v else v for k, v in found}


@pytest.mark.parametrize("name", NESTS)
@pytest.mark.parametrize("ending", ["json", "json.gz", "json.bz2"])
def test_a_nest_is_named_and_the_line_flattens_it(name: str, ending: str) -> None:
    nest, parties = NESTS[name]
    pack = {"json": bytes, "json.gz": gzip.compress, "json.bz2": bz2.compress}[ending]
    Path(f"x.{ending}").write_bytes(pack(json.dumps(nest, indent=1).encode()))
    told = said(lambda: Files(f"x.{ending}").open(0, TEXT))
    assert told.startswith("1 problem") and "the file is one object with rows nested in it: " in told
    found = Files(**follow(told)).open(0, TEXT)
    whole = len(found.pooled()) + len(found.test())
    assert (
        found.ids == parties
        or (found.ids[0] == Path().resolve().name and "split" in name)
        or found.ids == ("x-flat",)
    )
    assert whole == 12 * (2 if "parties" in name or "splits" in name else 1)


@pytest.mark.parametrize("nest", [{"a": {"b": 1}, "c": 3}, {"a": {"b": [1, 2], "c": [3]}, "d": 1}])
def test_a_nest_in_which_no_rows_are_seen_is_told_what_a_row_is(nest: Any) -> None:
    Path("x.json").write_text(json.dumps(nest))
    told = said(lambda: Files("x.json").open(0, TEXT))
    assert "rows nested in it" in told and "write a flat object a line" in told


def test_one_row_and_a_table_of_columns_are_no_nests() -> None:
    jsonl(Path("a.json"), ROWS[:1])
    assert len(Files("a.json", test_fraction=0.0).open(0, TEXT).pooled()) == 1
    Path("b.json").write_text(json.dumps(COLUMNS))
    assert len(Files("b.json", test_fraction=0.0).open(0, TEXT).pooled()) == 12
    Path("c.json").write_text(json.dumps({"text": "t", "label": "l", "entry": {"a": {"b": 1}}}))
    assert len(Files("c.json", test_fraction=0.0).open(0, TEXT).pooled()) == 1


def test_chats_by_id_and_one_chat_alone() -> None:
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    Path("x.json").write_text(json.dumps({f"c{i}": {"messages": chat} for i in range(4)}))
    found = Files(**follow(said(lambda: Files("x.json").open(0, LM))), test_fraction=0.0).open(0, LM)
    assert found.ids == ("x-flat",) and [r["answer"] for r in found.pooled().rows] == ["a"] * 4
    for name in ("messages", "conversations"):
        for whole in ({"id": 1, name: chat}, {name: chat}):
            Path("y.json").write_text(json.dumps(whole))
            assert len(Files("y.json", test_fraction=0.0).open(0, LM).pooled()) == 1
    Path("y.json").write_text(json.dumps({"conversations": [{"messages": chat}] * 3}))
    assert len(Files("y.json", test_fraction=0.0).open(0, LM).pooled()) == 3
    Path("z.json").write_text("{}")
    assert "it is empty" in said(lambda: Files("z.json").open(0, LM))


def test_lists_of_objects_below_rows_are_named() -> None:
    paragraphs = [{"context": "c", "qas": [{"question": "q"}]}]
    Path("x.json").write_text(
        json.dumps({"version": "1", "data": [{"title": "t", "paragraphs": paragraphs}] * 4})
    )
    told = said(lambda: Files("x.json").open(0, LM))
    assert "paragraphs hold lists of objects, of which each is to be written as a row of its own" in told
