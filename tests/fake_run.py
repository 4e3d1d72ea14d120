"""A run directory as a run would leave it, for tests of whatever reads one."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

NO_QUORUM = "4 of 8 parties contributed, 6 are needed"
TASKS = ("chain_sum", "leg_counting", "word_sorting", "basic_arithmetic")


def fake_run(
    place: Path,
    parties: int = 8,
    rounds: int = 6,
    seed: int = 0,
    cohort: int | None = None,
    names: list[str] | None = None,
    labels: tuple[str, ...] = ("billing", "cancel", "delivery", "refund", "other"),
    gain: float = 0.52,
    stages: tuple[tuple[str, float], ...] = (("raw", 1.0), ("topk", 0.11), ("qsgd", 0.21)),
    private: bool = True,
    paid: bool = True,
    baselines: bool = True,
    summary: dict[str, Any] | None = None,
    broken: tuple[int, ...] = (),
    config: str = "",
) -> Path:
    """Writes a run directory: drop-outs, late, refused and failed parties, central DP, an auction.

    Events count rounds from 0 and metrics from 1, as a run's do; `broken` rounds (from 1) failed, and `config`
    is put before the rest of config.yaml.
    """
    rng = random.Random(seed)
    place.mkdir(parents=True, exist_ok=True)
    ids = names or [f"hospital-{i + 1}" for i in range(parties)]
    parties, raw = len(ids), 442_368
    size_of = {p: int(rng.lognormvariate(5.6, 0.6)) + 40 for p in ids}
    spread: dict[str, dict[str, int]] = {}
    for p in ids:
        pull = [rng.gammavariate(0.6, 1) for _ in labels]
        spread[p] = {k: int(size_of[p] * w / sum(pull)) for k, w in zip(labels, pull, strict=True)}
    events: list[dict[str, Any]] = []
    metrics: list[dict[str, Any]] = [{"round": 0, "metrics": _scores(rng, 0.31, 0)}]
    lost: dict[str, int] = {}
    ups = downs = 0
    epsilon = clock = seconds = 0.0

    def note(kind: str, who: str | None = None, **facts: Any) -> None:
        events.append({"round": t - 1, "kind": kind, "client": who, **facts})

    def lose(kind: str, who: str, **facts: Any) -> None:
        note(kind, who, **facts)
        lost[kind] = lost.get(kind, 0) + 1

    for t in range(1, rounds + 1):
        plan = ids if cohort is None else rng.sample(ids, cohort)
        note("plan", clients=list(plan))
        up = down = done = 0
        failed = t in broken
        if failed:
            note("round_failed", reason=NO_QUORUM)
        for p in plan:
            note("start", p)
            down += raw
            note("bytes", p, direction="down", total=raw, stages={"raw": raw})
            if paid:
                note("bid", p, ask=round(1 + rng.random(), 3))
            luck = rng.random()
            if luck < 0.07:
                lose("dropout", p, phase="work", reason="lost the connection")
                continue
            if luck < 0.1:
                lose("late", p)
                continue
            if luck < 0.12:
                lose("refused", p, by="norm", reason="norm 41 is above 10 x the median")
                continue
            if luck < 0.13:
                lose("failed", p, error="ClientFailed: loss is not finite")
                continue
            done += 1
            passed, sizes = float(raw), {}
            for name, factor in stages:
                passed *= factor
                sizes[name] = int(passed)
            up += int(passed)
            first = 2.1 * math.exp(-t / 7) + 0.4 + rng.random() * 0.1
            losses = {"loss_first": first, "loss_last": first * 0.8}
            note("upload", p, mass=size_of[p], version=t - 1, staleness=0, norm=1.3, **losses)
            note("bytes", p, direction="up", total=int(passed), stages=sizes)
            if paid and not failed:
                note("value", p, value=rng.gauss(0.012, 0.01))
                note("pay", p, amount=round(1.6 + rng.random(), 3))
        if private:
            epsilon = 0.62 * math.sqrt(t)
            facts = {"noise_multiplier": 1.1, "clip_norm": 1.0, "sampling": {"kind": "poisson", "rate": 0.5}}
            note("privacy", mechanism="gaussian", count=done, **facts)
        note("weather", sky="clear")
        work = {"train": 2 + rng.random(), "encode": 0.05, "aggregate": 0.02, "evaluate": 0.6, "other": 0.03}
        seconds += sum(work.values())
        clock += 30 + 5 * rng.random()
        score = 0.31 + gain * (1 - math.exp(-3.2 * t / rounds))
        metrics.append(
            {
                "round": t,
                "metrics": _scores(rng, score, t),
                "clients": 0 if failed else done,
                "planned": len(plan),
                "train_loss": 2.1 * math.exp(-t / 7) + 0.4,
                "seconds": work,
                "bytes": {"up": up, "down": down, "talk": 0},
                "clock": clock,
                "epsilon": epsilon if private else None,
                "failed": NO_QUORUM if failed else "",
            }
        )
        ups, downs = ups + up, downs + down
    fed = metrics[-1]["metrics"]["accuracy"]
    alone = {p: 0.61 + rng.gauss(0, 0.07) for p in ids}
    told: dict[str, Any] = {
        "recipe": "fedit",
        "rounds": rounds,
        "seed": seed,
        "seconds": seconds,
        "status": "finished",
        "metric": {
            "name": "accuracy",
            "base": 0.31 if baselines else None,
            "local": 0.61 if baselines else None,
            "federated": fed,
            "pooled": fed + 0.03 if baselines else None,
            "higher_is_better": True,
            "local_parties": alone if baselines else None,
        },
        "bytes": {"up": ups, "down": downs, "talk": 0, "per_round": (ups + downs) / rounds},
        "privacy": {
            "epsilon": epsilon,
            "delta": 1e-5,
            "mechanism": "gaussian",
            "noise": 1.1,
            "note": "central, add-or-remove one party",
        }
        if private
        else None,
        "trainable_parameters": 110_592,
        "total_parameters": 22_713_216,
        "versions": {"fedfm": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.12.4"},
        "config_digest": "a3f1" * 16,
        "model_digest": "07bd" * 16,
        "ledger_digest": "c25e" * 16,
        "engine": "inprocess",
        "workers": 1,
        "parties": {p: {"rows": sum(spread[p].values()), "distribution": spread[p]} for p in ids},
        "dropped": {},
        "failures": lost,
        "citations": [
            {
                "name": "fedit",
                "paper": "Zhang et al., Towards Building the Federated GPT, 2023",
                "survey": [53],
            },
            {"name": "topk", "paper": "Aji and Heafield, Sparse Communication, 2017", "survey": []},
        ],
    }
    told.update(summary or {})
    (place / "summary.json").write_text(json.dumps(told))
    (place / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics))
    (place / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    (place / "config.yaml").write_text(
        f"{config}recipe: fedit\nseed: {seed}\nrounds: {rounds}\nmodel: all-MiniLM-L6-v2\nuplink:\n"
        "  - {name: topk, fraction: 0.01}\n  - {name: qsgd, bits: 4}\n"
    )
    return place


def _scores(rng: random.Random, score: float, t: int) -> dict[str, float]:
    found = {"accuracy": score + rng.gauss(0, 0.006), "loss": 2.2 - 1.9 * score + rng.gauss(0, 0.01)}
    for i, task in enumerate(TASKS):
        found[f"accuracy/{task}"] = max(0.0, score - 0.1 + 0.07 * i + rng.gauss(0, 0.015))
    return found
