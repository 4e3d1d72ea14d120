"""One pass over the ledger: every figure of the report that comes from events is a fold made here.

Events count rounds from 0 (the round in which they happened), metrics from 1 (rounds done). Everything that
leaves this module counts as the metrics do: an event of round t belongs to round t + 1 of the page.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedfm.core.job import UPLOAD
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
TROUBLE = {"dropout": "d", "late": "l", "refused": "r", "failed": "f"}
MONEY = {"value": ("value", "value"), "bid": ("asked", "ask"), "pay": ("paid", "amount")}
LOG_ROWS = 500
_NUMBER = re.compile(r"(?<![\w.-])[-−+]?\d[\d,]*(\.\d+)?([eE][-+]?\d+)?(?![\w])")
KINDS = 64  # that the log keeps apart; a ledger with more is damaged or hostile


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

    Rounds count from 1, also those of the events kept in `trouble` and `log`.
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
    log: dict[str, list[tuple[int, dict[str, Any]]]] = field(default_factory=dict)  # by kind, with positions


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
        rows = facts.log.setdefault(
            kind if kind in facts.log or len(facts.log) < KINDS else "other kinds", []
        )
        if len(rows) < LOG_ROWS:
            rows.append((position, event))
        if number is not None:
            who = event.get("client")
            pass_.take(kind, number, None if who is None else str(who), event)
    pass_.finish()
    return facts


def log_rows(facts: Facts) -> list[dict[str, Any]]:
    """At most 500 events in order; when cut, rare kinds come before frequent ones: a drop-out before a timing."""
    rows: list[tuple[int, dict[str, Any]]] = []
    for kind in sorted(facts.log, key=lambda k: (facts.kinds[k] or len(facts.log[k]), k)):
        rows += facts.log[kind][: LOG_ROWS - len(rows)]
    return [event for _, event in sorted(rows, key=lambda row: row[0])]


class _Pass:
    """What the fold must remember between events, beside the facts."""

    def __init__(self, facts: Facts):
        self.facts = facts
        self.now = 0  # the round that is being read; a ledger is in the order of its rounds
        self.gone: dict[str, int] = {}  # who dropped out, and in which round that was noted
        self.takes = {
            "plan": self._plan,
            "upload": self._upload,
            "bytes": self._bytes,
            "round_failed": self._round_failed,
            "privacy": self._privacy,
        }

    def take(self, kind: str, number: int, who: str | None, event: dict[str, Any]) -> None:
        """One event, whose round counts from 1."""
        self.now = max(self.now, number)
        if kind in TROUBLE:
            self._trouble(kind, number, who, event)
        elif kind in MONEY and who is not None:
            self._money(*MONEY[kind], who, event)
        elif kind in self.takes:
            self.takes[kind](number, who, event)

    def _plan(self, number: int, who: str | None, event: dict[str, Any]) -> None:
        clients = event.get("clients")
        for client in clients if isinstance(clients, list) else ():
            _mark(self.facts, number, str(client), "p")
            _tally(self.facts, str(client)).planned += 1

    def _upload(self, number: int, who: str | None, event: dict[str, Any]) -> None:
        if who is not None:
            if self.now > number:
                self.facts.arrived[(number, who)] = self.now
            _upload(self.facts, number, who, event)

    def _bytes(self, number: int, who: str | None, event: dict[str, Any]) -> None:
        _bytes(self.facts, number, event)

    def _round_failed(self, number: int, who: str | None, event: dict[str, Any]) -> None:
        self.facts.failed_rounds[number] = str(event.get("reason") or "no reason noted")

    def _privacy(self, number: int, who: str | None, event: dict[str, Any]) -> None:
        self.facts.privacy[str(event.get("mechanism") or "mechanism")] = event

    def _money(self, name: str, source: str, who: str, event: dict[str, Any]) -> None:
        amount = finite(event.get(source))
        if amount is not None:
            tally = _tally(self.facts, who)
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
        facts.reasons[(kind, _NUMBER.sub("…", str(reason)))] += 1  # one reason, whatever its figures
        if len(facts.trouble) < 200:
            facts.trouble.append(event)
        if who is None:
            return
        _tally(facts, who).trouble[kind] += 1
        # A party lost in a later phase (while masks are taken off) is in the sum all the same if its upload was there.
        later = kind == "dropout" and event.get("phase") != UPLOAD
        if not (later and facts.outcome.get(number, {}).get(who) == "c"):
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
