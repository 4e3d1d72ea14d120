"""Reading: formats, packings, separators, quoting; each known trap of the readers, and folders of every shape."""

from __future__ import annotations

import bz2
import csv as csvlib
import errno
import gzip
import json
import lzma
import os
import re
import socket
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from bring import LM, TEXT, asked, jsonl, labelled

from fedfm.core.errors import DataError
from fedfm.data.files import Files
from fedfm.data.partition.iid import Iid
from fedfm.data.source import Parties, Shard
from fedfm.data.splits import UNUSED
from said import said

ROWS = labelled()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def opened(path: str, **knobs: Any) -> list[dict[str, Any]]:
    return list(Files(path, test_fraction=0.0, **knobs).open(0, TEXT).pooled().rows)


# ---- JSON and packings ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=1),
        "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n",
        json.dumps({"data": ROWS}),
        json.dumps({"version": 1, "data": ROWS}),
        json.dumps({k: [r[k] for r in ROWS] for k in ("text", "label")}),
        "\n\n".join(map(json.dumps, ROWS)),
        "\ufeff" + json.dumps(ROWS),
    ],
)
@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
def test_json_in_every_form(text: str, name: str) -> None:
    if name == "x.jsonl" and text.startswith("{") and text.count("\n") == 0:
        pytest.skip("one object in a .jsonl is one row")
    Path(name).write_text(text, encoding="utf-8")
    assert opened(name) == ROWS


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv"])
@pytest.mark.parametrize("packed", [".gz", ".zst", ".bz2", ".xz"])
def test_packed_files(ending: str, packed: str) -> None:
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(
        packed, zstandard.ZstdCompressor().compress
    )
    text = {
        ".json": json.dumps(ROWS),
        ".jsonl": "\n".join(map(json.dumps, ROWS)),
        ".csv": "text,label\n" + "\n".join(f"{r['text']},{r['label']}" for r in ROWS),
    }[ending]
    Path("hospital-a" + ending + packed).write_bytes(pack(text.encode()))
    parties = Files("hospital-a*", test_fraction=0.0).open(0, TEXT)
    assert parties.ids == ("hospital-a",) and list(parties.pooled().rows) == ROWS
    Path("broken" + ending + packed).write_bytes(pack(text.encode())[:-9] or b"x")
    assert f"cannot be unpacked as {packed}" in said(lambda: opened("broken*")) or packed == ".zst"


def test_faults_of_json_have_their_lines() -> None:
    for text, line, what in (
        ('[{"text": "a"},\n {"text": "b"},\n oops]', 3, "not valid JSON"),
        ('[{"text": "a"}\n {"text": "b"}]', 2, "a comma or ] is missing"),
        ('[{"text": "a"},\n {"text": "b"}', 2, "a comma or ] is missing before the end"),
        ('[{"text": "a"},\n 3]', 2, "a int where an object should be"),
        ('{"text": "a"}\n{"text": "a", "text": "b"}', 2, "the key 'text' is there twice"),
        ('{"text": "a"}\n{"text": ' + "9" * 5000 + "}", 2, "not valid JSON"),
        ('{"text": "a"}\n{"text": "\x01"}', 2, "not valid JSON"),
    ):
        Path("x.jsonl").write_text(text)
        message = said(lambda: Files("x.jsonl").open(0))
        assert f"x.jsonl:{line}: " in message and what in message, text[:60]


def test_mixed_types_of_one_column_stay_what_they_are() -> None:
    jsonl(Path("x.jsonl"), [{"text": f"t{v}", "label": v} for v in (1, "x", True, 2.5, "1")])
    assert [r["label"] for r in opened("x.jsonl")] == ["1", "x", "true", "2.5", "1"]


def test_utf_16_with_its_mark_is_read_and_other_bytes_are_named() -> None:
    Path("x.csv").write_bytes("text\tlabel\nä\tpos\n".encode("utf-16"))
    assert opened("x.csv") == [{"text": "ä", "label": "pos"}]
    Path("x.csv").write_bytes(b"text,label\na,b\n\xff,c\n")
    assert "x.csv:3: the file is not UTF-8" in said(lambda: opened("x.csv"))


# ---- separated values -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("head", "mark"),
    [
        ("text\tlabel", "\t"),
        ("text|label", "|"),
        ("sep=;\ntext;label", ";"),
        ("text;label;score, mean", ";"),
        ("sep=|\ntext|label", "|"),
    ],
)
def test_separators_are_found(head: str, mark: str) -> None:
    extra = ";0,5" if "score" in head else ""
    Path("x.csv").write_text(
        head + "\n" + "".join(f"{r['text']}, yes{mark}{r['label']}{extra}\n" for r in ROWS)
    )
    assert opened("x.csv") == [{"text": r["text"] + ", yes", "label": r["label"]} for r in ROWS]


def test_one_short_row_does_not_change_the_separator() -> None:
    Path("x.csv").write_text("text,label\na,b\nc\nd,e\n")
    message = said(lambda: opened("x.csv"))
    assert "x.csv:3: 1 field where the header has 2" in message and "taken to be ','" in message
    assert "data.separator" in message


def test_quotation_marks_that_mean_nothing() -> None:
    rows = ['"a start', 'an end"', 'in "the" middle', '"whole"', "plain"]
    Path("x.tsv").write_text("text\tlabel\n" + "".join(f"{t}\tx\n" for t in rows))
    assert [r["text"] for r in opened("x.tsv")] == rows
    Path("y.csv").write_text('text,label\n"a, ""b""\nc",x\n')
    assert [r["text"] for r in opened("y.csv")] == ['a, "b"\nc']
    Path("z.csv").write_text('text,label\n"whole",x\n"a,b",y\n')
    assert [r["text"] for r in opened("z.csv")] == ["whole", "a,b"]
    assert [r["text"] for r in opened("y.csv", quoting="csv")] == ['a, "b"\nc']
    Path("w.csv").write_text('text,label\na,x\n"b,y\nc,z\n')
    assert [r["text"] for r in opened("w.csv", quoting="none")] == ["a", '"b', "c"]


def test_faults_of_tables() -> None:
    for text, line, what in (
        ("text,label,text\na,b,c\n", 1, "two columns are called 'text'"),
        ('text,label\na,b\n"c"d,e\n', 3, "not valid CSV"),
        ('text,label\na,b\n"c,e', 3, "not valid CSV"),
        ('text,label\n"a\nb",c\nd\n', 4, "1 field where the header has 2"),
    ):
        Path("x.csv").write_text(text)
        message = said(lambda: opened("x.csv", quoting="csv"))
        assert f"x.csv:{line}: " in message and what in message, text
    Path("x.csv").write_text("text,label\na,b\n")
    assert "is no separator" in said(lambda: opened("x.csv", separator="ab"))
    assert opened("x.csv", separator=",") == [{"text": "a", "label": "b"}]


def test_a_repeated_header_long_fields_and_trailing_blanks() -> None:
    Path("x.csv").write_text("text,label,,\na,b,,\n\n text , label,,\n" + "c" * 200_000 + ",d,,\n,,,\n")
    limit = csvlib.field_size_limit()
    parties = Files("x.csv", test_fraction=0.0).open(0, TEXT)
    assert [len(r["text"]) for r in parties.pooled().rows] == [1, 200_000]
    assert parties.account.reasons() == {"the header again": 1} and csvlib.field_size_limit() == limit


# ---- tables with libraries ------------------------------------------------------------------------------------
def workbook(path: str, sheets: dict[str, list[list[Any]]]) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)


def test_an_excel_export() -> None:
    rows = [[r["text"], i % 2, None] for i, r in enumerate(ROWS)]
    workbook(
        "x.xlsx", {"empty": [], "data": [[None], [None], ["text", " label ", None], *rows, [None, None]]}
    )
    assert opened("x.xlsx") == [{"text": r["text"], "label": str(i % 2)} for i, r in enumerate(ROWS)]
    workbook("x.xlsx", {"a": [["text", "label"], ["t", "x"]], "b": [["text", "label"], ["u", "y"]]})
    assert "several sheets have rows" in said(lambda: opened("x.xlsx"))
    assert opened("x.xlsx", sheet="b") == [{"text": "u", "label": "y"}]
    assert "there is no sheet 'c'" in said(lambda: opened("x.xlsx", sheet="c"))
    workbook("x.xlsx", {"a": [["text", "label"], ["t", "x", "stray"], ["u", "#N/A"], [3, "x"]]})
    message = said(lambda: opened("x.xlsx"))
    assert (
        "x.xlsx:2: a value in a column that has no name" in message
        and "x.xlsx:4: 'text' is not text" in message
    )
    Path("x.xlsx").write_bytes(b"nonsense")
    assert "not a readable .xlsx file" in said(lambda: opened("x.xlsx"))


@pytest.mark.parametrize("size", ["A1", "A1:B2", "A1:XFD1048576", "C3:D4"])
def test_the_size_that_a_sheet_says_it_has_is_not_believed(size: str) -> None:
    workbook("sound.xlsx", {"data": [["text", "label"], *([r["text"], r["label"]] for r in ROWS)]})
    with zipfile.ZipFile("sound.xlsx") as sound, zipfile.ZipFile("x.xlsx", "w") as other:
        for name in sound.namelist():
            part = sound.read(name)
            if name.endswith("sheet1.xml"):
                part, n = re.subn(rb'<dimension ref="[^"]*"', f'<dimension ref="{size}"'.encode(), part)
                assert n == 1
            other.writestr(name, part)
    assert opened("x.xlsx") == opened("sound.xlsx") == ROWS


def test_one_cell_at_the_end_of_a_sheet_costs_no_sheet_full_of_cells() -> None:
    openpyxl = pytest.importorskip("openpyxl")
    workbook("x.xlsx", {"data": [["text", "label"], *([r["text"], r["label"]] for r in ROWS)]})
    book = openpyxl.load_workbook("x.xlsx")
    book["data"]["XFD1048576"] = "lost"
    book.save("x.xlsx")
    assert "x.xlsx:1048576: a value in a column that has no name" in said(lambda: opened("x.xlsx"))


def test_parquet_whose_text_is_no_utf_8_is_a_fault() -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"caf\xe9", b"b"], pa.binary()).buffers())
    parquet.write_table(pa.table({"text": bad, "label": ["x", "y"]}), "y.parquet")
    assert "y.parquet: the file's text is not UTF-8" in said(lambda: opened("y.parquet"))


def test_parquet_beside_other_formats_and_its_doubled_names() -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    Path("label=neg").mkdir()
    parquet.write_table(pa.Table.from_pylist(ROWS), "label=neg/x.parquet")  # nothing is read from the path
    assert opened("label=neg/x.parquet") == ROWS
    parquet.write_table(pa.table([["a"], ["b"]], names=["text", "text"]), "y.parquet")
    assert "two columns are called 'text'" in said(lambda: opened("y.parquet"))


# ---- folders --------------------------------------------------------------------------------------------------
def test_a_folder_names_what_it_does_not_read() -> None:
    for name in ("a.jsonl", "b.json", "d.txt", "e.arrow", "README.txt", "notes.md", ".hidden.txt"):
        jsonl(Path("parties") / name, ROWS)
    Path("parties/c.jsonl.gz").write_bytes(gzip.compress(b"\n".join(json.dumps(r).encode() for r in ROWS)))
    message = said(lambda: opened("parties"))
    assert "2 of what 'parties' holds is not read: d.txt, e.arrow" in message
    os.remove("parties/d.txt"), os.remove("parties/e.arrow")
    assert Files("parties").open(0, TEXT).ids == ("a", "b", "c")
    jsonl(Path("parties/more/f.jsonl"), ROWS)
    assert "more/ (1 files)" in said(lambda: opened("parties"))
    jsonl(Path("only/d.txt"), ROWS)
    assert "it holds d.txt" in said(lambda: opened("only"))


def test_train_test_and_validation_are_splits_of_one_party() -> None:
    for split in ("train", "test", "validation"):
        jsonl(Path("d") / f"{split}.jsonl", labelled(also=f" {split}"))
    for path in ("d", "d/*.jsonl", "d/*"):
        parties = Files(path).open(0, TEXT)
        assert (
            parties.ids == ("d",)
            and len(parties.train("d")) == len(parties.test("d")) == len(parties.test()) == 16
        )
        assert parties.account.reasons(split="server") == {UNUSED: 16}
    served = Files("d", server_rows=6).open(0, TEXT)
    assert served.account.reasons(split="server") == {UNUSED: 10} and len(served.test()) == 16
    assert all("validation" in r["text"] for r in served.server().rows) and len(served.server()) == 6
    assert Counter(r["label"] for r in served.server().rows) == {"pos": 3, "neg": 3}
    assert "data.server_rows=16" in said(lambda: Files("d", server_rows=17).open(0, TEXT))
    assert len(Files("d", partition=Iid(4)).open(0, TEXT).ids) == 4
    os.remove("d/test.jsonl")
    assert all("validation" in r["text"] for r in Files("d").open(0, TEXT).test().rows)


def test_splits_of_several_parties_by_name_and_by_folder() -> None:
    for who in ("a", "b"):
        for split, n in (("train", 12), ("test", 4)):
            jsonl(Path("n") / f"{who}-{split}.jsonl", labelled(n, also=f" {who} {split}"))
            jsonl(Path("f") / who / f"{split}.jsonl", labelled(n, also=f" {who} {split}"))
    for path in ("n", "f", "f/*", "f/*/*.jsonl"):
        parties = Files(path).open(0, TEXT)
        assert parties.ids == ("a", "b") and [len(s) for s in parties.shards] == [12, 12], path
        assert {r["text"].split()[-2] for r in parties.test("b").rows} == {"b"} and len(parties.test()) == 8


def test_test_files_of_one_name_are_all_used() -> None:
    for h in "ab":
        for split, n in (("train", 12), ("test", 4)):
            jsonl(Path(f"hospital-{h}") / f"{split}.jsonl", labelled(n, also=f" {h} {split}"))
    parties = Files("*/train.jsonl", test_path="*/test.jsonl").open(0, TEXT)
    assert len(parties.test()) == 8 and parties.groups == ("hospital-a-test", "hospital-b-test")
    jsonl(Path("x/hospital-a/test.jsonl"), labelled(2, also=" x"))  # even where the folders share their names
    assert len(Files("*/train.jsonl", test_path="**/test.jsonl").open(0, TEXT).test()) == 10


def test_a_folder_of_folders_is_a_party_a_folder() -> None:
    for h in "ab":
        for k in range(3):
            jsonl(Path("all") / h / f"part-{k}.jsonl", labelled(6, also=f" {h}{k}"))
    parties = Files("all").open(0, TEXT)
    assert parties.ids == ("a", "b") and [len(s) + len(parties.test(s.party)) for s in parties.shards] == [
        18,
        18,
    ]


def test_saved_data_sets_links_in_a_circle_and_folders_called_like_files() -> None:
    Path("saved").mkdir()
    Path("saved/state.json").write_text("{}")
    assert "data=hub data.dataset=saved" in said(lambda: opened("saved"))
    jsonl(Path("d/a.jsonl"), ROWS)
    os.symlink("loop.jsonl", "d/loop.jsonl")
    for path in ("d", "d/*.jsonl"):  # in a folder too: what it should lead to is somebody's rows
        assert "d/loop.jsonl: a link that leads nowhere" in said(lambda path=path: opened(path))
    os.remove("d/loop.jsonl")
    os.symlink("nowhere", "d/notes")  # and is no data by its name
    assert Files("d").open(0, TEXT).ids == ("a",)
    os.symlink("../d", "d/round")
    assert "round/" not in Files("d/a.jsonl").open(0, TEXT).ids
    Path("e/x.jsonl").mkdir(parents=True)
    jsonl(Path("e/b.jsonl"), ROWS)
    assert Files("e").open(0, TEXT).ids == ("b",)
    assert "holds no data files" in said(lambda: opened("e/x.jsonl"))


def test_a_pipe_or_socket_in_a_files_place_is_named_and_never_waited_for() -> None:
    jsonl(Path("d/a.jsonl"), ROWS)
    os.mkfifo("d/b.jsonl.gz")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind("d/c.csv")
        for path in ("d", "d/*"):
            message = said(lambda path=path: opened(path))
            assert "d/b.jsonl.gz: not a file" in message and "d/c.csv: not a file" in message, path
    os.remove("d/b.jsonl.gz"), os.remove("d/c.csv")
    assert Files("d").open(0, TEXT).ids == ("a",)


def test_a_folder_of_folders_names_the_party_that_it_would_miss() -> None:
    jsonl(Path("all/a/rows.jsonl"), ROWS)
    jsonl(Path("all/b/rows.xls"), ROWS)
    jsonl(Path("all/c/2024/rows.jsonl"), ROWS)
    Path("all/d").mkdir()
    os.symlink("/nowhere/rows.jsonl", "all/d/rows.jsonl")
    message = said(lambda: opened("all"))
    assert "2 of what 'all' holds is not read: b/rows.xls, c/2024/" in message
    assert "all/d/rows.jsonl: a link that leads nowhere" in message


def test_a_folder_that_may_not_be_looked_into_is_no_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    jsonl(Path("all/a/rows.jsonl"), ROWS)
    jsonl(Path("all/b/rows.jsonl"), ROWS)
    iterdir = Path.iterdir

    def refused(path: Path) -> Iterator[Path]:
        if path.name == "b":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refused)
    assert "all/b: the folder cannot be read" in said(lambda: opened("all"))
    jsonl(Path("all/c.jsonl"), ROWS)
    assert Files("all/*.jsonl").open(0, TEXT).ids == ("c",)


@pytest.mark.parametrize("name", ["..", ".", "x" * 300, "a\nb", "a\x1b[31m", "<everybody>"])
def test_names_that_no_party_may_have(name: str) -> None:
    jsonl(Path("a.jsonl"), [{**r, "who": name if i % 2 else "b"} for i, r in enumerate(ROWS)])
    assert "cannot be the name of a party" in said(lambda: opened("a.jsonl", party_column="who"))


@pytest.mark.parametrize("fraction", [0.2, 0.0])
@pytest.mark.parametrize("path", [b"d/h\xf4pital.jsonl", b"d/h\xf4pital/train.jsonl", b"d/\xff/rows.jsonl"])
def test_a_file_or_folder_whose_name_is_no_utf_8_is_refused_as_a_party(path: bytes, fraction: float) -> None:
    """A name that an older system wrote: refused where rows are held out, and where none are."""
    jsonl(Path("d/b/rows.jsonl" if path.count(b"/") > 1 else "d/b.jsonl"), ROWS)
    jsonl(Path(os.fsdecode(path)), ROWS)
    files = Files("d", test_fraction=fraction)
    assert "cannot be the name of a party" in said(lambda: files.open(0, TEXT))


def test_no_party_is_called_as_all_of_them_are() -> None:
    """It would have trained on the rows of everybody: by its file's name, and by its key in memory."""
    jsonl(Path("d/<everybody>.jsonl"), ROWS)
    jsonl(Path("d/b.jsonl"), ROWS)
    assert "means all rows" in said(lambda: opened("d/*.jsonl"))
    with pytest.raises(DataError, match="means all rows"):
        Parties((Shard("<everybody>", ({"text": "a", "label": "b"},)), Shard("b", ())))


def test_paths_and_lists_of_paths() -> None:
    jsonl(Path("d/a.jsonl"), asked())
    jsonl(Path("d/b.jsonl"), asked())
    one = Files(Path("d"))  # type: ignore[arg-type]
    assert one.path == "d" and Files([Path("d/a.jsonl"), "d/b.jsonl"]).open(0, LM).ids == one.open(0, LM).ids  # type: ignore[arg-type]
