"""The ledger: one canonical order, and nothing of what was not committed."""

from __future__ import annotations

import itertools
from pathlib import Path

from fedfm.core import ledger


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
