"""Run directories for tests of whatever reads one: tiny federations, really run once a session, and copies of them.

`recorded` (a fixture of tests/conftest.py) gives the directory of one of RUNS; nobody writes into it. `edited` makes
a copy to change: other names of parties, other fields of the summary, more metrics. `stretched` repeats what was
recorded until it is as long and as wide as asked.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from federations import EQUAL, SGD, SLOW, VALUED, digits
from fedfm.core.combine import Pipe
from fedfm.core.federation import Federation
from fedfm.data.digits import Digits
from fedfm.data.partition.dirichlet import Dirichlet
from fedfm.efficiency.communication.codec.error_feedback import ErrorFeedback
from fedfm.efficiency.communication.codec.qsgd import QSGD
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.training.arrivals.fedbuff import FedBuff
from fedfm.efficiency.training.local import Local
from fedfm.incentives.auction.proportional_share import ProportionalShare
from fedfm.incentives.contribution.shapley_exact import ShapleyExact
from fedfm.incentives.selection.uniform import Uniform
from fedfm.laws.homes import quadratics
from fedfm.pace import AllArrive, Buffered, Quorum
from fedfm.running.execute import configure, execute
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.secure.secagg import SecAgg
from fedfm.trust.robustness.attack.sign_flip import SignFlip
from fedfm.trust.robustness.detection.norm_outliers import NormOutliers

CODES: dict[str, Any] = {
    "client": Local(lr=0.02, steps=10, batch=16, optimizer="adamw"),
    "uplink": Pipe(ErrorFeedback(TopK(0.3)), QSGD(15)),
    "data": Digits(train_rows=300, test_rows=60, partition=Dirichlet(alpha=2.0, parties=6, min_rows=5)),
    "rounds": 8,
}

RUNS: dict[str, Callable[[], Federation]] = {
    "codes": lambda: digits(**CODES),
    "codes, seed 1": lambda: digits(**CODES, seed=1),
    "drop-outs": lambda: quadratics(rounds=8, pace=AllArrive(dropout=0.3)),
    "attack": lambda: digits(detect=NormOutliers(), adversary=SignFlip(count=1, scale=50.0)),
    "noise": lambda: digits(uplink=ClipNoise(0.5, 1.0), aggregate=EQUAL, client=SGD, rounds=4),
    "masks": lambda: quadratics(uplink=SecAgg(threshold=0.62), pace=AllArrive(drop={"party-2": "upload"})),
    "auction": lambda: digits(select=ProportionalShare(budget=20.0), data=VALUED, value=ShapleyExact()),
    "deadline": lambda: quadratics(pace=Quorum(0.8, deadline_s=8.0, speed=SLOW), rounds=6),
    "buffered": lambda: quadratics(
        aggregate=FedBuff(), pace=Buffered(2, 4, speed=SLOW), select=Uniform(count=4), rounds=6
    ),
}
FILES = ("summary.json", "metrics.jsonl", "events.jsonl", "config.yaml")


def play(name: str, folder: Path) -> Path:
    """Run one of RUNS into the folder."""
    baselines = "local,pooled" if name.startswith("codes") else "none"
    return execute(configure(RUNS[name]()), folder, baselines=baselines).folder


def edited(
    source: Path,
    place: Path,
    names: Mapping[str, str] | None = None,
    summary: Mapping[str, Any] | None = None,
    metrics: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
) -> Path:
    """A copy with other names of parties, fields of the summary replaced, and metrics added to each round."""
    place.mkdir(parents=True)
    for file in FILES:
        shutil.copy(source / file, place / file)
    told = _renamed(json.loads((place / "summary.json").read_text()), names or {})
    (place / "summary.json").write_text(json.dumps(told | dict(summary or {})))
    rows = lines(place / "metrics.jsonl")
    for row in rows if metrics else ():
        row.setdefault("metrics", {}).update(metrics(row))  # type: ignore[misc]
    rewrite(place / "metrics.jsonl", rows)
    rewrite(place / "events.jsonl", (_renamed(e, names or {}) for e in lines(place / "events.jsonl")))
    return place


def stretched(source: Path, place: Path, rounds: int, parties: int, cohort: int) -> Path:
    """What was recorded of six parties, repeated for `rounds` rounds with `cohort` of so many parties in each."""
    events, metrics = lines(source / "events.jsonl"), lines(source / "metrics.jsonl")
    told = json.loads((source / "summary.json").read_text())
    known, length = list(told["parties"]), metrics[-1]["round"]
    by_round = [[e for e in events if e["round"] == t] for t in range(length)]
    rows, facts = [metrics[0]], []
    for t in range(rounds):
        rows.append(metrics[1 + t % length] | {"round": t + 1})
        for k in range(0, cohort, len(known)):
            ids = [f"party-{(t * cohort + k + j) % parties}" for j in range(min(len(known), cohort - k))]
            names = dict(zip(known, ids, strict=False))
            group = [e for e in by_round[t % length] if e.get("client") in (*names, None)]
            facts += [_renamed(e, names) | {"round": t} for e in group]
    told["parties"] = {f"party-{i}": told["parties"][known[i % len(known)]] for i in range(parties)}
    place.mkdir(parents=True)
    (place / "summary.json").write_text(json.dumps(told | {"rounds": rounds}))
    rewrite(place / "metrics.jsonl", rows)
    rewrite(place / "events.jsonl", facts)
    shutil.copy(source / "config.yaml", place / "config.yaml")
    return place


def lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines."""
    return [json.loads(row) for row in path.read_text().splitlines()]


def rewrite(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write records as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _renamed(node: Any, names: Mapping[str, str]) -> Any:
    """The same with every name of a party replaced, wherever it stands alone."""
    if isinstance(node, dict):
        return {names.get(k, k): _renamed(v, names) for k, v in node.items()}
    if isinstance(node, list):
        return [_renamed(v, names) for v in node]
    return names.get(node, node) if isinstance(node, str) else node
