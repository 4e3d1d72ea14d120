"""Run every recipe at its defaults on several seeds, and write docs/results.md from the summaries; no number is typed.

    python scripts/make_results.py                          # run what is missing under runs/results, then write
    python scripts/make_results.py krum secagg --seeds 0    # only these
    python scripts/make_results.py --write                  # run nothing, write what is there

The language models (fedit, fedit-chat) take ten minutes a seed on two cores, the others about one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

import fedfm
from fedfm.core.registry import recipes
from fedfm.report.numbers import size
from fedfm.running.execute import resume

ROOT = Path(__file__).resolve().parents[1]
RUNS, PAGE = ROOT / "runs" / "results", ROOT / "docs" / "results.md"
HEAD = """# What the recipes reach

Written by `scripts/make_results.py`: every recipe at its defaults, as `fedfm run NAME` runs it; mean over the seeds, and
the range. "Alone" is the mean of parties that train without the others for as many steps. Rows are not a ranking: tasks,
rounds, optimisers and the number of parties differ between recipes (`fedfm show NAME`).

| recipe | seeds | scored by | before | alone | federated | up and talk, a party and round | of note |
|---|---|---|---|---|---|---|---|
"""
Summary = dict[str, Any]


def folder(name: str, seed: int) -> Path:
    return RUNS / f"{name}-{seed}"


def finished(name: str, seed: int) -> Summary | None:
    path = folder(name, seed) / "summary.json"
    found: Summary | None = json.loads(path.read_text()) if path.exists() else None
    return found if found is not None and found["status"] == "finished" else None


def run(name: str, seed: int) -> None:
    """Run it, or go on where it stopped."""
    print(f"{name}, seed {seed} ...", flush=True)
    if (folder(name, seed) / "config.yaml").exists():
        resume(folder(name, seed))
    else:
        fedfm.run(name, seed=seed, baselines="local", out=folder(name, seed))


def spread(values: Iterable[float | None], show: Callable[[float], str] = "{:.3f}".format) -> str:
    """Mean, and the range where there is one."""
    found = [v for v in values if v is not None]
    if not found:
        return ""
    ends = show(min(found)), show(max(found))
    return show(fmean(found)) + (f" ({ends[0]} to {ends[1]})" if ends[0] != ends[1] else "")


def row(name: str, told: list[Summary]) -> str:
    metric = told[0]["metric"]["name"] + (
        "" if told[0]["metric"]["higher_is_better"] else ", lower is better"
    )
    scores = [spread(s["metric"][key] for s in told) for key in ("base", "local", "federated")]
    sent = [(s["bytes"]["up"] + s["bytes"]["talk"]) / max(1, uploads(name, s["seed"])) for s in told]
    epsilon = [s["privacy"]["epsilon"] for s in told if s["privacy"]]
    note = (
        f"epsilon {spread(epsilon, '{:.2f}'.format)} at delta {told[0]['privacy']['delta']:g}"
        if epsilon
        else ""
    )
    cells = [f"`{name}`", ", ".join(str(s["seed"]) for s in told), metric, *scores, spread(sent, size), note]
    return "| " + " | ".join(cells) + " |\n"


def uploads(name: str, seed: int) -> int:
    """Contributions over all rounds, from the run's metrics."""
    lines = (folder(name, seed) / "metrics.jsonl").read_text().splitlines()
    return sum(r.get("clients", 0) for r in map(json.loads, lines))


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("names", nargs="*", default=sorted(recipes()))
    options.add_argument("--seeds", default="0,1,2")
    options.add_argument("--write", action="store_true")
    given = options.parse_args()
    seeds = [int(s) for s in given.seeds.split(",")]
    for seed in seeds if not given.write else ():
        for name in given.names:
            if finished(name, seed) is None:
                run(name, seed)
    rows = []
    for name in sorted(recipes(), key=lambda name: (recipes()[name].section, name)):
        seen = sorted(
            int(p.name.rpartition("-")[2])
            for p in RUNS.glob(f"{name}-[0-9]*")
            if p.name.rpartition("-")[0] == name
        )
        if told := [s for seed in seen if (s := finished(name, seed)) is not None]:
            rows.append(row(name, told))
    PAGE.write_text(HEAD + "".join(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
