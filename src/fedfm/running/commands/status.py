"""How a run stands, from its folder alone: nothing is asked of its process, and nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedfm.config import text
from fedfm.core.errors import ConfigError, FedfmError, ResumeError
from fedfm.ledger import file as ledger
from fedfm.report.folds import OUTCOMES, fold
from fedfm.running.record.folder import CONFIG, RECORD, holder, recorded
from fedfm.running.record.mixed import gone, mixed
from fedfm.running.verdict import FINDINGS, FINISHED, INTERRUPTED, Result

WAITING, RUNNING = "not begun", "under way"


@dataclass(frozen=True)
class Status:
    """A run as its files have it.

    `state`: not begun, under way, or how it ended, in the words of its summary (finished, failed, ...; interrupted for a
    process that is gone without a word). `round`: the
    last that is sealed (0: none yet), `of` how many (None: not written yet), `lost`: how many of them gave no model.
    `began`, `sealed`: when it was begun or resumed, and when its last round was sealed, as its files' dates have it
    (ISO 8601, UTC). `parties`: what each did in the last round; `invited`: who may take part in a served run.
    Who is linked at this moment is in no file.
    """

    folder: str
    state: str
    reasons: tuple[str, ...] = ()
    round: int = 0
    of: int | None = None
    lost: int = 0
    began: str | None = None
    sealed: str | None = None
    scores: dict[str, float] = field(default_factory=dict)  # the last that were taken
    parties: dict[str, str] = field(default_factory=dict)
    invited: tuple[str, ...] = ()
    served: bool = False
    address: str = ""
    process: str = ""  # that writes to the folder now


def status(folder: Path) -> Status:
    """How the run in `folder` stands. Raises ResumeError for a folder that is none of a run, and for damaged files."""
    process = holder(folder)
    begun = (folder / CONFIG).exists() or (folder / RECORD).exists()
    if not begun and not process:
        recorded(folder)  # says what is missing
    record = recorded(folder) if begun else {}
    real = record.get("real")
    lines = list(ledger.read(path)) if (path := folder / "metrics.jsonl").exists() else []
    rounds = {int(r["round"]): r for r in lines}  # a resumed run may repeat one: its last line counts
    done = max(rounds, default=0)
    state, reasons = _state(folder, record, lines, process, begun)
    scores: dict[str, Any] = next(
        (r["metrics"] for _, r in sorted(rounds.items(), reverse=True) if r.get("metrics")), {}
    )
    return Status(
        str(folder),
        state,
        tuple(reasons),
        done,
        _of(folder / CONFIG),
        sum(bool(r.get("failed")) for r in rounds.values()),
        _date(folder / CONFIG),
        _date(path) if done else None,
        {k: v for k, v in scores.items() if isinstance(v, int | float)},
        dict(_parties(folder, done)) if done else {},
        tuple(_invited(folder, real)),
        bool(real) or (folder / "authority").is_dir(),
        str((real or {}).get("address", "")),
        process,
    )


def _state(
    folder: Path, record: Mapping[str, Any], lines: list[Any], process: str, begun: bool
) -> tuple[str, list[str]]:
    """A word, and why."""
    if record.get("complete"):
        ended = Result.read(folder)
        return ended.status, [*ended.reasons, *gone(folder), *mixed(folder, ended.summary, lines)]
    if process:
        if begun:
            return RUNNING, []
        return WAITING, ["data and model are being opened, or parties are waited for"]
    goes_on = f"fedfm resume {folder} goes on"
    try:
        ended = Result.read(folder)
    except ResumeError:
        return INTERRUPTED, [f"its process is gone without a word: {goes_on}"]
    if ended.summary["rounds"] != max((int(r["round"]) for r in lines), default=0) or ended.status in (
        FINISHED,
        FINDINGS,
    ):
        return INTERRUPTED, [f"its process is gone, and not everything is written: {goes_on}"]
    return ended.status, [*ended.reasons, goes_on]


def _of(config: Path) -> int | None:
    """How many rounds the run is to have, with those of the stages before."""
    if not config.exists():
        return None
    try:
        plan = text.load(config)
        return sum(int(s["rounds"]) for s in (*(plan.get("stages") or ()), plan))
    except (ConfigError, KeyError, TypeError, ValueError):
        return None


def _parties(folder: Path, done: int) -> Iterator[tuple[str, str]]:
    """What became of each party's work in the last round; an event counts from the version that its round began with."""
    path = folder / "events.jsonl"
    if not path.exists():
        return
    facts = fold(e for e in ledger.read(path) if e.get("round") == done - 1)
    why = {
        str(e.get("client")): str(e.get("error") or e.get("reason") or "") for e in reversed(facts.trouble)
    }
    for name, letter in sorted(facts.outcome.get(done, {}).items()):
        yield name, OUTCOMES[letter] + (f": {why[name]}" if why.get(name) else "")


def _invited(folder: Path, real: Mapping[str, Any] | None) -> list[str]:
    """The roster of a served run, where its authority is on this machine."""
    from fedfm.deploy.authority import Authority

    place = Path(real["authority"]) if real and real.get("authority") else folder / "authority"
    try:
        return sorted(Authority(place).roster["sites"])
    except (FedfmError, OSError, ValueError, LookupError, TypeError):
        return []


def ago(at: str) -> float:
    """Seconds since a moment in ISO 8601."""
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds())


def _date(path: Path) -> str | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    except OSError:
        return None
