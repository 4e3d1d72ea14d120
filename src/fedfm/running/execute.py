"""Run a config in a directory, continue or extend one; what the command line runs is a call in here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fedfm.checks.rules import check
from fedfm.config import text
from fedfm.config.building import from_config
from fedfm.config.compose import Config
from fedfm.config.configure import configure
from fedfm.config.marker import unspoken
from fedfm.config.setup import Setup
from fedfm.core.books import checkpoint, checkpoints
from fedfm.core.errors import ConfigError, Problem, ResumeError
from fedfm.core.federation import Federation
from fedfm.core.memory import RunState
from fedfm.core.state import Store
from fedfm.files import path as meant
from fedfm.ledger import file as ledger
from fedfm.ledger.events import Stopped
from fedfm.running import baselines as base
from fedfm.running.course.leaving import MODEL, MODELS
from fedfm.running.course.listening import Callback, listeners_of, trackers_of
from fedfm.running.course.stages import extended
from fedfm.running.drive import Plan, drive, open_site
from fedfm.running.progress import Progress, Silent
from fedfm.running.record import own
from fedfm.running.record.folder import CONFIG, EXPORTS, begun, owned, recorded
from fedfm.running.record.identity import Difference, Identity, imports_differ, refuse, span
from fedfm.running.record.places import there
from fedfm.running.record.seal import unbroken
from fedfm.running.summary import versions
from fedfm.running.verdict import Result

PLAN: dict[str, Any] = {
    "baselines": "none",
    "trackers": [],
    "keep_rounds": 0,
    "seconds": 0.0,
    "complete": False,
    "history": [],
}  # what run.json says until the run has said more


def execute(
    what: Setup | Federation | Config,
    out: str | Path | None = None,
    *,
    baselines: str | Sequence[str] | None = "local,pooled",
    progress: Progress | None = None,
    trackers: Iterable[Any] = (),
    callbacks: Callback | Iterable[Callback] = (),
    keep_rounds: int = 0,
    strict: bool = False,
) -> Result:
    """Run a federation, or a complete config, into `out` (default: a new folder under runs/).

    `trackers`: names, or objects with `log(round, metrics)` and `close()`. `callbacks`: called with each round's record.
    `keep_rounds`: keep the states of every so many rounds for audits (0: none).
    Raises RunFailed, with the result, for a run that failed, and with `strict` also for one with findings.
    """
    if isinstance(keep_rounds, bool) or not isinstance(keep_rounds, int) or keep_rounds < 0:
        fix, why = "1 keeps all, 5 every fifth, 0 none", "every so many are kept"
        raise ConfigError([Problem("keep_rounds", f"{keep_rounds!r} is no number of rounds", why, fix)])
    kinds, names, objects = base.parse(baselines), *trackers_of(trackers)
    setup = Setup.of(what)
    with begun(out, setup.recipe or "run") as folder:
        plan = Plan(
            folder, setup.config, setup.fed, {}, False, listeners_of(callbacks), objects, progress or Silent()
        )
        plan.write_config()
        plan.keep(
            **PLAN | {"baselines": ",".join(kinds) or "none", "trackers": names, "keep_rounds": keep_rounds}
        )
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
    """Continue an interrupted run, or extend one to `rounds`; the same bits as a run that never stopped, whose `horizon`
    is the one that this run began with.

    Config, data, base model and own modules must be those that the run began with (`accept=["imports"]` lets changed
    own modules pass); more rounds, evaluate.every, engine, trackers, library versions, the device that
    `auto` finds, and the places where the same rows and models lie may change, and are noted.
    `federation`: the one that was run, again, where it holds objects that a config only names; how many rounds there are
    is the run's own, or `rounds`. `imports`: files of own methods that have moved.
    Raises ResumeError that names what differs, or what of a finished run is damaged, and RunFailed as `execute` does.
    """
    folder = meant(folder)
    recorded(folder)  # before a lock is put into a folder that is none of ours
    _acceptable(accept)
    with owned(folder):
        was: dict[str, Any] = PLAN | recorded(folder)
        if was.get("real"):
            raise ResumeError(
                f"{folder} was served to real parties\n    fix: fedfm resume {folder}, on the command line"
            )
        before = Identity.of(was["identity"]) if was.get("identity") else None
        found = own.bring(before.imports if before else {}, imports, folder)
        if before:
            refuse(imports_differ(before.imports, found, "imports" in accept), folder)
        own.load(found)
        config = _config(folder, before, federation)
        kept = span(before.config if before else config)
        fed = federation or from_config(config)
        if rounds is not None:
            config["rounds"] = extended(fed, rounds).rounds
        if config.get("horizon") is None and config["rounds"] != kept:
            config["horizon"] = kept  # schedules and noise stay those of the run that is extended
        fed = dataclasses.replace(fed, rounds=config["rounds"], horizon=config.get("horizon"))
        if problems := check(fed):
            raise ConfigError(problems)
        done, missing = _standing(folder)
        differences: list[Difference] = []
        if before:
            now = dataclasses.replace(
                before, config=config, imports=found, versions=versions(fed), bits=Identity(config).bits
            )
            differences = before.differs(now, done=max(0, done - fed.since), accept=accept)
            refuse(differences, folder)
        if missing:
            raise ResumeError(missing)
        if rounds is not None and rounds > done and (why := _stopped(folder)):
            raise ResumeError(f"{folder} cannot be extended: {why}")
        model = MODEL if fed.serving.whole else MODELS
        # it may have stopped before its last round
        ended = max(done, fed.since + before.config["rounds"] if before else 0)
        if was["complete"] and fed.last <= ended and (result := _whole(folder, model)):
            unbroken(folder, was.get("seal") or {}, result.summary)
            return result.judged(strict)
        there(config, folder, given=federation is not None)
        names, objects = (was["trackers"], []) if trackers is None else trackers_of(trackers)
        changes = [{"after": done, "what": d.what, "was": d.was, "now": d.now} for d in differences]
        was |= {"trackers": names, "history": [*was["history"], *changes]}
        plan = Plan(folder, config, fed, was, True, listeners_of(callbacks), objects, progress or Silent())
        _told(plan, done, rounds or (federation or fed).last)
        return drive(plan).judged(strict)


def _acceptable(accept: Iterable[str]) -> None:
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


def _whole(folder: Path, model: str) -> Result | None:
    """The result of a run whose parts are all there; None where one is missing or damaged, and is to be written again."""
    if not all((folder / part).exists() for part in (model, "report.html")):
        return None
    try:
        return Result.read(folder)
    except ResumeError:
        return None


def _told(plan: Plan, done: int, said: int) -> None:
    """Say that the federation was given with other rounds than the run's, and which exports will be of another model."""
    if said != (own := plan.fed.last):
        plan.progress.tell(
            f"this run is of {own} rounds, the federation says {said}: rounds={said} extends it"
        )
    if old := [name for name in EXPORTS if (plan.folder / name).exists()]:
        plan.progress.tell(
            f"{' and '.join(old)} in {plan.folder} is of round {done}: export again when the run ends"
        )


def _config(folder: Path, before: Identity | None, federation: Federation | None) -> Config:
    """What config.yaml says today, in full; from the record where somebody removed the file."""
    path = folder / CONFIG
    if not path.is_file():
        if before is None:
            raise ResumeError(f"{path} is missing: restore it, or start another run")
        return dict(before.config)
    try:
        found = text.load(path)
        if federation is not None:
            config = Setup(federation, found.get("recipe")).config
            return config | {
                "rounds": found.get("rounds", config["rounds"])
            }  # `run` may have been given others
        if objects := list(unspoken(found)):
            raise ResumeError(
                f"{folder} holds objects of a Python process, which its config only records: "
                + ", ".join(f"{where} ({name})" for where, name in objects)
                + f"\n    fix: make them again and call fedfm.resume('{folder}', federation)"
            )
        return Setup.of(found).config
    except ConfigError as e:
        raise ResumeError(f"{path} cannot be read: {e}") from e


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


def _stopped(folder: Path) -> str:
    """Why the run has stopped for good, before its last round; empty: it has not."""
    path = folder / "events.jsonl"
    if not path.exists():
        return ""
    return next((str(e["reason"]) for e in ledger.read(path) if e["kind"] == Stopped.kind), "")


__all__ = ["Result", "configure", "execute", "open_site", "resume"]
