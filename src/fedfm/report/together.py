"""Several runs under a guarantee on the same rows: each epsilon is one run's, and whoever chooses among them is under all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedfm.core.errors import FedfmError
from fedfm.ledger import file as ledger
from fedfm.ledger.events import Line
from fedfm.report import matching

WORDS = (
    "each epsilon is of one run: they add up for whoever sees more than one of these runs, and for whoever gets one that was "
    "chosen by comparing them"
)
ELSEWHERE = ", if their rows are those of the same parties"


def composed(folders: Sequence[Path]) -> str:
    """What these runs spend together, as a sentence; empty where fewer than two of them released under a guarantee."""
    private = {at: found for at in folders if (found := _released(at / "events.jsonl"))}
    if len(private) < 2:
        return ""
    head = WORDS[0].upper() + WORDS[1:]
    if len({_data(at / "config.yaml") for at in private}) > 1:
        head += ELSEWHERE
    try:
        from fedfm.trust.privacy.accountant import composed as compose

        spent = compose(list(private.values()))
    except FedfmError as e:
        return f"{head}. What all {len(private)} of them spend together has no one number ({str(e).splitlines()[0]})."
    return f"{head}. All {len(private)} of them spend epsilon {spent.epsilon:.2f} at delta {spent.delta:g} together."


def _released(events: Path) -> list[Line]:
    """A ledger's plans and releases; [] where nothing was released."""
    if not events.is_file():
        return []
    try:
        facts = [e for e in ledger.read(events) if e.get("kind") in ("privacy", "plan")]
    except FedfmError:  # of a damaged ledger the page of its run says so
        return []
    return facts if any(e["kind"] == "privacy" for e in facts) else []


def _data(config: Path) -> str:
    """What says which rows a run was of."""
    found: Any = matching.parsed(config.read_text(encoding="utf-8")) if config.is_file() else None
    data = found.get("data") if isinstance(found, dict) else None
    return json.dumps(data, sort_keys=True, default=str)
