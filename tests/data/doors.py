"""Doors and layouts of the matrix: the same rows in every format that people have, and what they mean."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from bring import LM, PICTURE, TEXT

from fedfm.tasks.text.preference import Preference
from fedfm.tasks.text.regress import TextRegression

Rows = list[dict[str, Any]]
N = 24


def _turns(i: int) -> list[tuple[str, str]]:
    said = [
        ("system", "be short"),
        ("user", f"what is {i}?"),
        ("assistant", f"it is\n{i}"),
        ("user", "and?"),
        ("assistant", "no"),
    ]
    return said[i % 2 : 3 if i % 3 else 5]


def _pixels(i: int) -> list[list[int]]:
    return [[int(v) for v in row] for row in np.random.default_rng(i).integers(0, 256, (8, 8))]


ODD = (
    "plain {}",
    'a "quoted", {}',
    "two\nlines {}",
    "ünïcödé 🙂 {}",
    " blanks {} ",
    "tab\there {}",
    "[INST] {} [/INST]",
    "semi; pipe| {}",
)
LAYOUTS: dict[str, tuple[Any, Callable[[int], dict[str, Any]]]] = {
    "labelled": (TEXT, lambda i: {"text": ODD[i % 8].format(i), "label": i % 3}),
    "named": (
        TEXT,
        lambda i: {
            "text": ODD[i % 8].format(i),
            "label": ("café", "no", "Yes, it is")[i % 3],
            "group": f"g{i % 2}",
        },
    ),
    "asked": (
        LM,
        lambda i: {
            "instruction": ODD[i % 8].format(i),
            "answer": f"    {i}\n",
            "input": "ctx" if i % 2 else "",
        },
    ),
    "messages": (LM, lambda i: {"messages": [{"role": r, "content": c} for r, c in _turns(i)]}),
    "sharegpt": (
        LM,
        lambda i: {
            "id": f"n{i}",
            "conversations": [
                {"from": {"user": "human", "assistant": "gpt"}.get(r, r), "value": c} for r, c in _turns(i)
            ],
        },
    ),
    "pairs": (
        Preference.columns,
        lambda i: {"instruction": f"q{i}", "chosen": f"good {i}", "rejected": f"bad {i % 2}"},
    ),
    "images": (PICTURE, lambda i: {"image": _pixels(i), "label": "ab"[i % 2]}),
    "regression": (
        TextRegression.columns,
        lambda i: {"text": f"t{i}", "text_pair": f"u{i}", "number": i / 8},
    ),
}


# ---- doors: rows to a source ----------------------------------------------------------------------------------
def _flat(value: Any) -> Any:
    """How tables hold what is nested: as JSON text."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _separated(mark: str) -> Callable[[Rows, Path], str]:
    def write(rows: Rows, folder: Path) -> str:
        out = io.StringIO()
        table = csv.DictWriter(out, list(rows[0]), delimiter=mark)
        table.writeheader()
        table.writerows({k: _flat(v) for k, v in r.items()} for r in rows)
        path = folder / ("x.tsv" if mark == "\t" else "x.csv")
        path.write_text(out.getvalue(), encoding="utf-8", newline="")
        return str(path)

    return write


def _packed(pack: Callable[[bytes], bytes], ending: str) -> Callable[[Rows, Path], str]:
    def write(rows: Rows, folder: Path) -> str:
        path = folder / f"x.jsonl{ending}"
        path.write_bytes(pack("\n".join(map(json.dumps, rows)).encode()))
        return str(path)

    return write


def _json(rows: Rows, folder: Path) -> str:
    (folder / "x.json").write_text(json.dumps(rows, indent=1))
    return str(folder / "x.json")


def _excel(rows: Rows, folder: Path) -> str:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(list(rows[0]))
    for r in rows:
        book.active.append([_flat(v) for v in r.values()])
    book.save(folder / "x.xlsx")
    return str(folder / "x.xlsx")


def _parquet(rows: Rows, folder: Path) -> str:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.Table.from_pylist(rows), folder / "x.parquet")
    return str(folder / "x.parquet")


def _frame(rows: Rows, folder: Path) -> Any:
    return pytest.importorskip("pandas").DataFrame(rows)


def _dataset(rows: Rows, folder: Path) -> Any:
    return pytest.importorskip("datasets").Dataset.from_list(rows)


def _columns(rows: Rows, folder: Path) -> Any:
    return {k: [r[k] for r in rows] for k in rows[0]}


def _arrays(rows: Rows, folder: Path) -> Any:
    """What arrays can hold: an input and what belongs to it."""
    if set(rows[0]) != {"image", "label"}:
        return (np.array([len(str(r)) for r in rows], dtype="float32"), [str(r) for r in rows])
    return np.array([r["image"] for r in rows], dtype="uint8"), np.array([r["label"] for r in rows])


DOORS: dict[str, Callable[[Rows, Path], Any]] = {
    "csv": _separated(","),
    "semicolon": _separated(";"),
    "pipe": _separated("|"),
    "tsv": _separated("\t"),
    "json": _json,
    "gz": _packed(gzip.compress, ".gz"),
    "zst": _packed(lambda b: zstandard.ZstdCompressor().compress(b), ".zst"),
    "xlsx": _excel,
    "parquet": _parquet,
    "frame": _frame,
    "dataset": _dataset,
    "rows": lambda rows, folder: rows,
    "columns": _columns,
    "arrays": _arrays,
}
