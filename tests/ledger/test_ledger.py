"""The ledger: one canonical order, and nothing of what was not committed."""

from __future__ import annotations

import errno
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest

from fedfm.core.errors import MachineFault, ResumeError
from fedfm.ledger import file as ledger


def test_ledger_is_canonical_and_forgets_what_was_not_committed(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    events = [
        {"round": 0, "kind": k, "client": c}
        for k, c in itertools.product(("b", "a", "seconds"), ("p2", None, "p1"))
    ]
    log = ledger.Ledger(path)
    log.commit(events)
    assert [(e["client"], e["kind"]) for e in ledger.read(path)][:4] == [
        (None, "a"),
        (None, "b"),
        (None, "seconds"),
        ("p1", "a"),
    ]
    length, digest = log.length, ledger.digest(path)
    log.commit([{"round": 1, "kind": "x", "client": None}])
    with path.open("ab") as f:
        f.write(b'{"round": 2, "ki')  # the process died here
    again = ledger.Ledger(path, length)
    assert ledger.digest(path) == digest and again.length == length == path.stat().st_size
    other = ledger.Ledger(tmp_path / "o.jsonl")
    other.commit([{**e, "wall": 3.0} if e["kind"] == "seconds" else e for e in reversed(events)])
    assert ledger.digest(tmp_path / "o.jsonl") == digest  # neither order of arrival nor clocks count


def test_a_ledger_is_strict_json(tmp_path: Path) -> None:
    """NaN and Infinity are no JSON: other tools stop at such a line."""
    path = tmp_path / "e.jsonl"
    log = ledger.Ledger(path)
    event = {
        "round": 0,
        "kind": "x",
        "client": None,
        "norm": math.inf,
        "deep": [{"a": -math.inf}, (math.nan, 1.5)],
    }
    log.commit([event])

    def refuse(word: str) -> None:
        raise AssertionError(word)

    (row,) = [json.loads(text, parse_constant=refuse) for text in path.read_text().splitlines()]
    assert row == {**event, "norm": None, "deep": [{"a": None}, [None, 1.5]]} == next(ledger.read(path))
    assert event["norm"] == math.inf


def test_a_commit_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "e.jsonl"
    log = ledger.Ledger(path)
    log.commit([{"round": 0, "kind": "a", "client": None}])
    whole, sync = path.read_bytes(), ledger.os.fsync

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ledger.os, "fsync", full)
    with pytest.raises(MachineFault, match="the disk is full"):
        log.commit([{"round": 1, "kind": "b", "client": None}])
    monkeypatch.setattr(ledger.os, "fsync", sync)
    log.commit([{"round": 1, "kind": "c", "client": None}])
    assert path.read_bytes().startswith(whole) and [e["kind"] for e in ledger.read(path)] == ["a", "c"]
    with pytest.raises(MachineFault, match="cannot be written"):
        ledger.Ledger(path / "below" / "e.jsonl")


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    for damage in (b"{]\n", b"\xff\n", b"null\n", b"[1]\n", b"{}\n", b"[" * 100_000 + b"\n"):
        path.write_bytes(b'{"kind": "a"}\n' + damage)
        with pytest.raises(ResumeError, match="e.jsonl, line 2, is damaged"):
            list(ledger.read(path))


def test_a_ledger_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("folder", "nowhere"):
        with pytest.raises(ResumeError, match=f"{name} cannot be read"):
            list(ledger.read(tmp_path / name))
