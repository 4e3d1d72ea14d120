"""Run every recipe at its defaults on several seeds, and write docs/results.md from the records; no number is typed.

    python scripts/make_results.py                          # run what is missing or has changed, then write
    python scripts/make_results.py krum secagg --seeds 0    # only these
    python scripts/make_results.py --stale                  # say what would be run, and stop
    python scripts/make_results.py --write                  # run nothing, write what is there

docs/results.jsonl holds one record a recipe and seed, with the digest of its config and the bits epoch of the release
that ran it: a record stands until one of the two moves. Language models (fedit, fedit-chat) take ten minutes a seed
on two cores, the others about one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from fedfm.cards.registry import recipes
from fedfm.config.plain import digest
from fedfm.core.text import markdown
from fedfm.report.numbers import decimals, fixed, short, size
from fedfm.report.seeds import reach
from fedfm.running.execute import configure, execute, resume
from fedfm.running.record.identity import BITS

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs" / "results"
PAGE, RECORDS = ROOT / "docs" / "results.md", ROOT / "docs" / "results.jsonl"
FORMAT = 1  # of a record
HEAD = """# What the recipes reach

Written by `scripts/make_results.py` from `results.jsonl`: every recipe at its defaults, as `fedfm run NAME` runs it;
mean over the seeds, and the range. "Alone" is the mean of parties that train without the others for as many steps. Rows
are not a ranking: tasks, rounds, optimisers and the number of parties differ between recipes (`fedfm show NAME`).
A row that is marked † is of an older config or bits epoch than this release's ({bits}) and waits to be run again.

| recipe | seeds | scored by | before | alone | federated | up and talk, a party and round | of note |
|---|---|---|---|---|---|---|---|
"""
Record = dict[str, Any]
Key = tuple[str, int]


def known(path: Path | None = None) -> dict[Key, Record]:
    """The records by recipe and seed; one of another format is left out, so that it is made anew."""
    path = path or RECORDS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    return {(r["recipe"], r["seed"]): r for r in found if r.get("format") == FORMAT}


def fresh(record: Record | None, name: str, seed: int) -> bool:
    """Does this record say what this release would give?"""
    if record is None or record["status"] in ("failed", "interrupted"):
        return False
    return bool(record["bits"] == BITS and record["config"] == digest(configure(name, seed=seed).config))


def run(name: str, seed: int) -> Record:
    """Run it, or go on where it stopped."""
    setup = configure(name, seed=seed)
    folder = RUNS / f"{name}-{seed}-{BITS}-{digest(setup.config)[:8]}"
    print(f"{name}, seed {seed} ...", flush=True)
    if (folder / "config.yaml").exists():
        resume(folder)
    else:
        execute(setup, folder, baselines="local")
    return record(folder, name, seed)


def record(folder: Path, name: str, seed: int) -> Record:
    """What is kept of a run directory."""
    told = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    rounds = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    uploads = sum(r.get("clients", 0) for r in rounds)
    metric = told["metric"]
    return {
        "format": FORMAT,
        "recipe": name,
        "seed": seed,
        "bits": BITS,
        "config": told["config_digest"],
        "status": told["status"],
        "reasons": told.get("reasons", []),
        "metric": {k: metric[k] for k in ("name", "higher_is_better", "base", "local", "federated")},
        "sent_per_upload": (told["bytes"]["up"] + told["bytes"]["talk"]) / max(1, uploads),
        "privacy": {k: told["privacy"].get(k) for k in ("epsilon", "delta")} if told["privacy"] else None,
        "seconds": told["seconds"],
        "versions": told["versions"],
    }


def keep(records: dict[Key, Record]) -> None:
    """Write all records, sorted: a change of one is a change of one line."""
    lines = (json.dumps(records[key], sort_keys=True) + "\n" for key in sorted(records))
    RECORDS.write_text("".join(lines), encoding="utf-8")


def spread(values: Iterable[float | None], show: Callable[[float], str]) -> str:
    """Mean, and the range where there is one."""
    found = [v for v in values if v is not None]
    ends = reach(found, show)
    return "" if not found else show(fmean(found)) + (f" ({ends})" if ends else "")


def row(name: str, told: Sequence[Record], old: bool = False) -> str:
    """A recipe's line of the page."""
    metric = told[0]["metric"]["name"] + (
        "" if told[0]["metric"]["higher_is_better"] else ", lower is better"
    )
    keys = ("base", "local", "federated")
    digits = decimals(r["metric"][key] for r in told for key in keys)
    scores = [spread((r["metric"][key] for r in told), lambda v: fixed(v, digits)) for key in keys]
    notes = []
    if epsilon := [r["privacy"]["epsilon"] for r in told if r["privacy"] and r["privacy"]["epsilon"]]:
        delta = short(told[0]["privacy"]["delta"])
        notes.append(f"epsilon {spread(epsilon, lambda v: fixed(v, 2))} at delta {delta}")
    if findings := sorted({reason for r in told for reason in r["reasons"]}):
        notes.append("; ".join(findings))
    cells = [
        f"`{name}`" + (" †" if old else ""),
        ", ".join(str(r["seed"]) for r in told),
        metric,
        *scores,
        spread((r["sent_per_upload"] for r in told), size),
        markdown("; ".join(notes)),
    ]
    return "| " + " | ".join(cells) + " |\n"


def page(records: dict[Key, Record]) -> str:
    """The whole page; recipes in the order of the survey's sections."""
    rows = []
    for name in sorted(recipes(), key=lambda name: (recipes()[name].section, name)):
        told = [records[key] for key in sorted(records) if key[0] == name]
        if told:
            rows.append(row(name, told, not all(fresh(r, name, r["seed"]) for r in told)))
    return HEAD.format(bits=BITS) + "".join(rows)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("names", nargs="*", default=sorted(recipes()))
    options.add_argument("--seeds", default="0,1,2")
    options.add_argument("--write", action="store_true")
    options.add_argument("--stale", action="store_true")
    given = options.parse_args()
    records = known()
    todo = [
        (name, int(seed))
        for seed in given.seeds.split(",")
        for name in given.names
        if not fresh(records.get((name, int(seed))), name, int(seed))
    ]
    if given.stale:
        print("".join(f"{name}, seed {seed}\n" for name, seed in todo) or "nothing\n", end="")
        return
    for key in todo if not given.write else ():
        records[key] = run(*key)
        keep(records)
    if records:
        PAGE.write_text(page(records), encoding="utf-8")


if __name__ == "__main__":
    main()
