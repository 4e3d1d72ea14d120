"""A run directory as read from disk: whatever of its files exists, and a note for whatever does not."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedfm.core.errors import ResumeError
from fedfm.report.folds import Facts, fold
from fedfm.report.ledgers import Events, read_lines
from fedfm.report.numbers import count, finite
from fedfm.running.record.mixed import mixed
from fedfm.text import line, natural

SWEEP, AUDIT = "sweep.json", "audit.json"
PARTS = ("summary.json", "metrics.jsonl", "events.jsonl")


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
    audits: dict[str, Any] = field(default_factory=dict)  # findings by the audit's name


def read_runs(dirs: list[Path]) -> list[Run]:
    """Reads every directory, of a sweep's directory all its runs; one ResumeError tells of all that are no runs."""
    if not dirs:
        raise ResumeError(
            "no run directory was given: name at least one, as `fedfm run NAME --out DIR` writes it"
        )
    found = {d: _runs_in(Path(d)) for d in dirs}
    if wrong := [_complaint(Path(d)) for d, inner in found.items() if not inner]:
        raise ResumeError("\n".join(wrong))
    paths = [p for d in dirs for p in found[d]]
    return [_read(p, label) for p, label in zip(paths, _labels(paths), strict=True)]


def _runs_in(path: Path) -> list[Path]:
    """The directory itself, if it is a run; the runs in it, if it is a sweep's."""
    if any((path / part).is_file() for part in PARTS):
        return [path]
    return _inside(path) if (path / SWEEP).is_file() else []


def _inside(path: Path) -> list[Path]:
    """The run directories right below this one."""
    return sorted({p.parent for part in PARTS for p in path.glob(f"*/{part}")}, key=lambda p: natural(p.name))


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is a mapping, else an empty one: any field of a summary may be null."""
    return value if isinstance(value, dict) else {}


def _complaint(path: Path) -> str:
    if not path.exists():
        return f"{path}: there is no such directory; give the folder that `fedfm run NAME --out DIR` wrote"
    if not path.is_dir():
        return f"{path}: is a file; give the directory that holds summary.json and metrics.jsonl"
    if inside := _inside(path):
        names = ", ".join(line(p) for p in inside[:3])
        return f"{path}: is no run directory, but holds {len(inside)}: name those you mean, such as {names}"
    found = sorted(p.name for p in path.iterdir())[:6]
    return (
        f"{path}: is no run directory: expected at least one of summary.json, metrics.jsonl, events.jsonl "
        f"(written by `fedfm run NAME --out DIR`), found {', '.join(map(line, found)) or 'nothing'}"
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
    summary = _summary(path / "summary.json", notes)
    rounds = _rounds(path / "metrics.jsonl", notes)
    failed = {int(r["round"]): _why(r) for r in rounds if r.get("failed")}
    facts, sampled = Facts(failed_rounds=failed), False
    if (path / "events.jsonl").is_file():
        events = Events(path / "events.jsonl")
        facts, sampled = fold(events, failed), events.sampled
        notes.extend(events.notes())
    else:
        notes.append("events.jsonl is missing: nothing is known about single parties")
    config = None
    if (path / "config.yaml").is_file():
        config = (path / "config.yaml").read_text(encoding="utf-8", errors="replace")
    else:
        notes.append("config.yaml is missing: the run cannot be repeated from this directory")
    audits = mapping(_record(path / AUDIT, notes).get("audits")) if (path / AUDIT).is_file() else {}
    notes.extend(mixed(path, summary, rounds))
    return Run(path, label, summary, tuple(rounds), facts, config, tuple(notes), sampled, audits)


def _summary(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.is_file():
        notes.append("summary.json is missing: the run was interrupted or still goes on")
        return {}
    return _record(path, notes)


def _record(path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        return mapping(json.loads(path.read_bytes()))
    except (ValueError, RecursionError):
        notes.append(f"{path.name} is damaged and was left out")
        return {}


def _rounds(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        notes.append("metrics.jsonl is missing: no curves")
        return []
    rounds, bad = read_lines(path)
    if bad:
        notes.append(f"{count(bad)} unreadable line(s) of metrics.jsonl were left out")
    rounds = [r for r in rounds if finite(r.get("round")) is not None]
    # A resumed run may repeat a round: the last line of a round counts.
    return sorted({int(r["round"]): r for r in rounds}.values(), key=lambda r: r["round"])


def _why(row: dict[str, Any]) -> str:
    reason = row["failed"]  # text, empty in a round that gave a model
    return reason if isinstance(reason, str) else "no reason noted"
