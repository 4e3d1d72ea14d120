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
from typing import Any

from fedfm.core.errors import ResumeError
from fedfm.files import cannot_write
from fedfm.ledger.events import KINDS, Line


class Ledger:
    """An append-only file of JSON lines; `length` bytes of it are committed."""

    def __init__(self, path: Path, length: int = 0):
        self.path, self.length = path, length
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as f:
                if f.tell() < length:
                    raise ResumeError(
                        f"{path} is shorter than its checkpoint says ({f.tell()} of {length} bytes): restore it"
                    )
                f.truncate(length)  # what an interrupted round wrote is not committed
        except OSError as e:
            raise cannot_write(path, e) from e

    def commit(self, events: Iterable[Line]) -> None:
        """Append the events of one round, sorted by client, kind and content (arrival order is an engine's own).

        Strict JSON: a number that is not finite becomes null. All or nothing; raises MachineFault.
        """
        rows = [(e.get("client") or "", e["kind"], line(e)) for e in events]
        data = b"".join(text.encode() + b"\n" for _, _, text in sorted(rows))
        try:
            with self.path.open("ab") as f:
                f.truncate(self.length)  # an append that failed half-way left a part
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
        except OSError as e:
            raise cannot_write(self.path, e) from e
        self.length += len(data)


def line(event: Any) -> str:
    """One line of strict JSON: NaN and Infinity, which it does not know, are null."""
    try:
        return json.dumps(event, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return json.dumps(
            json.loads(json.dumps(event), parse_constant=lambda word: None), separators=(",", ":")
        )


def read(path: Path) -> Iterator[Line]:
    """The events of a ledger file; raises ResumeError on a line that is none, and for a file that cannot be read."""
    try:
        file = path.open("rb")
    except OSError as e:
        raise ResumeError(f"{path} cannot be read ({e.strerror or e}): restore it") from e
    with file as f:
        for number, raw in enumerate(f, 1):
            if not raw.endswith(b"\n"):
                return
            try:
                event = json.loads(raw.decode())
                if not isinstance(event, dict) or not event.keys() & {"kind", "round"}:
                    raise ValueError("it is no event and no record of a round")
            except (ValueError, RecursionError) as e:
                raise ResumeError(f"{path}, line {number}, is damaged ({e}): restore it") from e
            yield event


def digest(path: Path) -> str:
    """SHA-256 over every event that no clock made."""
    clocked, h = {cls.kind for cls in KINDS.values() if cls.clocked}, hashlib.sha256()
    for e in read(path):
        if e["kind"] not in clocked:
            h.update(json.dumps(e, sort_keys=True).encode())
    return h.hexdigest()
