"""What a finished run left, by its bytes: asked for again, it is what it was, or what is damaged is named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedfm.core.errors import ResumeError
from fedfm.ledger import file as ledger

EVENTS, METRICS, SUMMARY = "events.jsonl", "metrics.jsonl", "summary.json"
FREE = "README.md"  # of a model: for people, who may write into it


def sealed(folder: Path, model: str) -> dict[str, str]:
    """SHA-256 of the ledger, the metrics, the summary and every file of the model, by path from the run directory."""
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in _files(folder, model)}


def unbroken(
    folder: Path, seal: Mapping[str, str], summary: Mapping[str, Any], *, again: bool = True
) -> None:
    """Raises ResumeError that names what is not as the run left it, and what to do. Runs without a seal: the ledger alone.

    `again`: whether a model that is gone is written again.
    """
    bad = {name: why for name, told in seal.items() if (why := wrong(folder / name, told))}
    told = summary.get("ledger_digest")
    if EVENTS not in seal and told and ledger.digest(folder / EVENTS) != told:
        bad[EVENTS] = "it is not the ledger that summary.json was made from"
    if not bad:
        return
    lost = [name for name in bad if not again or name in (EVENTS, METRICS)]
    models = {name.partition("/")[0] for name in bad if name not in lost}
    fixes = [f"restore {' and '.join(lost)} (copy a run directory as a whole)"] if lost else []
    fixes += [f"delete {folder / name}, and fedfm resume {folder} writes it again" for name in sorted(models)]
    raise ResumeError(
        f"{folder} is finished, and damaged since\n    "
        + "\n    ".join(f"{name}: {why}" for name, why in list(bad.items())[:10])
        + f"\n    fix: {'; '.join(fixes)}"
    )


def _files(folder: Path, model: str) -> Iterator[Path]:
    yield from (path for name in (EVENTS, METRICS, SUMMARY) if (path := folder / name).is_file())
    yield from (p for p in sorted((folder / model).rglob("*")) if p.is_file() and p.name != FREE)


def wrong(path: Path, told: str) -> str:
    """What is wrong with a file of this digest; empty: nothing."""
    try:
        return "" if _sha256(path) == told else "its bytes are not those that the run wrote"
    except OSError as e:
        return f"it cannot be read ({e.strerror or e})"


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
