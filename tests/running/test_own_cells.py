"""Own code that has no file: a notebook's cells are compared by the source of what a run uses of them."""

from __future__ import annotations

import linecache
import sys
import types
from pathlib import Path

import pytest

from fedfm.running.record import own

CELL = """
from dataclasses import dataclass

SCALE = 2.0

def doubled(x):
    return x * SCALE

@dataclass(frozen=True)
class Twice:
    lossless = False
    scale: float = 1.0

    def encode(self, x):
        return doubled(x)

    @property
    def factor(self):
        return 2.0

def unused(x):
    return x
"""


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (("return doubled(x)", "return doubled(x) + 1"), True),  # a method
        (("return x * SCALE", "return x * SCALE + 0"), True),  # what it calls
        (("        return 2.0", "        return 3.0"), True),  # a property
        (("lossless = False", "lossless = True"), True),  # a fact
        (("def unused(x):\n    return x", "def unused(x):\n    return -x"), False),
        (("\nfrom dataclasses", "\n\n\nfrom dataclasses"), False),
    ],
)
def test_a_notebooks_own_code_is_recorded_by_its_source(
    change: tuple[str, str], seen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kernel(source: str, cell: str) -> types.ModuleType:
        made = types.ModuleType("__main__")
        monkeypatch.setitem(sys.modules, "__main__", made)
        monkeypatch.setitem(linecache.cache, cell, (len(source), None, source.splitlines(True), cell))
        exec(compile(source, cell, "exec"), vars(made))
        return made

    before = own.modules({"uplink": [kernel(CELL, "<cell-1>").Twice()]})
    assert before["__main__"]["file"] == "" and before["__main__"]["uses"] == "Twice"
    kernel(CELL, "<cell-1-again>")
    assert own.bring(before, (), tmp_path) == before
    kernel(CELL.replace(*change), "<cell-2>")
    assert (own.bring(before, (), tmp_path) != before) == seen
    old = {"__main__": {"file": "", "sha256": ""}}  # as it was recorded before
    assert own.bring(old, (), tmp_path) == old
    kernel("", "<another kernel>")
    assert own.bring(before, (), tmp_path) == before  # nothing to compare it with
