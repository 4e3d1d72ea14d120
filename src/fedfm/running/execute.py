"""Run a config in a directory, continue or extend one; everything the command line does is a call in here."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedfm.checks.rules import check
from fedfm.config import plain as configs
from fedfm.config import text
from fedfm.core.books import checkpoint, checkpoints
from fedfm.core.errors import ConfigError, FedfmError, Problem, ResumeError
from fedfm.core.federation import Federation
from fedfm.core.memory import RunState
from fedfm.core.registry import recipes
from fedfm.core.state import Store
from fedfm.models import catalog
from fedfm.running import baselines as base
from fedfm.running.drive import Callback, Plan, drive, open_site
from fedfm.running.progress import Progress, Silent
from fedfm.running.record import own
from fedfm.running.record.folder import CONFIG, begun, owned, recorded
from fedfm.running.record.identity import Difference, Identity, imports_differ, refuse
from fedfm.running.summary import versions
from fedfm.running.verdict import Result


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
    for slot, key in (("data", "path"), ("data", "test_path"), ("task", "model"), ("task", "start")):
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


PLAN: dict[str, Any] = {
    "baselines": "none",
    "trackers": [],
    "seconds": 0.0,
    "complete": False,
    "history": [],
}  # what run.json says until the run has said more


def execute(
    config: configs.Config,
    out: str | Path | None = None,
    *,
    fed: Federation | None = None,
    baselines: str | Sequence[str] = "local,pooled",
    progress: Progress | None = None,
    trackers: Iterable[Any] = (),
    callbacks: Callback | Iterable[Callback] = (),
    strict: bool = False,
) -> Result:
    """Run a complete config into `out` (default: a new folder under runs/).

    `fed`: the federation that the config is of, where it holds objects that a config only names. `trackers`: names,
    or objects with `log(round, metrics)` and `close()`. `callbacks`: called with each round's record.
    Raises RunFailed, with the result, for a run that failed, and with `strict` also for one with findings.
    """
    kinds, names, objects = base.parse(baselines), *_trackers(trackers)
    fed = fed or configs.from_config(config)
    with begun(None if out is None else Path(out), str(config.get("recipe") or "run")) as folder:
        plan = Plan(folder, config, fed, {}, False, _several(callbacks), objects, progress or Silent())
        plan.write_config()
        plan.keep(**PLAN | {"baselines": ",".join(kinds) or "none", "trackers": names})
        return drive(plan).judged(strict)


def resume(
    folder: str | Path,
    federation: Federation | None = None,
    *,
    rounds: int | None = None,
    accept: Iterable[str] = (),
    imports: Iterable[str] = (),
    progress: Progress | None = None,
    trackers: Iterable[Any] | None = None,
    callbacks: Callback | Iterable[Callback] = (),
    strict: bool = False,
) -> Result:
    """Continue an interrupted run, or extend one to `rounds`; the result is the same, bit for bit.

    Config, data, base model and own modules must be those that the run began with (`accept=["imports"]` lets changed
    own modules pass); more rounds, evaluate.every, engine, trackers and library versions may change, and are noted.
    `federation`: the one that was run, again, where it holds objects that a config only names. `imports`: files of own
    methods that have moved.
    Raises ResumeError that names what differs, and RunFailed as `execute` does.
    """
    folder = Path(folder)
    recorded(folder)  # before a lock is put into a folder that is none of ours
    if bad := [a for a in accept if a != "imports"]:
        raise ConfigError(
            [
                Problem(
                    "--accept",
                    f"'{bad[0]}' cannot be accepted",
                    "only changed own code can",
                    "--accept imports",
                )
            ]
        )
    with owned(folder):
        was: dict[str, Any] = PLAN | recorded(folder)
        before = Identity.of(was["identity"]) if was.get("identity") else None
        found = own.bring(before.imports if before else {}, imports, folder)
        if before:
            refuse(imports_differ(before.imports, found, "imports" in accept), folder)
        own.load(found)
        config = _config(folder, before, federation)
        if rounds is not None:
            config["rounds"] = rounds
        if problems := check(
            fed := dataclasses.replace(federation or configs.from_config(config), rounds=config["rounds"])
        ):
            raise ConfigError(problems)
        done, missing = _standing(folder)
        differences: list[Difference] = []
        if before:
            now = dataclasses.replace(
                before, config=config, imports=found, versions=versions(), bits=Identity(config).bits
            )
            differences = before.differs(now, done=done, accept=accept)
            refuse(differences, folder)
        if missing:
            raise ResumeError(missing)
        whole = all((folder / part).exists() for part in ("summary.json", "model", "report.html"))
        if was["complete"] and whole and config["rounds"] <= done:
            return Result.read(folder).judged(strict)
        names, objects = (was["trackers"], []) if trackers is None else _trackers(trackers)
        changes = [{"after": done, "what": d.what, "was": d.was, "now": d.now} for d in differences]
        was |= {"trackers": names, "history": [*was["history"], *changes]}
        plan = Plan(folder, config, fed, was, True, _several(callbacks), objects, progress or Silent())
        return drive(plan).judged(strict)


def _config(folder: Path, before: Identity | None, federation: Federation | None) -> configs.Config:
    """What config.yaml says today, in full; from the record where somebody removed the file."""
    path = folder / CONFIG
    if not path.is_file():
        if before is None:
            raise ResumeError(f"{path} is missing: restore it, or start another run")
        return dict(before.config)
    found = text.parse(path.read_text(encoding="utf-8", errors="replace"), str(path))
    if federation is not None:
        return {**({"recipe": found["recipe"]} if "recipe" in found else {}), **configs.to_config(federation)}
    try:
        whole = configs.to_config(configs.from_config(found))
    except ConfigError as e:
        raise ResumeError(f"{path} cannot be read: {e}") from e
    return {**({"recipe": found["recipe"]} if "recipe" in found else {}), **whole}


def _standing(folder: Path) -> tuple[int, str]:
    """Rounds that are kept, and what is missing of the states that the last checkpoint names (or nothing)."""
    last = max(checkpoints(folder), default=None)
    if last is None:
        return 0, ""
    path = checkpoint(folder, last)
    try:
        state = RunState.load(path)
    except (TypeError, KeyError, ValueError) as e:
        raise ResumeError(
            f"{path} was written by another release of fedfm ({e})\n    fix: resume with that release"
        ) from e
    busy = {job.id: job.base for job in state.busy.values()}
    named = (
        ("clients", [*state.accepted.items(), *busy.items()]),
        ("checkpoints/senders", state.decode.items()),
        ("checkpoints/receivers", state.down.items()),
    )
    bad: dict[str, str] = {}
    for where, versions_ in named:
        store = Store(folder / where)
        for party, version in versions_:
            try:
                store.load(party, version)
            except ResumeError as e:
                bad.setdefault(f"{where}/{party}", str(e).split(";")[0])
    if not bad:
        return state.round, ""
    return state.round, (
        f"{folder}: {len(bad)} states that its checkpoint names cannot be read\n    "
        + "\n    ".join(list(bad.values())[:10])
        + "\n    fix: restore them (copy a run directory as a whole), or start another run"
    )


def _trackers(given: Iterable[Any]) -> tuple[list[str], list[Any]]:
    """Names, and objects that can `log` and `close`. Raises ConfigError for anything else."""
    several = [given] if isinstance(given, str) else list(given)
    names = [t for t in several if isinstance(t, str)]
    objects = [t for t in several if not isinstance(t, str)]
    if bad := [
        t for t in objects if not (callable(getattr(t, "log", None)) and callable(getattr(t, "close", None)))
    ]:
        raise ConfigError(
            [
                Problem(
                    "trackers",
                    f"{type(bad[0]).__name__} is no tracker",
                    "a tracker has log(round, metrics) and close()",
                    "give such an object, or a name: tensorboard, mlflow, wandb",
                )
            ]
        )
    return names, objects


def _several(callbacks: Callback | Iterable[Callback]) -> list[Callback]:
    several = [callbacks] if callable(callbacks) else list(callbacks)
    if bad := [c for c in several if not callable(c)]:
        raise ConfigError(
            [
                Problem(
                    "callbacks",
                    f"{type(bad[0]).__name__} cannot be called",
                    "a callback takes each round's record, a dict",
                    "callbacks=lambda record: print(record)",
                )
            ]
        )
    return several


__all__ = ["FedfmError", "Result", "configure", "execute", "open_site", "resume"]
