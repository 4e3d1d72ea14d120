"""Excel files with rows, columns or a sheet that nobody sees: they are read, and that is said first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bring import TEXT, labelled

import fedfm
from fedfm.data.files import Files
from said import said

openpyxl = pytest.importorskip("openpyxl")


def book(path: Path, mark: Callable[[Any, Any], object] = lambda book, sheet: None, lead: int = 0) -> str:
    made = openpyxl.Workbook()
    sheet = made.active
    sheet.title = "answers"
    for _ in range(lead):
        sheet.append([])
    sheet.append(["text", "label", "note"])
    for r in labelled(20):
        sheet.append([r["text"], r["label"], "x"])
    mark(made, sheet)
    made.save(path)
    return str(path)


def notes(path: str) -> list[str]:
    parties = Files(path, test_fraction=0.0).open(0, TEXT)
    assert len(parties.pooled()) == 20
    return [n for n in parties.notes if "hidden" in n]


def hide(rows: Any) -> Callable[[Any, Any], None]:
    def mark(book: Any, sheet: Any) -> None:
        for r in rows:
            sheet.row_dimensions[r].hidden = True

    return mark


def test_hidden_rows_are_counted_with_their_numbers(tmp_path: Path) -> None:
    (told,) = notes(book(tmp_path / "a.xlsx", hide([*range(2, 8), 10])))
    assert told == (
        f"{tmp_path}/a.xlsx: 7 of 20 rows of the sheet 'answers' are hidden (a filter?), and are read: 2-7, 10; "
        "delete them in the file if they are not meant"
    )
    assert "rows of the sheet 'answers' are hidden" in notes(book(tmp_path / "b.xlsx", hide([5]), lead=2))[0]
    assert not notes(book(tmp_path / "c.xlsx")) and not notes(book(tmp_path / "d.xlsx", hide([1, 90])))


def test_hidden_columns_are_named(tmp_path: Path) -> None:
    def fold(book: Any, sheet: Any) -> None:
        sheet.column_dimensions.group("B", "C", hidden=True)
        sheet.column_dimensions["F"].hidden = True

    (told,) = notes(book(tmp_path / "a.xlsx", fold))
    assert "2 of the columns of the sheet 'answers' are hidden, and are there to be read: label, note" in told


def test_a_hidden_sheet_that_alone_has_rows_is_named(tmp_path: Path) -> None:
    def behind(book: Any, sheet: Any) -> None:
        book.create_sheet("cover")
        book.active = 1
        sheet.sheet_state = "veryHidden"

    (told,) = notes(book(tmp_path / "a.xlsx", behind))
    assert "the sheet 'answers' is hidden, and is read" in told


def test_rows_that_are_deleted_as_told_are_told_no_more(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    book(path, hide(range(2, 8)))
    told = fedfm.probe("quickstart", data=str(path), model="tiny-encoder").remarks
    assert any("6 of 20 rows of the sheet 'answers' are hidden" in r for r in told)
    whole = openpyxl.load_workbook(path)
    whole["answers"].delete_rows(2, 6)
    for r in range(2, 8):
        whole["answers"].row_dimensions[r].hidden = False
    whole.save(path)
    parties = Files(str(path), test_fraction=0.0).open(0, TEXT)
    assert len(parties.pooled()) == 14 and not any("hidden" in n for n in parties.notes)


def _book(path: Path, rows: list[list[object]], joined: tuple[str, ...] = ()) -> str:
    book = pytest.importorskip("openpyxl").Workbook()
    for row in rows:
        book.active.append(row)
    for cells in joined:
        book.active.merge_cells(cells)
    book.save(path)
    return str(path)


WARD: list[list[object]] = [
    ["text", "label", "ward"],
    *[[f"note {i}", ("good", "bad")[i % 2], f"H{i // 10}"] for i in range(20)],
]


def test_cells_that_are_joined_over_rows_are_the_value_of_each_row(tmp_path: Path) -> None:
    plain = Files(_book(tmp_path / "a.xlsx", WARD), party_column="ward", test_fraction=0.0).open(0, TEXT)
    path = _book(tmp_path / "b.xlsx", WARD, ("C2:C11", "C12:C21"))
    joined = Files(path, party_column="ward", test_fraction=0.0).open(0, TEXT)
    assert joined.digest == plain.digest and joined.ids == ("H0", "H1")
    assert any("2 cells of the sheet 'Sheet' are joined over several rows" in n for n in joined.notes)


def test_a_title_above_the_names_and_formulas_without_values_are_refused(tmp_path: Path) -> None:
    path = _book(tmp_path / "a.xlsx", [["Export of ward 3"], [], *WARD], ("A1:C1",))
    told = said(lambda: Files(path).open(0, TEXT))
    assert told.startswith("1 problem") and "a.xlsx:1: the first row has one cell, 'Export of ward 3'" in told
    formulas = [WARD[0], *[[t, '=IF(MOD(ROW(),2)=0,"good","bad")', w] for t, _, w in WARD[1:]]]
    told = said(lambda: Files(_book(tmp_path / "b.xlsx", formulas)).open(0, TEXT))
    assert told.startswith("1 problem") and "20 formulas have no value (B2, B3, B4, ...)" in told
