"""One pass over the ledger: every figure of the report that comes from events is a fold made here.

Events count rounds from 0 (the round in which they happened), metrics from 1 (rounds done). Everything that
leaves this module counts as the metrics do: an event of round t belongs to round t + 1 of the page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedfm.report.numbers import finite

# Later in this string wins when a party has several outcomes in one round.
SEVERITY = ".pcsldrf"
OUTCOMES = {
    "c": "uploaded",
    "s": "sent, but the round failed",
    "l": "late",
    "d": "dropped out",
    "r": "refused",
    "f": "failed",
    "p": "planned, no outcome",
    ".": "not in the round",
}
ROUTINE = {"plan", "start", "upload", "bytes", "privacy", "value", "bid", "pay", "sampling", "evaluate"}
TROUBLE = {"dropout": "d", "late": "l", "refused": "r", "failed": "f"}
LOG_ROWS = 500


@dataclass
class Tally:
    """What one party did over the run."""

    planned: int = 0
    uploads: int = 0  # accepted, and the round gave a model
    thrown: int = 0  # accepted, but the round failed
    trouble: Counter[str] = field(default_factory=Counter)
    mass: float = 0.0
    first: list[float] = field(default_factory=lambda: [0.0, 0.0])  # sum and count of the first loss of a job
    last: list[float] = field(default_factory=lambda: [0.0, 0.0])
    value: float | None = None
    asked: float | None = None
    paid: float | None = None


@dataclass(frozen=True)
class Facts:
    """Folds over the events: outcomes per round and party, bytes per wire stage, money, privacy, trouble.

    Rounds count from 1, also those of the events kept in `trouble`, `unusual` and `routine`.
    """

    outcome: dict[int, dict[str, str]] = field(default_factory=dict)
    parties: dict[str, Tally] = field(default_factory=dict)
    pipes: dict[tuple[str, tuple[str, ...]], list[float]] = field(default_factory=dict)
    pipe_messages: Counter[tuple[str, tuple[str, ...]]] = field(default_factory=Counter)
    pipe_rounds: dict[str, set[int]] = field(default_factory=dict)
    trouble: list[dict[str, Any]] = field(default_factory=list)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    arrived: dict[tuple[int, str], int] = field(
        default_factory=dict
    )  # uploads of a later round than the plan
    failed_rounds: dict[int, str] = field(default_factory=dict)
    privacy: dict[str, dict[str, Any]] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    unusual: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    routine: list[tuple[int, dict[str, Any]]] = field(default_factory=list)


def fold(events: Iterable[dict[str, Any]], failed: Mapping[int, str] | None = None) -> Facts:
    """Facts of a ledger; unknown kinds are counted and kept for the log, malformed fields skipped.

    `failed` are the failed rounds that the metrics know of, with their reasons.
    """
    facts = Facts(failed_rounds=dict(failed or {}))
    pass_ = _Pass(facts)
    for position, event in enumerate(events):
        kind = event.get("kind")
        kind = kind if isinstance(kind, str) else str(kind)
        facts.kinds[kind] += 1
        told = event.get("round")
        number = told + 1 if isinstance(told, int) and not isinstance(told, bool) else None
        if number is not None:
            event = {**event, "round": number}
        log = facts.routine if kind in ROUTINE else facts.unusual
        if len(log) < LOG_ROWS:
            log.append((position, event))
        if number is not None:
            who = event.get("client")
            pass_.take(kind, number, None if who is None else str(who), event)
    pass_.finish()
    return facts


def log_rows(facts: Facts) -> list[dict[str, Any]]:
    """At most 500 events in order; when cut, what is out of the ordinary comes before routine events."""
    rows = facts.unusual[:LOG_ROWS]
    rows = rows + facts.routine[: LOG_ROWS - len(rows)]
    return [event for _, event in sorted(rows, key=lambda row: row[0])]


class _Pass:
    """What the fold must remember between events, beside the facts."""

    def __init__(self, facts: Facts):
        self.facts = facts
        self.now = 0  # the round that is being read; a ledger is in the order of its rounds
        self.gone: dict[str, int] = {}  # who dropped out, and in which round that was noted

    def take(self, kind: str, number: int, who: str | None, event: dict[str, Any]) -> None:
        """One event, whose round counts from 1."""
        facts = self.facts
        self.now = max(self.now, number)
        if kind == "plan":
            clients = event.get("clients")
            for client in clients if isinstance(clients, list) else ():
                _mark(facts, number, str(client), "p")
                _tally(facts, str(client)).planned += 1
        elif kind == "upload" and who is not None:
            if self.now > number:
                facts.arrived[(number, who)] = self.now
            _upload(facts, number, who, event)
        elif kind == "bytes":
            _bytes(facts, number, event)
        elif kind in TROUBLE:
            self._trouble(kind, number, who, event)
        elif kind == "round_failed":
            facts.failed_rounds[number] = str(event.get("reason") or "no reason noted")
        elif kind == "privacy":
            facts.privacy[str(event.get("mechanism") or "mechanism")] = event
        elif kind in ("value", "bid", "pay") and who is not None:
            name, source = {"value": ("value", "value"), "bid": ("asked", "ask"), "pay": ("paid", "amount")}[
                kind
            ]
            amount = finite(event.get(source))
            if amount is not None:
                tally = _tally(facts, who)
                setattr(tally, name, (getattr(tally, name) or 0.0) + amount)

    def finish(self) -> None:
        """Uploads are counted last: what came in a round that failed was thrown away."""
        for number, row in self.facts.outcome.items():
            for who, code in row.items():
                if code != "c":
                    continue
                if self.facts.arrived.get((number, who), number) in self.facts.failed_rounds:
                    row[who] = "s"
                    _tally(self.facts, who).thrown += 1
                else:
                    _tally(self.facts, who).uploads += 1

    def _trouble(self, kind: str, number: int, who: str | None, event: dict[str, Any]) -> None:
        facts = self.facts
        if kind == "dropout" and who is not None:
            self.gone[who] = self.now
        elif kind == "failed" and who is not None and self.gone.pop(who, None) == self.now:
            return  # the end of the session that the drop-out broke off: the same loss, told again
        reason = event.get("reason") or event.get("error") or event.get("by") or event.get("phase") or ""
        facts.reasons[(kind, str(reason))] += 1
        if len(facts.trouble) < 200:
            facts.trouble.append(event)
        if who is None:
            return
        _tally(facts, who).trouble[kind] += 1
        # A party lost only after its upload was folded (while masks are taken off) is in the sum all the same.
        if not (kind == "dropout" and event.get("phase") in ("unmask", "leave")):
            _mark(facts, number, who, TROUBLE[kind])


def _tally(facts: Facts, who: str) -> Tally:
    found = facts.parties.get(who)
    if found is None:
        found = facts.parties[who] = Tally()
    return found


def _mark(facts: Facts, number: int, who: str, code: str) -> None:
    row = facts.outcome.setdefault(number, {})
    if SEVERITY.index(code) > SEVERITY.index(row.get(who, ".")):
        row[who] = code


def _upload(facts: Facts, number: int, who: str, event: dict[str, Any]) -> None:
    _mark(facts, number, who, "c")
    tally = _tally(facts, who)
    tally.mass += finite(event.get("mass")) or 0.0
    for total, name in ((tally.first, "loss_first"), (tally.last, "loss_last")):
        loss = finite(event.get(name))
        if loss is not None:
            total[0] += loss
            total[1] += 1


def _bytes(facts: Facts, number: int, event: dict[str, Any]) -> None:
    stages = event.get("stages")
    direction = str(event.get("direction") or "up")
    if not isinstance(stages, dict) or not stages:
        return
    sizes = [finite(v) or 0.0 for v in stages.values()]
    key = (direction, tuple(str(s) for s in stages))
    sums = facts.pipes.setdefault(key, [0.0] * len(sizes))
    for i, n in enumerate(sizes):
        sums[i] += n
    facts.pipe_messages[key] += 1
    facts.pipe_rounds.setdefault(direction, set()).add(number)
