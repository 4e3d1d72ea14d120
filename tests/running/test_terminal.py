"""What stands in the terminal: whole names in a pipe, what a run left out, and where the loss is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from fedfm import models
from fedfm.cards.describing import describe
from fedfm.cards.registry import load
from fedfm.cli import app
from fedfm.running.printed import table


def test_nothing_is_cut_in_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / ("a-long-name-of-a-folder-" * 6)
    monkeypatch.setenv("FEDFM_CACHE", str(cache))
    monkeypatch.setenv("COLUMNS", "60")
    folder = models.path("tiny-encoder")
    for command, words in (
        (["models"], [folder, "tiny-causal-lm"]),
        (["show", "files"], ["test_fraction", "party_column"]),
    ):
        said = subprocess.run(
            [sys.executable, "-m", "fedfm", *command], capture_output=True, text=True, check=True
        ).stdout
        assert all(word in said for word in words) and "\u2026" not in said, said
    docs = [f["doc"] for f in describe(load("files"))]
    assert all(doc in said for doc in docs)  # each on one line


def summary(**more: Any) -> dict[str, Any]:
    return {
        "metric": {"name": "accuracy", "base": 0.1, "local": None, "federated": 0.5, "pooled": None},
        "privacy": None,
        "bytes": {"up": 1, "down": 1, "talk": 0},
        "trainable_parameters": 1,
        "total_parameters": 2,
        "failures": {},
        "seconds": 1.0,
        "dropped": {},
        **more,
    }


def test_rows_left_out_are_counted_at_the_end_of_a_run() -> None:
    def shown(**more: Any) -> str:
        console = Console(width=200)
        with console.capture() as said:
            console.print(table(summary(**more), "runs/x"))
        return said.get()

    assert "rows left out" not in shown()
    (line,) = [
        line for line in shown(dropped={"no label": 3, "no text": 1}).splitlines() if "rows left out" in line
    ]
    assert line.split()[3:] == ["3", "(no", "label),", "1", "(no", "text)"]


def test_inspect_says_that_the_label_of_a_text_carries_the_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDFM_CACHE", str(tmp_path / "cache"))
    rows = [
        {"text": f"row {i}", "label": "ab"[i % 2], "instruction": f"add {i}", "answer": "one"}
        for i in range(8)
    ]
    path = tmp_path / "party.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    ours = ["data=files", f"data.path={path}"]
    said = CliRunner().invoke(app, ["inspect", "quickstart", *ours, "task.model=tiny-encoder"]).output
    assert "tokens; the label carries the loss" in said and " 0 of them" not in said
    columns = "data.columns={instruction: instruction, answer: answer}"
    said = CliRunner().invoke(app, ["inspect", "fedit", *ours, columns, "task.model=tiny-causal-lm"]).output
    assert "of them carry loss (green)" in said and "; 0 of them" not in said
