"""An answer stands beside every text of a file: one that is empty is named, whatever the file is."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedfm.core.errors import DataError
from fedfm.running.commands.tuned import read_texts
from fedfm.tasks.export import Tuned


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.txt", "one\n\ntwo\n"),
        ("t.csv", "text,n\none,1\n,2\n"),
        ("t.jsonl", '{"text": "one"}\n{"text": " "}\n'),
    ],
)
def test_an_empty_text_is_named(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=r"no text in (line|row) 2"):
        read_texts(tmp_path / name)


def test_one_text_is_no_list_of_letters() -> None:
    with pytest.raises(DataError, match=r"predict\(\[text\]\)"):
        Tuned(None, None, None).predict("good")  # type: ignore[arg-type]
