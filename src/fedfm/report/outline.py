"""The headline of a run: scores, totals and series, from the summary where it tells, else from the rounds."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from fedfm.direction import rises
from fedfm.report.numbers import decimals, finite, fixed, rounded, short
from fedfm.report.rundir import Run, mapping
from fedfm.text import natural

STATES = ("finished", "finished with findings", "interrupted", "failed")
BASELINES = (
    ("base", "base model"),
    ("local", "parties alone"),
    ("federated", "federated"),
    ("pooled", "pooled data"),
)
LOSS = {"dropout": "dropped out", "late": "late", "refused": "refused", "failed": "failed"}


def recipe(run: Run) -> str:
    """What the run is called: its recipe, else its directory."""
    return named(run) or run.label


def named(run: Run) -> str:
    """The recipe's name, from the summary, else from the config; empty for a federation without one."""
    name = run.summary.get("recipe")
    if isinstance(name, str) and name:
        return name
    found = re.search(r"^recipe:\s*['\"]?([\w.+-]+)", run.config or "", re.MULTILINE)
    return found.group(1) if found else ""


def status(run: Run) -> str:
    """The verdict's word; a run without a summary counts as interrupted."""
    told = run.summary.get("status")
    return str(told) if told in STATES else "finished" if run.summary.get("metric") else "interrupted"


def findings(run: Run) -> list[str]:
    """Why the run is no plain success, the gravest reason first."""
    told = run.summary.get("reasons")
    return list(map(str, told)) if isinstance(told, list) else []


def attackers(run: Run) -> frozenset[str]:
    """Parties that played the adversary in this simulation."""
    told = run.summary.get("adversaries")
    return frozenset(map(str, told)) if isinstance(told, list) else frozenset()


def trained(run: Run) -> list[dict[str, Any]]:
    """The lines of rounds that trained (round 0 is the base model's evaluation)."""
    return [row for row in run.rounds if row["round"] > 0]


def metric_keys(run: Run) -> list[str]:
    """Every metric ever measured, in order of first appearance."""
    return list(dict.fromkeys(key for row in run.rounds for key in mapping(row.get("metrics"))))


def metric_name(run: Run) -> str:
    """The metric that the run is judged by."""
    name = mapping(run.summary.get("metric")).get("name")
    if isinstance(name, str) and name:
        return name
    keys = metric_keys(run)
    return next((k for k in keys if rises(k)), keys[0] if keys else "score")


def higher_is_better(run: Run) -> bool:
    """The summary's word, else a guess from the metric's name."""
    word = mapping(run.summary.get("metric")).get("higher_is_better")
    return word if isinstance(word, bool) else rises(metric_name(run))


def series(run: Run, *keys: str) -> tuple[list[float], list[float | None]]:
    """Rounds and the values found under that path of keys, e.g. `series(run, "metrics", "accuracy")`."""
    xs: list[float] = []
    ys: list[float | None] = []
    for row in run.rounds:
        value: Any = row
        for key in keys:
            value = mapping(value).get(key)
        xs.append(row["round"])
        ys.append(finite(value))
    if keys == ("epsilon",) and not known(ys):  # the accountant tells it at the end, in the summary
        spent = mapping(run.summary.get("privacy")).get("per_round") or []
        return [float(k) for k in range(1, len(spent) + 1)], [finite(v) for v in spent]
    return xs, ys


def known(values: list[float | None]) -> list[float]:
    """The values without the missing ones."""
    return [v for v in values if v is not None]


def scores(run: Run) -> dict[str, float | None]:
    """base, local, federated and pooled; base and federated fall back on the first and last evaluation."""
    metric = mapping(run.summary.get("metric"))
    found = {key: finite(metric.get(key)) for key, _ in BASELINES}
    xs, ys = series(run, "metrics", metric_name(run))
    seen = [(x, y) for x, y in zip(xs, ys, strict=True) if y is not None]
    if found["base"] is None and seen and seen[0][0] == 0:
        found["base"] = seen[0][1]
    if found["federated"] is None and seen and seen[-1][0] > 0:
        found["federated"] = seen[-1][1]
    return found


def alone(run: Run) -> dict[str, float]:
    """Each party's own score when it trains alone."""
    parties = mapping(mapping(run.summary.get("metric")).get("local_parties"))
    return {str(k): v for k, v in ((k, finite(v)) for k, v in parties.items()) if v is not None}


def personal(run: Run) -> bool:
    """Do parties have models of their own?"""
    return bool(mapping(run.summary.get("metric")).get("personal"))


def everyone(run: Run) -> list[str]:
    """All parties of the summary and of the ledger, in natural order (party-2 before party-10)."""
    names = {str(p) for p in mapping(run.summary.get("parties"))} | set(run.facts.parties)
    for row in run.facts.outcome.values():
        names.update(row)
    return sorted(names, key=natural)


def chosen(run: Run) -> str:
    """Which round the model is of, where it was chosen, and why the run ended early; empty otherwise."""
    best, why = mapping(run.summary.get("best")), run.summary.get("stopped")
    told = []
    if (k := finite(best.get("round"))) is not None:
        kept = "The model is that of round" if best.get("kept") is True else "The best round was round"
        by = str(best.get("metric") or "score").replace("_", " ")
        told.append(
            f"{kept} {short(k)} of {short(finite(best.get('of')))}, the best by {by} on the validation rows."
        )
    if isinstance(why, str) and why:
        told.append(f"The run stopped early: {why}.")
    return " ".join(told)


def by_party(run: Run) -> dict[str, tuple[list[float], list[float | None]]]:
    """Each party's score on its own rows over rounds: the metrics `METRIC/PARTY` of the evaluator."""
    name = metric_name(run)
    keys = {key for key in metric_keys(run) if key.startswith(f"{name}/")}
    found = {p: series(run, "metrics", f"{name}/{p}") for p in everyone(run) if f"{name}/{p}" in keys}
    return {p: curve for p, curve in found.items() if known(curve[1])}


def score_digits(runs: list[Run]) -> int:
    """Decimals for the scores of all these runs."""
    return decimals(value for run in runs for value in scores(run).values())


def better(run: Run, a: float, b: float) -> float:
    """By how much a is better than b, in the metric's own direction."""
    return a - b if higher_is_better(run) else b - a


def traffic(run: Run) -> dict[str, float | None]:
    """Bytes up, down and in conversations over the whole run."""
    told = mapping(run.summary.get("bytes"))
    found: dict[str, float | None] = {}
    for way in ("up", "down", "talk"):
        found[way] = finite(told.get(way))
        if found[way] is None:
            values = known(series(run, "bytes", way)[1])
            found[way] = sum(values) if values else None
    return found


def total(values: dict[str, float | None]) -> float | None:
    """Sum of what is known, or None."""
    present = known(list(values.values()))
    return sum(present) if present else None


def seconds(run: Run) -> float | None:
    """Wall-clock seconds of the run, with all that came before, between and after its rounds."""
    told = finite(run.summary.get("seconds"))
    return round_seconds(run) if told is None else told


def round_seconds(run: Run) -> float | None:
    """Wall-clock seconds of the rounds alone: no baselines, no loading."""
    parts = [finite(v) or 0.0 for row in trained(run) for v in mapping(row.get("seconds")).values()]
    return sum(parts) if parts else None


def rounds_done(run: Run) -> int:
    """The number of rounds that were run."""
    rows = trained(run)
    told = finite(run.summary.get("rounds"))
    return int(rows[-1]["round"]) if rows else int(told or 0)


def privacy(run: Run) -> dict[str, Any]:
    """epsilon, delta, mechanism, noise and note; epsilon falls back on the last round's."""
    told = dict(mapping(run.summary.get("privacy")))
    spent = known(series(run, "epsilon")[1])
    if finite(told.get("epsilon")) is None and spent:
        told["epsilon"] = spent[-1]
    if finite(told.get("epsilon")) is None and not run.facts.privacy and not told.get("sentence"):
        return {}
    if not told.get("mechanism") and run.facts.privacy:
        told["mechanism"] = next(iter(run.facts.privacy))
    return told


def promise(run: Run) -> dict[str, str]:
    """What the run's epsilon is an epsilon of: unit, neighbours, observer and δ; empty where there is none."""
    told = privacy(run)
    if finite(told.get("epsilon")) is None:
        return {}
    delta = finite(told.get("delta"))
    return {
        "unit": str(told.get("unit") or "unknown unit"),
        "neighbours": str(told.get("relation") or "unknown neighbours").split(" (")[0],
        "observer": str(told.get("observer") or "unknown observer"),
        "δ": f"δ = {short(delta)}",
    }


def covers(run: Run) -> str:
    """What the run's epsilon covers, and whom it protects, in the accountant's words."""
    return str(mapping(run.summary.get("privacy")).get("sentence") or "")


def turnout(run: Run) -> tuple[float, float]:
    """Party-rounds whose upload was accepted in a round that gave a model, and party-rounds planned."""
    done = sum(arrivals(run))
    planned = sum(finite(row.get("planned")) or 0.0 for row in trained(run))
    return done, planned


def arrivals(run: Run) -> list[float]:
    """Accepted uploads of each round; none where the round failed, because they were thrown away."""
    return [0.0 if row.get("failed") else finite(row.get("clients")) or 0.0 for row in trained(run)]


def troubles(run: Run) -> Counter[str]:
    """How many party-rounds were lost, by reason: the events' account, else the summary's, by kind."""
    found: Counter[str] = Counter()
    for (kind, reason), n in run.facts.reasons.items():
        found[f"{LOSS[kind]} ({reason})" if kind == "dropout" and reason else reason or LOSS[kind]] += n
    told = mapping(run.summary.get("failures"))
    if told and (run.sampled or not run.facts.kinds):
        found = Counter({word: int(finite(told.get(kind)) or 0) for kind, word in LOSS.items()})
        found["failed"] -= found[
            "dropped out"
        ]  # a drop-out ends its session, which is noted as a failure too
    return +found


def failed_rounds(run: Run) -> dict[int, str]:
    """Rounds that gave no model, with the reason where one was noted."""
    return dict(sorted(run.facts.failed_rounds.items()))


Pieces = list[tuple[str, str]]  # text, and the score whose colour it has (or nothing)


def sentence(run: Run) -> Pieces:
    """The run in one sentence; differences are taken before anything is rounded."""
    found, name = scores(run), metric_name(run).replace("_", " ")
    digits, fed = score_digits([run]), found["federated"]
    if fed is None:
        if found["base"] is None:
            return [(f"No {name} was measured after {rounds_done(run)} rounds.", "")]
        return [
            (f"The base model has {name} ", ""),
            (fixed(found["base"], digits), "base"),
            ("; nothing later.", ""),
        ]
    clauses = [
        _against(run, key, fed, other, digits)
        for key in ("local", "pooled")
        if (other := found[key]) is not None
    ]
    if not clauses and found["base"] is not None:
        clauses = [_against(run, "base", fed, found["base"], digits)]
    pieces: Pieces = [(f"Federated {name} ", ""), (fixed(fed, digits), "federated")]
    for i, clause in enumerate(clauses):
        pieces += ([(" and", "")] if i else []) + clause
    if not clauses:
        pieces.append((f" after {rounds_done(run)} rounds; no baseline was run", ""))
    return [*pieces, (".", "")]


WORDS = {  # the other score, and the verb by which the federated one is better, equal or worse
    "local": ("the parties alone", "beats", "equals", "falls short of"),
    "pooled": ("pooled training", "passes", "equals", "falls short of"),
    "base": ("the base model", "improves on", "equals", "is worse than"),
}


def _against(run: Run, key: str, fed: float, other: float, digits: int) -> Pieces:
    """One clause of the sentence: the federated score against another one."""
    who, win, even, lose = WORDS[key]
    gap = better(run, fed, other)
    by = fixed(abs(gap), digits)
    if not rounded(gap, digits):
        return [(f" {even} {who} (", ""), (fixed(other, digits), key), (")", "")]
    verb = win if gap > 0 else lose
    return [(f" {verb} {who} (", ""), (fixed(other, digits), key), (f") by {by}", "")]


def plain(pieces: Pieces) -> str:
    """A sentence as plain text."""
    return "".join(text for text, _ in pieces)
