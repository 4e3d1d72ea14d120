"""JSON lines of a run directory: all of a file, or of a very long ledger whole rounds, evenly spaced."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from fedfm.report.numbers import count, size

EVENT_BYTES = 40_000_000  # a longer ledger is read in whole rounds: about a second of parsing
_ROUND = re.compile(rb'"round"\s*:\s*(-?\d+)')


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """All JSON objects of a JSONL file, and how many lines could not be read (a torn last line, say)."""
    rows: list[dict[str, Any]] = []
    bad = 0
    with path.open("rb") as file:
        for line in file:
            row = _parse(line)
            if row is not None:
                rows.append(row)
            elif line.strip():
                bad += 1
    return rows, bad


class Events:
    """Iterates over a ledger once; a very long one in evenly spaced whole rounds (rounds are in order)."""

    def __init__(self, path: Path):
        self.path, self.bytes, self.bad, self.seen = path, path.stat().st_size, 0, 0
        self.sampled = self.bytes > EVENT_BYTES

    def notes(self) -> list[str]:
        found = [f"{count(self.bad)} unreadable line(s) of events.jsonl were left out"] if self.bad else []
        if self.sampled:
            found.append(
                f"events.jsonl holds {size(self.bytes)}: {count(self.seen)} rounds, evenly spaced, were read "
                "for the figures on parties and wire stages; curves, bytes, time and privacy are complete"
            )
        return found

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self.path.open("rb") as file:
            for line in self._spaced(file) if self.sampled else file:
                row = _parse(line)
                if row is not None:
                    yield row
                elif line.strip():
                    self.bad += 1

    def _spaced(self, file: BinaryIO) -> Iterator[bytes]:
        read = index = 0
        windows, done = 1, set[int]()
        while index < windows and read < EVENT_BYTES:
            start = self.bytes * index // windows
            file.seek(start)
            lines = _WholeRound(file, done, inside=start > 0)
            yield from lines
            read += lines.read
            if index == 0:
                # Reaching the next round costs about half a round more; leave room for it.
                windows = max(2, min(400, int(EVENT_BYTES / (1.6 * max(read, 1)))))
            index += 1
        self.seen = len(done)


class _WholeRound:
    """The lines of the first whole round from where the file stands, unless it is among the rounds `done`."""

    def __init__(self, file: BinaryIO, done: set[int], inside: bool):
        self.file, self.done, self.inside, self.read = file, done, inside, 0

    def __iter__(self) -> Iterator[bytes]:
        if self.inside:
            self.file.readline()
        own: int | None = None
        skip: int | None = None  # the round that is cut by where we stand
        for line in self.file:
            self.read += len(line)
            found = _ROUND.search(line, 0, 400)
            number = int(found.group(1)) if found else own or 0
            if own is None:
                skip = number if self.inside and skip is None else skip
                # What an earlier round began may end here: such events name that earlier round.
                if skip is not None and number <= skip:
                    continue
                if number in self.done:
                    return
                own = number
                self.done.add(own)
            elif number > own:
                return
            yield line


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
