"""Run a config in a directory, or continue one; everything the command line does is a call in here."""

from __future__ import annotations

import glob
import json
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfm.config import plain as configs
from fedfm.config import text
from fedfm.core import ledger
from fedfm.core.check import check
from fedfm.core.errors import ConfigError, DataError, FedfmError, ModelError, Problem, ResumeError
from fedfm.core.federation import Federation
from fedfm.core.loop import Run
from fedfm.core.registry import recipes
from fedfm.core.session import Site
from fedfm.core.state import Store, write
from fedfm.data.splits import opened
from fedfm.models import catalog
from fedfm.running import baselines as base
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


def configure(
    what: str | Path | Mapping[str, Any] | Federation,
    settings: Iterable[str] = (),
    *,
    rounds: int | None = None,
    seed: int | None = None,
    engine: str | None = None,
    slots: Mapping[str, Any] | None = None,
) -> configs.Config:
    """A complete, checked config from a recipe's name, a YAML file, a mapping or a Federation."""
    if isinstance(what, Federation):
        config = configs.to_config(what)
    elif isinstance(what, Mapping):
        config = configs.resolve(dict(what))
    elif str(what) in recipes():
        config = configs.resolve({"recipe": str(what)})
    elif Path(what).suffix in (".yaml", ".yml") or Path(what).is_file():
        if not Path(what).is_file():
            raise ConfigError(
                [
                    Problem(
                        str(what),
                        "there is no such file",
                        f"looked in {Path.cwd()}",
                        "give the path of a YAML config",
                    )
                ]
            )
        config = configs.resolve(text.parse(Path(what).read_text(encoding="utf-8"), str(what)))
    else:
        config = configs.resolve({"recipe": str(what)})  # raises, and names the nearest
    config.update({k: configs.to_config(v) for k, v in (slots or {}).items()})
    config = text.override(config, settings)
    config.update({k: v for k, v in {"rounds": rounds, "seed": seed}.items() if v is not None})
    _anchor(config)
    if engine is not None:
        config["engine"] = {"name": engine}
    fed = configs.from_config(config)
    if problems := check(fed):
        raise ConfigError(problems)
    return {**({"recipe": config["recipe"]} if "recipe" in config else {}), **configs.to_config(fed)}


def _anchor(config: configs.Config) -> None:
    """Paths that exist from here become absolute: a run is resumed, and its model loaded, from anywhere."""
    for slot, key in (("data", "path"), ("data", "test_path"), ("task", "model")):
        spec = config.get(slot)
        value = spec.get(key) if isinstance(spec, dict) else None
        if (
            not isinstance(spec, dict)
            or not isinstance(value, str)
            or (key == "model" and value in catalog())
        ):
            continue  # a packaged model wins over a folder of its name
        if value and next(iter(glob.iglob(value)), None) is not None:
            spec[key] = str(Path(value).absolute())


def execute(
    config: configs.Config,
    out: str | Path | None = None,
    *,
    baselines: str = "local,pooled",
    progress: Progress | None = None,
    trackers: Iterable[str] = (),
) -> Result:
    """Run a complete config into `out` (default: a new folder under runs/)."""
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
        return _go(folder, config, kinds, list(trackers), progress or Silent(), 0.0, resume=False)
    except (ConfigError, DataError, ModelError):
        if {p.name for p in folder.iterdir()} == {"config.yaml", "run.json"}:  # it never began
            shutil.rmtree(folder)
        raise


def resume(folder: str | Path, *, progress: Progress | None = None) -> Result:
    """Continue an interrupted run; the result is the same, bit for bit."""
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise ResumeError(
            f"{folder} is no run directory: it has no config.yaml; give the folder that `fedfm run` wrote"
        )
    config = text.parse((folder / "config.yaml").read_text(encoding="utf-8"), str(folder / "config.yaml"))
    plan = json.loads((folder / "run.json").read_text())
    summary = folder / "summary.json"
    if summary.exists() and json.loads(summary.read_text()).get("status") == "finished":
        return Result(folder, json.loads(summary.read_text()))
    return _go(
        folder,
        config,
        base.parse(plan["baselines"]),
        plan["trackers"],
        progress or Silent(),
        plan["seconds"],
        resume=True,
    )


def open_site(fed: Federation, folder: Path, progress: Progress) -> Site:
    """Open data and model, and encode all data once (workers are forked from this)."""
    import torch

    torch.set_num_threads(fed.threads)
    with progress.step("data"):
        parties = opened(fed.data, fed.seed, fed.task)
    device = fed.device if fed.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    if problems := feasible(fed, len(parties.ids)):
        raise ConfigError(problems)
    with progress.step("model"):
        bound = fed.task.open(parties, device)
    return Site(fed, bound, parties, Store(folder / "clients"))


def _go(
    folder: Path,
    config: configs.Config,
    kinds: tuple[str, ...],
    tracked: list[str],
    progress: Progress,
    before_s: float,
    resume: bool,
) -> Result:
    from fedfm.report import trackers as tracking

    fed, start = configs.from_config(config), time.perf_counter()
    loggers = [tracking.open_tracker(name, folder, config) for name in tracked]
    site = open_site(fed, folder, progress)
    plan = json.loads((folder / "run.json").read_text())
    if plan.setdefault("data", site.parties.digest) != site.parties.digest:
        raise ResumeError(f"the data have changed since {folder} began: restore them, or start another run")
    with progress.step("encoding"):
        for i in site.parties.ids:
            site.data(i)
        for case in site.home.cases:
            for k in range(fed.evaluate.parts):
                site.home.test(case, k, fed.evaluate.parts)
    engine = fed.engine.make()
    engine.open(site)
    status, found = "", dict[str, Any]()
    run = Run(fed, folder, site.home, engine, resume)
    try:
        with progress.rounds(fed.rounds, run) as shown:
            for record in run.rounds():
                shown(record)
                for logger in loggers:
                    logger.log(record["round"], record.get("metrics", {}))
        with progress.bar("baselines") as tick:
            found = base.baselines(run, kinds, tick) if kinds and fed.rounds else {}
        why = [r.get("failed", "") for r in ledger.read(run.books.metrics.path) if r["round"]]
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
            summary = summarise(run, site, config, status=status, seconds=seconds, baseline=found)
            write(folder / "summary.json", dumps(summary))
    bound = site.bound
    bound.load(run.model())
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
