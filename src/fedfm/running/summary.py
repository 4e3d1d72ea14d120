"""`summary.json`: what a run came to, folded from its ledger, its metrics and its config."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedfm.cards.registry import methods, name_of, recipes
from fedfm.checks.exposure import outside
from fedfm.checks.place import place
from fedfm.config.compose import Config
from fedfm.config.record import digest
from fedfm.core.combine import stages_of
from fedfm.core.federation import Federation
from fedfm.core.loop import Run
from fedfm.core.message import raw
from fedfm.core.session import Site
from fedfm.data.source import topic
from fedfm.data.splits import fingerprint
from fedfm.ledger import events
from fedfm.ledger import file as ledger
from fedfm.report.numbers import finite
from fedfm.running.findings.clipped import clipped
from fedfm.running.verdict import LOST, Verdict
from fedfm.tasks.probing import left_out


def summarise(
    run: Run,
    site: Site,
    config: Config,
    verdict: Verdict,
    *,
    seconds: float,
    baseline: Mapping[str, Any],
) -> dict[str, Any]:
    """The public record of a run (keys are a contract); the verdict comes first."""
    fed, bound = run.fed, run.bound
    each = fed.task.each(bound, tuple(run.parties))
    records = list(ledger.read(run.folder / "metrics.jsonl"))
    best = best_round(run)
    scored = [
        r["metrics"]
        for r in records
        if r.get("metrics") and not (best["kept"] and r["round"] > best["round"])
    ]
    name = bound.objective.primary
    local = {i: s[name] for i, s in baseline.get("local", {}).items() if name in s}
    total = {way: sum(r["bytes"][way] for r in records) for way in ("up", "down", "talk")}
    model = run.final()
    dropped = (site.parties.account + left_out(site)).reasons()
    trained = [r for r in records if r["round"]]
    scores = [r for r in records if r.get("metrics")]
    federated = scored[-1].get(name) if len(scores) > 1 or run.state.round == 0 and scored else None
    if trained and all(r.get("failed") for r in trained):
        federated = None  # no round made a model: the last score is the base model's
    return {
        "status": verdict.status,
        "reasons": list(verdict.reasons),
        "recipe": config.get("recipe"),
        "rounds": run.state.round,
        "seed": fed.seed,
        "seconds": round(seconds, 3),
        "metric": {
            "name": name,
            "base": scored[0].get(name) if scored else None,
            "local": sum(local.values()) / len(local) if local else None,
            "federated": federated,
            "pooled": baseline.get("pooled", {}).get(name),
            "higher_is_better": bound.objective.higher_is_better,
            "local_parties": local,
            "personal": not fed.serving.whole,  # parties have models of their own, scored on their own test rows
        },
        "metrics": scored[-1] if scored else {},
        "best": best if best["round"] is not None else None,
        "stopped": stopped(run),
        "baselines": dict(baseline),
        "bytes": total
        | {"per_round": (total["up"] + total["down"] + total["talk"]) / max(1, run.state.round)},
        "privacy": privacy(fed, run.folder / "events.jsonl", len(run.parties)),
        "clipped": clipped(fed, ledger.read(run.folder / "events.jsonl")),
        "trainable_parameters": sum(b.layout.trainable for _, b, _ in each.values()),
        "total_parameters": bound.total,
        "architectures": {
            name: {"parties": list(ids), "trainable": b.layout.trainable, "total": b.total}
            for name, (_, b, ids) in each.items()
            if name
        },
        "engine": name_of(fed.engine),
        "workers": run.engine.workers,
        "threads": fed.threads,
        "device": str(bound.device),
        "parties": {
            i: {"rows": n, "distribution": dist}
            for (i, n), dist in zip(run.parties.items(), site.parties.distribution().values(), strict=True)
        },
        "adversaries": sorted(run.malicious),
        "dropped": dropped,
        "server_rows": server_rows(site),
        "test_rows": test_rows(site),
        "failures": dict(
            Counter(
                e["kind"]
                for e in ledger.read(run.folder / "events.jsonl")
                if e["kind"] in (*LOST, events.RoundFailed.kind)
            )
        ),
        "citations": list(citations(config)),
        "versions": versions(run.fed),
        "config_digest": digest(config),
        "model_digest": hashlib.sha256(raw(model)).hexdigest(),
        "ledger_digest": ledger.digest(run.folder / "events.jsonl"),
    }


def server_rows(site: Site) -> dict[str, Any] | None:
    """The server's own rows, of which labels or groups, that values and guidance rest on; None where nothing needs any."""
    if not any("server rows" in m.needs for m in site.fed.methods().values()):
        return None
    rows = site.parties.server().rows
    return {"rows": len(rows), "of": dict(sorted(Counter(topic(r) or "rows" for r in rows).items()))}


def test_rows(site: Site) -> dict[str, Any] | None:
    """How many rows the scores are of, and a digest of what they say in any order: who may be ranked with whom."""
    parties = site.parties
    try:
        own = site.fed.evaluate.where == "parties" or not site.fed.serving.whole
        shards = tuple(parties.own) if own else (parties.test(),)
        prints = sorted(fingerprint(r) for s in shards for r in s.rows)
    except (
        AttributeError,
        TypeError,
    ):  # a data spec of somebody's own may give rows that are no rows of ours
        return None
    digest_ = hashlib.sha256(b"".join(prints)).hexdigest()
    return {"rows": len(prints), "digest": digest_} if prints else None


def best_round(run: Run) -> dict[str, Any]:
    """The best round by the validation rows, of how many, by which score, and whether its model is the run's."""
    k = run.best.round(run.state.round)
    told = {"round": k, "of": run.state.round, "metric": run.best.name}
    kept = run.fed.evaluate.keep_best and k is not None
    value = run.best.value(k) if k is not None else None
    return told | {"value": finite(value), "kept": kept}


def of_best(best: Mapping[str, Any]) -> str:
    """Which round a kept model is of, as a phrase."""
    return f"the model is that of round {best['round']} of {best['of']}, the best by {best['metric']} on the validation rows"


def stopped(run: Run) -> str:
    """Why the run ended before its last round; empty: it did not."""
    if run.state.round >= run.fed.last:
        return ""
    reasons = [e["reason"] for e in ledger.read(run.folder / "events.jsonl") if e["kind"] == "stopped"]
    return str(reasons[-1]) if reasons else ""


def privacy(fed: Federation, events: Path, parties: int) -> dict[str, Any] | None:
    """What the run's protections gave, and whom: epsilon with its definition, or why there is none; None without any."""
    stages = [s for s in stages_of(fed.uplink) if s.against or s.accountant is not None]
    if not stages:
        return None
    from fedfm.trust.privacy import accountant

    return accountant.statement(stages, ledger.read(events), outside(fed), parties)


def citations(config: Any) -> Iterator[dict[str, Any]]:
    """The papers behind every method that a config names."""
    names: dict[str, None] = {}

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("name"), str):
                names[node["name"]] = None
            for v in node.values():
                walk(v)
        elif isinstance(node, list):
            for v in node:
                walk(v)

    walk(config)
    for card in [recipes().get(config.get("recipe", "")), *(methods().get(n) for n in names)]:
        if card is not None and card.paper:
            yield {"name": card.name, "paper": card.paper, "survey": list(card.survey)}


def versions(fed: Federation | None = None) -> dict[str, str]:
    """Of Python and the libraries; of a run also the sort of device. They may change at a resume, and are noted then."""
    found = {"python": platform.python_version()} | ({} if fed is None else {"device": place(fed)})
    for package in ("fedfm", "torch", "transformers", "peft", "safetensors", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def dumps(summary: Mapping[str, Any]) -> bytes:
    said = json.dumps(summary, indent=1, ensure_ascii=False)
    return said.encode(
        errors="backslashreplace"
    )  # half a character, as JSON writes it: what failed may quote any
