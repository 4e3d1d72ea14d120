"""The ledger: facts as events, committed once per round, in one canonical order.

Accountants, the report and the summary are folds over it. Its digest leaves out what a clock measured, so two
engines (or a resumed run) must produce the same digest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from fedfm.core.context import Event
from fedfm.core.errors import ResumeError

MEASURED = frozenset({"seconds"})  # kinds that a clock made


class Ledger:
    """An append-only file of JSON lines; `length` bytes of it are committed."""

    def __init__(self, path: Path, length: int = 0):
        self.path, self.length = path, length
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as f:
            if f.tell() < length:
                raise ResumeError(
                    f"{path} is shorter than its checkpoint says ({f.tell()} of {length} bytes): restore it"
                )
            f.truncate(length)  # what an interrupted round wrote is not committed

    def commit(self, events: Iterable[Event]) -> None:
        """Append the events of one round, sorted by client, kind and content (arrival order is an engine's own)."""
        rows = [(e.get("client") or "", e["kind"], json.dumps(e, separators=(",", ":"))) for e in events]
        data = b"".join(line.encode() + b"\n" for _, _, line in sorted(rows))
        with self.path.open("ab") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        self.length += len(data)


def read(path: Path) -> Iterator[Event]:
    """The events of a ledger file."""
    with path.open(encoding="utf-8") as f:
        for line in f:
            if line.endswith("\n"):
                yield json.loads(line)


def digest(path: Path) -> str:
    """SHA-256 over every event that no clock made."""
    h = hashlib.sha256()
    for e in read(path):
        if e["kind"] not in MEASURED:
            h.update(json.dumps(e, sort_keys=True).encode())
    return h.hexdigest()
