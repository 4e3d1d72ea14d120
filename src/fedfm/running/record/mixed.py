"""Files of two runs in one directory, or files cut short: what a page or a table would otherwise tell as one run's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedfm.config import text
from fedfm.config.record import digest
from fedfm.core.errors import ConfigError, ResumeError
from fedfm.ledger import file as ledger
from fedfm.running.record.folder import CONFIG, RECORD
from fedfm.running.record.places import placed
from fedfm.running.record.seal import EVENTS, METRICS, SUMMARY, wrong

MOST = 40_000_000  # bytes of a ledger that is digested by its events, where no seal tells of its bytes
FIX = "restore it (copy a run directory as a whole)"


def mixed(folder: Path, summary: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A sentence for each file that is not as the ended run of this directory left it; none of a run that goes on.

    `lines`: those of metrics.jsonl. Files that are missing are for whoever misses them (`gone`).
    """
    record = plain(folder / RECORD)
    if not summary or record.get("complete") is False:
        return
    told = record.get("seal")
    seal = (
        {n: s for n, s in told.items() if n in (EVENTS, METRICS, SUMMARY)} if isinstance(told, dict) else {}
    )
    bad = [n for n, sha in seal.items() if (folder / n).is_file() and wrong(folder / n, str(sha))]
    if len(bad) > 1 and len(bad) == len(seal):
        yield f"{RECORD} and the other files are not of one run: {FIX}"
        return
    for name in bad:
        yield f"{name} is not as the run left it, but cut, changed or of another run: {FIX}"
    if not seal:
        yield from _unsealed(folder, summary, lines)
    yield from _config(folder, None if SUMMARY in bad else summary, record)


def gone(folder: Path) -> Iterator[str]:
    """A sentence for each file of a finished run that is not there."""
    yield from (f"{n} is missing: {FIX}" for n in (METRICS, EVENTS, CONFIG) if not (folder / n).is_file())


def _unsealed(folder: Path, summary: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """By what the summary alone tells of the two others."""
    rounds, scores = summary.get("rounds"), summary.get("metrics")
    path, made = folder / EVENTS, summary.get("ledger_digest")
    last = max((int(r["round"]) for r in lines), default=0)
    if not (folder / METRICS).is_file():
        pass
    elif isinstance(rounds, int) and rounds != last:
        yield f"{METRICS} ends with round {last}, and {SUMMARY} tells of {rounds}: restore what is not of this run"
    elif scores and scores not in [r.get("metrics") for r in lines]:
        yield f"{METRICS} has not the scores that {SUMMARY} tells of: restore what is not of this run"
    if not made or not path.is_file() or path.stat().st_size > MOST:
        return
    try:
        same = ledger.digest(path) == made
    except ResumeError:
        same = False
    if not same:
        yield f"{EVENTS} is not the ledger that {SUMMARY} was made from: restore what is not of this run"


def _config(folder: Path, summary: Mapping[str, Any] | None, record: Mapping[str, Any]) -> Iterator[str]:
    """config.yaml against the one that the run was of, by its record, else by its summary."""
    identity = record.get("identity")
    of = identity.get("config") if isinstance(identity, dict) else None
    told = digest(of) if isinstance(of, dict) else (summary or {}).get("config_digest")
    if not told or not (folder / CONFIG).is_file():
        return
    try:
        now = text.load(folder / CONFIG)
        moved = (
            digest(placed(of, now)) if isinstance(of, dict) else ""
        )  # what lies there is compared by digests
        same = told == digest(now) or moved == digest(now)
    except (ConfigError, TypeError, ValueError):
        yield f"{CONFIG} cannot be read: {FIX}"
        return
    if not same:
        keys = [k for k in sorted({*of, *now}) if of.get(k) != now.get(k)] if isinstance(of, dict) else []
        which = f" ({', '.join(keys[:5])})" if keys else ""
        yield f"{CONFIG} is not the one that the run was of{which}: fed back, it is another run; {FIX}"


def plain(path: Path) -> dict[str, Any]:
    """A JSON record as far as it can be read; empty where it cannot."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
