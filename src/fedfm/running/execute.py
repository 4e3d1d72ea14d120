"""Run a config in a directory, or continue one; everything the command line does is a call in here."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfm.config import plain as configs
from fedfm.config import text
from fedfm.config.marker import unspoken
from fedfm.config.setup import Setup
from fedfm.core import ledger
from fedfm.core.errors import ConfigError, DataError, FedfmError, ModelError, Problem, ResumeError
from fedfm.core.federation import Federation
from fedfm.core.loop import Run
from fedfm.core.session import Site
from fedfm.core.state import Store, write
from fedfm.running import baselines as base
from fedfm.running.configure import configure
from fedfm.running.feasible import feasible
from fedfm.running.progress import Progress, Silent
from fedfm.running.summary import dumps, summarise


@dataclass(frozen=True)
class Result:
    """A finished run: its directory and its summary."""

    folder: Path
    summary: dict[str, Any]

    @property
    def metric(self) -> dict[str, Any]:
        """name, base, local, federated, pooled."""
        metric: dict[str, Any] = self.summary["metric"]
        return metric


def execute(
    what: Setup | Federation | configs.Config,
    out: str | Path | None = None,
    *,
    baselines: str = "local,pooled",
    progress: Progress | None = None,
    trackers: Iterable[str] = (),
) -> Result:
    """Run a federation (or a complete config) into `out` (default: a new folder under runs/)."""
    setup = Setup.of(what)
    config = setup.config
    kinds = base.parse(baselines)
    folder = Path(out) if out is not None else _fresh(config.get("recipe") or "run")
    if folder.exists() and any(p.name not in ("config.yaml", "run.json") for p in folder.iterdir()):
        raise ConfigError(
            [
                Problem(
                    "--out",
                    f"{folder} is not empty",
                    "a run never overwrites another",
                    f"choose another folder, or `fedfm resume {folder}`",
                )
            ]
        )
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "config.yaml", text.dump(config).encode())
    write(
        folder / "run.json",
        json.dumps({"baselines": baselines, "trackers": list(trackers), "seconds": 0.0}).encode(),
    )
    try:
        return _go(folder, setup, kinds, list(trackers), progress or Silent(), 0.0, resume=False)
    except (ConfigError, DataError, ModelError):
        if {p.name for p in folder.iterdir()} == {"config.yaml", "run.json"}:  # it never began
            shutil.rmtree(folder)
        raise


def resume(
    folder: str | Path, federation: Federation | None = None, *, progress: Progress | None = None
) -> Result:
    """Continue an interrupted run; the result is the same, bit for bit.

    A run of objects that no config can say needs them again: `federation`, equal to the one that was run.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise ResumeError(
            f"{folder} is no run directory: it has no config.yaml; give the folder that `fedfm run` wrote"
        )
    setup = _again(text.load(folder / "config.yaml"), federation)
    plan = json.loads((folder / "run.json").read_text())
    summary = folder / "summary.json"
    if summary.exists() and json.loads(summary.read_text()).get("status") == "finished":
        return Result(folder, json.loads(summary.read_text()))
    return _go(
        folder,
        setup,
        base.parse(plan["baselines"]),
        plan["trackers"],
        progress or Silent(),
        plan["seconds"],
        resume=True,
    )


def _again(config: configs.Config, federation: Federation | None) -> Setup:
    """What a run's config stands for, or the object that was given, if it is recorded by that very config."""
    if federation is None:
        if found := list(unspoken(config)):
            what = ", ".join(f"{where} ({name})" for where, name in found)
            raise ResumeError(
                f"this run holds objects of a Python process, which its config only records: {what}\n"
                "    fix: make them again and call fedfm.resume(folder, federation)"
            )
        return Setup.of(config)
    setup = Setup(federation, config.get("recipe"))
    if configs.digest(setup.config) != configs.digest(config):
        now = setup.config
        other = sorted(k for k in {*now, *config} - {"engine"} if now.get(k) != config.get(k))
        raise ResumeError(f"this federation is not the one that was run: {', '.join(other)} differ")
    return setup


def open_site(fed: Federation, folder: Path, progress: Progress) -> Site:
    """Open data and model, and encode all data once (workers are forked from this)."""
    import torch

    torch.set_num_threads(fed.threads)
    with progress.step("data"):
        parties = fed.data.open(fed.seed)
    device = fed.device if fed.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    if problems := feasible(fed, len(parties.ids)):
        raise ConfigError(problems)
    with progress.step("model"):
        bound = fed.task.open(parties, device)
    return Site(fed, bound, parties, Store(folder / "clients"))


def _go(
    folder: Path,
    setup: Setup,
    kinds: tuple[str, ...],
    tracked: list[str],
    progress: Progress,
    before_s: float,
    resume: bool,
) -> Result:
    from fedfm.report import trackers as tracking

    fed, config, start = setup.fed, setup.config, time.perf_counter()
    loggers = [tracking.open_tracker(name, folder, config) for name in tracked]
    site = open_site(fed, folder, progress)
    plan = json.loads((folder / "run.json").read_text())
    if plan.setdefault("data", site.parties.digest) != site.parties.digest:
        raise ResumeError(f"the data have changed since {folder} began: restore them, or start another run")
    with progress.step("encoding"):
        for i in site.parties.ids:
            site.data(i)
        for k in range(fed.evaluate.parts):
            site.held_out(k, fed.evaluate.parts)
        if kinds:
            site.held_out(0, 1)
    engine = fed.engine.make()
    engine.open(site)
    status, found = "", dict[str, Any]()
    run = Run(fed, folder, site, engine, resume)
    try:
        with progress.rounds(fed.rounds, run) as shown:
            for record in run.rounds():
                shown(record)
                for logger in loggers:
                    logger.log(record["round"], record.get("metrics", {}))
        with progress.bar("baselines") as tick:
            found = base.baselines(run, kinds, tick) if kinds and fed.rounds else {}
        why = [r.get("failed", "") for r in ledger.read(run.metrics.path) if r["round"]]
        status = "failed" if why and all(why) else "finished"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        engine.close()
        seconds = before_s + time.perf_counter() - start
        plan |= {"baselines": ",".join(kinds) or "none", "trackers": tracked, "seconds": seconds}
        write(folder / "run.json", json.dumps(plan).encode())
        for logger in loggers:
            logger.close()
        if status:
            summary = summarise(run, config, status=status, seconds=seconds, baseline=found)
            write(folder / "summary.json", dumps(summary))
    bound = site.bound
    bound.load(fed.server.model(run.state.server))
    (folder / "model").mkdir(exist_ok=True)
    bound.objective.save(bound.module, str(folder / "model"))
    from fedfm import report

    with progress.step("report"):
        report.write([folder])
    return Result(folder, summary)


def _fresh(name: str) -> Path:
    taken = {p.name for p in Path("runs").glob(f"{name}-*")}
    k = 1
    while f"{name}-{k}" in taken:
        k += 1
    return Path("runs") / f"{name}-{k}"


__all__ = ["FedfmError", "Result", "configure", "execute", "open_site", "resume"]
