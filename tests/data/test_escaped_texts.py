"""Texts that spell their line ends or their quotation marks are told, whoever has them; code, LaTeX and paths are not."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pytest
from bring import LM, TEXT, chat, jsonl

from fedfm.data.arrays import Arrays
from fedfm.data.files import Files


def notes(data: Any, columns: Any = LM) -> list[str]:
    return [n for n in data.open(0, columns).notes if " spell " in n]


def rows(text: str, n: int = 12, answer: str = "good") -> list[dict[str, str]]:
    return [{"instruction": text.replace(" #", f" {i}"), "answer": f"{answer} {i}"} for i in range(n)]


def parties(**texts: str) -> Arrays:
    return Arrays({p: rows(t) for p, t in texts.items()}, test_fraction=0.0)


@pytest.mark.parametrize(
    ("real", "spelled", "mark"),
    [
        ("alpha\nbravo #", "alpha\\nbravo #", "\\n in 2"),
        ('say "it" #', 'say \\"it\\" #', '\\" in 2'),
        ("caf\u00e9 #", "caf\\u00e9 #", "\\u00e9 in 6"),
        ('say "it" #', "say &quot;it&quot; #", "&quot; in 6"),
        ("it's #", "it&#39;s #", "&#39; in 5"),
    ],
)
def test_one_party_spells_what_another_has(real: str, spelled: str, mark: str) -> None:
    (note,) = notes(parties(a=real, b=spelled))
    assert note.startswith("12 of 12 rows of train['b'] spell " + mark)
    assert "where train['a'] has the character itself" in note
    assert not notes(parties(a=real, b=real))
    mended = html.unescape(spelled) if "&" in spelled else json.loads('"' + spelled + '"')
    assert mended == real  # as the fix says


def test_some_rows_are_told_beside_others_and_alone_where_they_are_many() -> None:
    few = [*rows("a\\nb #", 4), *rows("c #", 20)]
    assert notes(Arrays({"a": rows("a\nb #"), "b": few}, test_fraction=0.0))
    assert not notes(Arrays({"a": rows("a b #"), "b": few}, test_fraction=0.0))
    (note,) = notes(parties(a="a\\nb #", b="c\\nd #"))
    assert note.startswith("24 of 24 rows of train['a'], train['b']") and "itself" not in note


@pytest.mark.parametrize(
    "text",
    [
        r"$\nabla f = \lambda g$ #",
        r"$a \neq \frac{1}{2}$ #",
        r"open C:\new\docs #",
        "print('a\\n')\nprint( #)",
        "AT&T; fish & chips #",
        r"a \times b #",
    ],
)
def test_latex_paths_and_code_are_not(text: str) -> None:
    assert not notes(parties(a=text, b=text)) and not notes(parties(a="x\ny #", b=text))


def test_of_chats_of_labelled_texts_and_of_test_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    jsonl(Path("a.jsonl"), [chat(f"q {i}", "first\\nsecond") for i in range(12)])
    assert notes(Files("a.jsonl"))
    labelled = [{"text": f"good &amp; bad {i}", "label": "xy"[i % 2]} for i in range(12)]
    jsonl(Path("b.jsonl"), labelled)
    assert "spell &amp;" in notes(Files("b.jsonl"), TEXT)[0]
    jsonl(Path("c.jsonl"), [{**r, "text": html.unescape(r["text"])} for r in labelled])
    (note,) = notes(Files("c.jsonl", test_path="b.jsonl"), TEXT)
    assert "rows of b.jsonl" in note and "where c.jsonl has the character itself" in note
