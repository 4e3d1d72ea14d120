"""What a run came to: finished, finished with findings, failed or interrupted, and why. Computed once, said first.

`judge` computes it, `Result` is the run as Python sees it: its folder, its summary, its verdict, its curve.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedfm.core.errors import ResumeError, RunFailed
from fedfm.core.job import UPLOAD
from fedfm.files import path as meant
from fedfm.ledger import file as ledger
from fedfm.ledger.events import Dropout, Failed, Late, Line, Planned, Refused, Upload
from fedfm.report.drawing.markup import esc
from fedfm.report.numbers import score
from fedfm.running.findings.choices import Choices
from fedfm.text import counted, line

FINISHED, FINDINGS, FAILED, INTERRUPTED = "finished", "finished with findings", "failed", "interrupted"
MOST = 0.5  # a party that fails in more than this share of the rounds that asked it is a finding
CHANCE = 0.05  # of being passed over in all rounds, were all parties alike: above, nobody is named
ASKED = 3  # from so many rounds on
NAMED = 5  # parties that a reason names
WORSE, RISE = (
    10.0,
    0.1,
)  # times the base model's loss, and so much more: no run that learns, or is only noisy, ends there
STILL = (
    "every score and the loss are those of the base model to the last digit; a learning rate, a scale or a clip may be "
    "too small for float32, or what is trained does not reach the outputs"
)


@dataclass(frozen=True)
class Verdict:
    """`status` in one of four words, `reasons` in full sentences, the gravest first."""

    status: str
    reasons: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """May its numbers be relied on?"""
        return self.status in (FINISHED, FINDINGS)

    def with_findings(self, more: Sequence[str]) -> Verdict:
        """The same with more reasons; what had nothing to be said of it has then."""
        status = FINDINGS if more and self.status == FINISHED else self.status
        return Verdict(status, (*self.reasons, *more))


LOST = (Failed.kind, Refused.kind, Dropout.kind, Late.kind)  # ways to be left out of a round


@dataclass
class Tally:
    """One party's rounds: asked to work, delivered an upload that was used, and what became of the others."""

    asked: int = 0
    sent: int = 0
    used: int = 0
    lost: Counter[str] = field(default_factory=Counter)  # kind of event -> rounds
    why: str = ""  # the first reason that was noted
    passed: str = ""  # what delivered, and was never counted by the aggregator: its name for that
    chance: float = 0.0  # with which one like all others would have been passed over too


def tally(events: Iterable[Line], failed: Collection[int]) -> dict[str, Tally]:
    """Parties' rounds from the ledger; what was sent to a round that failed as a whole was not used."""
    parties: dict[str, Tally] = {}
    sent: dict[str, set[int]] = {}
    out: dict[str, dict[int, str]] = {}
    after = set[tuple[str, int]]()  # who went away before a later phase
    choices = Choices()
    for e in events:
        choices.see(e)
        if e["kind"] == Planned.kind:
            for i in e.get("clients", ()):
                parties.setdefault(i, Tally()).asked += 1
        elif (i := e.get("client")) is None:
            continue
        elif e["kind"] == Upload.kind:
            sent.setdefault(i, set()).add(e["round"])
        elif e["kind"] in LOST:
            if e["kind"] == Dropout.kind and e["phase"] != UPLOAD:
                after.add((i, e["round"]))
            one = parties.setdefault(i, Tally())
            out.setdefault(i, {}).setdefault(e["round"], e["kind"])
            one.why = one.why or str(e.get("error") or e.get("reason") or e["kind"])
    for i, one in parties.items():
        # an upload that was there already is in the sum
        gone = {
            r: kind for r, kind in out.get(i, {}).items() if not ((i, r) in after and r in sent.get(i, ()))
        }
        one.lost = Counter(gone.values())
        one.sent = sum(gone.get(r, "refused") == "refused" for r in sent.get(i, ()))
        one.used = sum(r not in gone and r not in failed for r in sent.get(i, ()))
        one.passed = choices.passed(i, one.used)
        one.chance = choices.chance if one.passed == choices.by else 0.0
    return parties


def judge(
    *,
    records: Sequence[Mapping[str, Any]],
    events: Iterable[Line],
    rows: Mapping[str, int],
    malicious: Collection[str],
    primary: str,
    finite: bool = True,
    best: int | None = None,
    personal: bool = False,
    higher: bool | None = None,
) -> Verdict:
    """The verdict on a run that came to its end.

    `records`: the lines of metrics.jsonl. `rows`: training rows by party. `malicious`: those that the adversary
    drew. `finite`: whether the model holds numbers only. `best`: the round of the model, where it was chosen.
    `personal`: parties have models of their own. `higher`: whether a higher primary score is better; None: unknown.
    """
    rounds = [r for r in records if r["round"]]
    failed = {r["round"]: str(r["failed"]) for r in rounds if r.get("failed")}
    found = tally(events, {r - 1 for r in failed})  # an event carries the version that its round began from
    if rounds and len(failed) == len(rounds):
        why = f"{_rounds(failed, len(rounds))}; the model is the one it began with"
        return Verdict(FAILED, (why, *_absent(found, rows, malicious, True)))
    if not finite:
        return Verdict(FAILED, ("the model holds values that are not finite (NaN or Inf)",))
    scored = [r["metrics"] for r in records if r.get("metrics") is not None]
    last = scored[-1].get(primary) if scored else None
    if scored and (lost := _lost(scored[0], scored[-1], primary)):
        return Verdict(FAILED, (f"the last model cannot be scored: its {lost} is not a number",))
    reasons = [*_adversary(found, malicious, bool(rounds)), *_absent(found, rows, malicious, bool(failed))]
    if personal and rounds and (idle := [i for i in rows if i not in found or not found[i].asked]):
        reasons.append(f"{_names(idle)} never took part: in the mean their own models count as they began")
    if failed:
        reasons.append(_rounds(failed, len(rounds)))
    if best == 0 and rounds:
        reasons.append(
            "no round was better than the base model on the validation rows; the model is the one it began with"
        )
    kept = [r["metrics"] for r in records if r["round"] == best and r.get("metrics")] if best else scored
    if rounds and kept and (why := _worse(scored[0], kept[-1], primary, higher)):
        reasons.append(why)
    if rounds and scored and still(scored[0], scored[-1]):
        reasons.append(f"nothing has moved: {STILL}")
    if scored and last is None:
        reasons.append(f"the model was never scored: there is no test row with a {primary}")
    return Verdict(FINDINGS if reasons else FINISHED, tuple(reasons))


def still(first: Mapping[str, Any], last: Mapping[str, Any]) -> bool:
    """Is the later score, its loss included, the earlier one to the last digit? A loss of 0 has nowhere to go."""
    return bool(first.get("loss")) and dict(first) == dict(last)


def _worse(first: Mapping[str, Any], last: Mapping[str, Any], primary: str, higher: bool | None) -> str:
    """A model far worse than the one it began with, in words; empty where its loss, or its primary score, says otherwise."""
    was, now = first.get("loss"), last.get("loss")
    if was is None or now is None or now <= WORSE * max(0.0, was) or now - was <= RISE:
        return ""
    before, after = first.get(primary), last.get(primary)
    if higher and before is not None and after is not None and after > before:
        return ""
    times = f"{now / was:.3g} times" if was > 0 else "and not"
    return (
        f"the model is far worse than the one it began with: its loss is {now:.4g}, {times} the base model's {was:.4g}; a "
        "learning rate (client.lr, server.lr) or a scale may be too large, or noise or an attack too strong"
    )


def _lost(first: Mapping[str, Any], last: Mapping[str, Any], primary: str) -> str:
    """A score that is no number in the end: the primary one, or another that was one in the beginning."""

    def number(x: Any) -> bool:  # null in the records
        return x is not None and math.isfinite(x)

    gone = [n for n, x in last.items() if not number(x) and (n == primary or number(first.get(n)))]
    return primary if primary in gone else min(gone, default="")


def _rounds(failed: Mapping[int, str], n: int) -> str:
    first, why = next(iter(failed.items()))
    if len(failed) == n:
        return f"every round failed ({n} of {n}): {why}"
    return f"{len(failed)} of {n} rounds failed (round {first} first): {why}"


def _adversary(found: Mapping[str, Tally], malicious: Collection[str], ran: bool) -> list[str]:
    """An attack that was never carried out says nothing about a defence."""
    if not malicious or not ran or any(found[i].sent for i in malicious if i in found):
        return []
    asked = [i for i in malicious if i in found and found[i].asked]
    why = (
        next((found[i].why for i in asked if found[i].why), "none of their messages arrived")
        if asked
        else "none of them was ever asked to take part"
    )
    return [f"the attack was never carried out by {_names(sorted(malicious))}: {why}"]


def _absent(
    found: Mapping[str, Tally], rows: Mapping[str, int], malicious: Collection[str], failed: bool
) -> list[str]:
    """Parties that never, or hardly ever, contributed although they were asked."""
    total, largest = sum(rows.values()), max(rows.values(), default=0)
    reasons = []
    unsaid = "its rounds failed" if failed else "its update was on its way when the run ended (more rounds?)"
    never = [i for i, t in found.items() if t.asked and not t.used and i in rows and i not in malicious]
    by_why: dict[str, list[str]] = {}
    for i in never:
        by_why.setdefault(found[i].why or unsaid, []).append(i)
    for why, ids in by_why.items():
        held = sum(rows[i] for i in ids)
        share = f"{held} of {total} rows" + (
            ", the largest party among them" if largest in (rows[i] for i in ids) and len(rows) > 1 else ""
        )
        reasons.append(f"{_names(ids)} never contributed ({share}): {why}")
    for i, t in found.items():
        lost = t.lost["failed"] + t.lost["refused"]
        if i not in never and i not in malicious and t.asked >= ASKED and lost > MOST * t.asked:
            reasons.append(f"{i} failed in {lost} of {t.asked} rounds: {t.why}")
    return reasons + _passed_over(found, rows, malicious)


def _passed_over(
    found: Mapping[str, Tally], rows: Mapping[str, int], malicious: Collection[str]
) -> list[str]:
    """Honest parties whose messages came, round after round, and were never counted by an aggregator that chooses."""
    groups: dict[tuple[str, int, int], list[str]] = {}
    for i, t in found.items():
        if t.passed and t.used >= ASKED and t.chance < CHANCE and i in rows and i not in malicious:
            groups.setdefault((t.passed, t.used, t.asked), []).append(i)
    return [
        f"{_names(ids)} delivered in {used} of {asked} rounds and {by} never counted {'it' if len(ids) == 1 else 'them'} "
        f"({sum(rows[i] for i in ids)} of {sum(rows.values())} rows)"
        for (by, used, asked), ids in groups.items()
    ]


def _names(ids: Sequence[str]) -> str:
    more = len(ids) - NAMED
    return ", ".join(ids[:NAMED]) + (f" and {more} more" if more > 0 else "")


def ladder(metric: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What a score is compared with, by the names that people read; where parties have models of their own, of whom."""
    own = ", mean of parties' own models" if metric.get("personal") else ""
    names = {
        "base": "base model",
        "local": "mean of parties alone",
        "federated": "federated" + own,
        "pooled": "pooled",
    }
    return [(name, metric[key]) for key, name in names.items() if metric.get(key) is not None]


# ---- the run in Python ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Result:
    """A run directory and its summary (the content of summary.json)."""

    folder: Path
    summary: dict[str, Any] = field(repr=False)

    @classmethod
    def read(cls, folder: str | Path) -> Result:
        """The result that lies in a run directory. Raises ResumeError."""
        folder = meant(folder)
        path = folder / "summary.json"
        try:
            summary = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(summary, dict) or not summary.keys() >= {
                "status",
                "metric",
                "metrics",
                "rounds",
            }:
                raise ValueError("it is no summary of a run")
        except (OSError, ValueError, RecursionError) as e:
            why = e.strerror if isinstance(e, OSError) else e
            fix = f"fedfm resume {folder} writes it again"
            raise ResumeError(f"{path} cannot be read: {why}\n    fix: {fix}") from e
        return cls(folder, summary)

    @property
    def status(self) -> str:
        """finished, finished with findings, failed or interrupted."""
        return str(self.summary["status"])

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the status is what it is, in full sentences."""
        return tuple(self.summary.get("reasons", ()))

    @property
    def lost(self) -> str:
        """How many rows were left out, and why; empty when none was."""
        return counted(self.summary.get("dropped") or {})

    @property
    def metric(self) -> dict[str, Any]:
        """name, base, local, federated, pooled, higher_is_better, local_parties."""
        metric: dict[str, Any] = self.summary["metric"]
        return metric

    @property
    def model(self) -> Path:
        """The folder of the tuned model; `fedfm.tasks.load_tuned` reads it."""
        return self.folder / "model"

    @property
    def history(self) -> Any:
        """One row a round (metrics by name, clients, planned, train_loss, bytes/up, seconds/train, ...).

        A pandas DataFrame indexed by round where pandas is installed, else a list of dicts.
        """
        rows = [_flat(r) for r in ledger.read(self.folder / "metrics.jsonl")]
        try:
            import pandas
        except ImportError:
            return rows
        return pandas.DataFrame(rows).set_index("round")

    def judged(self, strict: bool = False) -> Result:
        """Itself, if it can be relied on. Raises RunFailed, with `strict` also for findings."""
        if self.status == FAILED or (strict and self.status == FINDINGS):
            raise RunFailed(
                f"{self.folder}: {self.status}\n    "
                + "\n    ".join(f"why: {reason}" for reason in self.reasons)
                + f"\n    look: {self.folder / 'report.html'}",
                self,
            )
        return self

    def __repr__(self) -> str:
        metric = self.metric
        parts = [
            f"{line(metric['name']) + ' (mean of own models)' * bool(metric.get('personal')) if k == 'federated' else k} "
            f"{score(metric[k])}"
            for k in ("federated", "base", "local", "pooled")
            if metric.get(k) is not None
        ]
        why = "".join(f"; {line(reason)}" for reason in self.reasons[:2])
        lost = f"; rows left out: {said}" if (said := self.lost) else ""
        return f"<{self.status}{why}: {', '.join(parts) or 'no score'}{lost}; {self.folder}>"

    def _repr_html_(self) -> str:
        metric = self.metric
        cells = "".join(
            f"<tr><td>{esc(label)}</td><td>{esc(metric['name'])} {score(value)}</td></tr>"
            for label, value in ladder(metric)
        )
        why = "".join(f"<li>{esc(reason)}</li>" for reason in self.reasons)
        return (
            f"<p><b>{esc(self.status)}</b>, {self.summary['rounds']} rounds, "
            f"<code>{esc(self.folder)}</code></p>"
            + (f"<ul>{why}</ul>" if why else "")
            + (f"<p>rows left out: {esc(self.lost)}</p>" if self.lost else "")
            + f"<table>{cells}</table>"
        )


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A line of metrics.jsonl as one row of a table."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            flat |= {k if key == "metrics" else f"{key}/{k}": v for k, v in value.items()}
        elif key != "kind":
            flat[key] = value
    return flat
