"""A run directory as read from disk: whatever of its files exists, and a note for whatever does not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fedfm.core.errors import ResumeError
from fedfm.report.folds import Facts, fold
from fedfm.report.numbers import count, finite, size

EVENT_BYTES = 40_000_000  # a longer ledger is read in whole rounds, evenly spaced: about a second of parsing
PARTS = ("summary.json", "metrics.jsonl", "events.jsonl")
_ROUND = re.compile(rb'"round"\s*:\s*(-?\d+)')


@dataclass(frozen=True)
class Run:
    """One run: `label` names it among several, `rounds` are the lines of metrics.jsonl in order of round."""

    path: Path
    label: str
    summary: dict[str, Any]
    rounds: tuple[dict[str, Any], ...]
    facts: Facts
    config: str | None
    notes: tuple[str, ...]
    sampled: bool


def read_runs(dirs: list[Path]) -> list[Run]:
    """Reads every directory, or raises one ResumeError that tells of all that are no run directory."""
    if not dirs:
        raise ResumeError(
            "no run directory was given: name at least one, as `fedfm run NAME --out DIR` writes it"
        )
    wrong = [_complaint(Path(d)) for d in dirs if not any((Path(d) / part).is_file() for part in PARTS)]
    if wrong:
        raise ResumeError("\n".join(wrong))
    return [_read(Path(d), label) for d, label in zip(dirs, _labels([Path(d) for d in dirs]), strict=True)]


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is a mapping, else an empty one: any field of a summary may be null."""
    return value if isinstance(value, dict) else {}


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


def _complaint(path: Path) -> str:
    if not path.exists():
        return f"{path}: there is no such directory; give the folder that `fedfm run NAME --out DIR` wrote"
    if not path.is_dir():
        return f"{path}: is a file; give the directory that holds summary.json and metrics.jsonl"
    found = sorted(p.name for p in path.iterdir())[:6]
    return (
        f"{path}: is no run directory: expected at least one of summary.json, metrics.jsonl, events.jsonl "
        f"(written by `fedfm run NAME --out DIR`), found {', '.join(found) or 'nothing'}"
    )


def _labels(paths: list[Path]) -> list[str]:
    """The shortest path ends that tell the runs apart; a run given twice gets a number."""
    parts = [p.resolve().parts for p in paths]
    labels: list[str] = []
    for i, own in enumerate(parts):
        others = [p for j, p in enumerate(parts) if j != i and p != own]
        depth = next((d for d in range(1, len(own)) if all(p[-d:] != own[-d:] for p in others)), len(own))
        twice = parts[:i].count(own)
        labels.append("/".join(own[-depth:]) + (f" ({twice + 1})" if twice else ""))
    return labels


def _read(path: Path, label: str) -> Run:
    notes: list[str] = []
    summary: dict[str, Any] = {}
    if (path / "summary.json").is_file():
        try:
            summary = mapping(json.loads((path / "summary.json").read_bytes()))
        except (ValueError, RecursionError):
            notes.append("summary.json is damaged and was left out")
    else:
        notes.append("summary.json is missing: the run was interrupted or still goes on")
    rounds: list[dict[str, Any]] = []
    if (path / "metrics.jsonl").is_file():
        rounds, bad = read_lines(path / "metrics.jsonl")
        if bad:
            notes.append(f"{count(bad)} unreadable line(s) of metrics.jsonl were left out")
        rounds = [r for r in rounds if finite(r.get("round")) is not None]
        # A resumed run may repeat a round: the last line of a round counts.
        rounds = sorted({int(r["round"]): r for r in rounds}.values(), key=lambda r: r["round"])
    else:
        notes.append("metrics.jsonl is missing: no curves")
    failed = {int(r["round"]): _why(r) for r in rounds if r.get("failed")}
    facts, sampled = Facts(failed_rounds=failed), False
    if (path / "events.jsonl").is_file():
        events = _Events(path / "events.jsonl")
        facts = fold(events, failed)
        sampled = events.sampled
        notes.extend(events.notes())
    else:
        notes.append("events.jsonl is missing: nothing is known about single parties")
    config = None
    if (path / "config.yaml").is_file():
        config = (path / "config.yaml").read_text(encoding="utf-8", errors="replace")
    else:
        notes.append("config.yaml is missing: the run cannot be repeated from this directory")
    return Run(path, label, summary, tuple(rounds), facts, config, tuple(notes), sampled)


def _why(row: dict[str, Any]) -> str:
    reason = row["failed"]  # text, empty in a round that gave a model
    return reason if isinstance(reason, str) else "no reason noted"


class _Events:
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
        read = start = 0
        windows = 1
        done: set[int] = set()
        index = 0
        while index < windows and read < EVENT_BYTES:
            file.seek(start)
            skip = None if start == 0 else -1  # inside a round: skip to the next one
            if start:
                file.readline()
            own: int | None = None
            for line in file:
                read += len(line)
                found = _ROUND.search(line, 0, 400)
                number = int(found.group(1)) if found else own if own is not None else 0
                if skip is not None and skip < 0:
                    skip = number
                # What an earlier round began may end here: such events name that earlier round.
                if skip is not None and number <= skip and own is None:
                    continue
                if own is None:
                    if number in done:
                        break
                    own = number
                elif number > own:
                    break
                yield line
            if own is not None:
                done.add(own)
            if index == 0:
                # Reaching the next round costs about half a round more; leave room for it.
                windows = max(2, min(400, int(EVENT_BYTES / (1.6 * max(read, 1)))))
            index += 1
            start = self.bytes * index // windows
        self.seen = len(done)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
