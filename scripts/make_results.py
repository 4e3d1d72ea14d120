"""Run every recipe at its defaults on several seeds, and write docs/results.md from the records; no number is typed.

    python scripts/make_results.py                          # run what is missing or has changed, then write
    python scripts/make_results.py krum secagg --seeds 0    # only these
    python scripts/make_results.py --stale                  # say what would be run, and stop
    python scripts/make_results.py --write                  # run nothing, write what is there
    nice python scripts/make_results.py fedit --seeds 0 &   # one, behind other work

It may be stopped at any moment: the same command goes on with the round where it stopped (runs/results holds the runs).
Several may run at a time, on other recipes or seeds. A run that cannot go on is begun anew; one that fails is told, and the
others go on.

docs/results.jsonl holds one record a recipe and seed, with the digest of its config and the bits epoch of the release
that ran it: a record stands until one of the two moves. Language models (fedit, fedit-chat) take five to ten minutes a
seed on two cores, the others about one.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from filelock import FileLock

from fedfm.cards.registry import recipes
from fedfm.config.record import digest
from fedfm.core.errors import FedfmError, ResumeError, RunFailed
from fedfm.files import write
from fedfm.report.numbers import decimals, fixed, short, size
from fedfm.report.seeds import reach
from fedfm.running.execute import configure, execute, resume
from fedfm.running.record.identity import BITS
from fedfm.text import markdown

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
    try:
        if (folder / "config.yaml").exists():
            try:
                resume(folder)
            except ResumeError as e:  # of other data, or begun by code that is no more
                print(f"    begun anew: {str(e).splitlines()[0]}", flush=True)
                shutil.rmtree(folder)
        if not folder.exists():
            execute(setup, folder, baselines="local")
    except RunFailed as e:
        print(f"    {str(e).splitlines()[0]}", flush=True)
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


def keep(key: Key, new: Record) -> dict[Key, Record]:
    """Write all records with this one, sorted: a change of one is a change of one line. Gives them all."""
    RUNS.mkdir(parents=True, exist_ok=True)
    with FileLock(str(RUNS / ".lock")):
        records = known() | {key: new}
        write(
            RECORDS, "".join(json.dumps(records[k], sort_keys=True) + "\n" for k in sorted(records)).encode()
        )
        write(PAGE, page(records).encode())
    return records


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
    for name, seed in todo if not given.write else ():
        if fresh(known().get((name, seed)), name, seed):
            continue  # somebody else was faster
        try:
            keep((name, seed), run(name, seed))
        except FedfmError as e:
            print(f"    {name}, seed {seed}: {e}", flush=True)
    if records and given.write:
        write(PAGE, page(records).encode())


if __name__ == "__main__":
    main()
