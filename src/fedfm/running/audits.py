"""Audits of finished runs: one is opened again from its folder, an audit asks, audit.json and the report keep the answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedfm import report
from fedfm.cards.registry import name_of
from fedfm.checks.place import settled
from fedfm.config import text
from fedfm.config.building import build
from fedfm.config.compose import Config
from fedfm.config.marker import unspoken
from fedfm.config.record import to_config
from fedfm.config.setup import Setup
from fedfm.core.best import Best
from fedfm.core.books import checkpoint, checkpoints
from fedfm.core.context import Ctx
from fedfm.core.errors import ConfigError, FedfmError, Problem, ResumeError
from fedfm.core.federation import Federation
from fedfm.core.memory import RunState
from fedfm.core.message import Message
from fedfm.core.protocols import Audit, Bound
from fedfm.data.splits import opened as open_data
from fedfm.files import path as meant
from fedfm.files import write
from fedfm.ledger import file as ledger
from fedfm.report.rundir import AUDIT
from fedfm.running.process import borrowed
from fedfm.running.record import kept, own
from fedfm.running.record.folder import CONFIG, FORMAT, owned, recorded, versioned, writing
from fedfm.running.record.identity import Identity, imports_differ, of_base, of_data
from fedfm.running.summary import versions
from fedfm.running.verdict import tally
from fedfm.tasks.probing import open_task


@dataclass(frozen=True)
class Opened:
    """A finished run, opened again. Nothing of it is written to.

    `model` is the vector of the run's model, `round` the number of its rounds, `contributors` are the parties whose
    work was used in some round, `kept` has the checkpoints of the rounds that it kept (`keep_rounds`), by round.
    """

    folder: Path
    fed: Federation
    parties: Any
    bound: Bound
    model: Tensor
    contributors: tuple[str, ...]
    round: int = 0
    kept: Mapping[int, Path] = field(default_factory=dict)

    def at(self, round: int) -> Tensor:
        """The model after a round that was kept."""
        return self.fed.serving.model(RunState.load(self.kept[round]).server)

    def messages(self, round: int) -> dict[str, Message]:
        """What the server read of each party in a round, made anew; the round before it must have been kept."""
        return kept.messages(self.folder, self.fed, self.bound, self.parties, round)


def audit(
    folder: str | Path, what: Audit | str = "loss-threshold", federation: Federation | None = None
) -> dict[str, Any]:
    """Ask a finished run, and add the findings to its audit.json under the audit's name.

    `federation`: the one that was run, where it holds objects that a config cannot say. Raises ResumeError for a folder
    that cannot be opened as what it was a run of, FedfmError for an audit that cannot be carried out on it.
    """
    folder, spec = meant(folder), chosen(what) if isinstance(what, str) else what
    recorded(folder)  # before a lock is put into a folder that is none of ours
    with owned(folder), borrowed():
        path = folder / AUDIT
        known: dict[str, Any] = versioned(path) if path.exists() else {"format": FORMAT, "audits": {}}
        run = reopened(folder, federation)
        if spec.needs_rounds and not run.kept:
            raise FedfmError(
                f"{folder}: {name_of(spec)} asks the models of single rounds, and this run kept none\n"
                "    fix: run it with keep_rounds=1 (every round) or another number: --keep-rounds N"
            )
        found = spec.run(run, Ctx(run.fed.seed, run.round))
        known["audits"][name_of(spec)] = {"spec": to_config(spec), "round": run.round, **found}
        with writing(folder):
            write(path, json.dumps(known, indent=1, allow_nan=False).encode())
        report.write([folder])
    return found


def reopened(folder: Path, federation: Federation | None = None) -> Opened:
    """A finished run from its folder: the same config, own modules, data and base model, or a ResumeError that says what differs."""
    record = recorded(folder)
    if not record.get("identity") or not record.get("complete"):
        raise ResumeError(f"{folder}: this run is not finished\n    fix: fedfm resume {folder}")
    before = Identity.of(record["identity"])
    imports = own.bring(before.imports, (), folder)
    _same(imports_differ(before.imports, imports, False), folder)
    own.load(imports)
    config, fed = _federation(folder, federation)
    if not fed.serving.whole:
        raise FedfmError(
            f"{folder}: {name_of(fed.client)} leaves no single model, but one for each party or cluster\n"
            "    why: an audit asks the model that everybody gets"
        )
    torch.set_num_threads(fed.threads)  # `borrowed`
    last = max(checkpoints(folder), default=None)
    if last is None:
        raise ResumeError(f"{folder} has no checkpoint: restore it (copy a run directory as a whole)")
    try:
        parties = open_data(fed.data, fed.seed, fed.task)
    except FedfmError as e:
        raise ResumeError(
            f"{folder} cannot be audited: the rows that it was trained on cannot be read again\n    why: {e}\n"
            "    fix: put the data back where config.yaml says"
        ) from e
    device = settled(fed)
    bound = open_task(fed.task, parties, device)
    base, template = of_base(config, {"start": bound.init})
    base |= {k: v for k, v in before.base.items() if k.startswith("start of stage ")}  # not opened here
    base |= getattr(bound, "frozen", dict)()
    now = Identity(config, of_data(parties), base, template, before.imports, versions(fed))
    _same(before.differs(now, done=max(0, last - fed.since)), folder)
    state, best = RunState.load(checkpoint(folder, last)), Best(fed.evaluate, bound.objective, folder)
    best.see(r for r in ledger.read(folder / "metrics.jsonl") if not fed.stages or r["round"] > fed.since)
    return Opened(
        folder,
        fed,
        parties,
        bound,
        fed.serving.model(state.server) if (of_best := best.model(state.round)) is None else of_best,
        _contributors(folder, parties.ids),
        state.round,
        kept.kept(folder),
    )


def _federation(folder: Path, given: Federation | None) -> tuple[Config, Federation]:
    path = folder / CONFIG
    try:
        found = text.load(path)
        if given is not None:
            rounds, horizon = found.get("rounds", given.rounds), found.get("horizon")
            given = replace(given, rounds=rounds, horizon=horizon)  # `run` may have been given others
            return Setup(given, found.get("recipe")).config, given
        if objects := list(unspoken(found)):
            raise ResumeError(
                f"{folder} cannot be audited from its folder alone: it was run on objects of a Python process, which "
                "its config only records: "
                + ", ".join(f"{where} ({name})" for where, name in objects)
                + "\n    fix: make them again, and call fedfm.audit"
                f"('{folder}', 'loss-threshold', federation)"
            )
        setup = Setup.of(found)
        return setup.config, setup.fed
    except (ConfigError, OSError) as e:
        raise ResumeError(f"{path} cannot be read: {e}") from e


def _same(differences: Any, folder: Path) -> None:
    """Raise ResumeError that names whatever is not what the run was trained on."""
    if bad := [d for d in differences if not d.allowed]:
        raise ResumeError(
            f"{folder} cannot be audited: what it was a run of is not what is here now\n    "
            + "\n    ".join(map(str, bad))
            + "\n    why: losses on other rows or another base say nothing about who was trained on"
            "\n    fix: restore what changed"
        )


def _contributors(folder: Path, ids: tuple[str, ...]) -> tuple[str, ...]:
    """The parties whose work was used, in the order of the data."""
    failed = {r["round"] for r in ledger.read(folder / "metrics.jsonl") if r.get("failed")}
    used = {
        i
        for i, one in tally(ledger.read(folder / "events.jsonl"), failed).items()
        if one.used and not one.passed
    }
    return tuple(i for i in ids if i in used)


def chosen(said: str) -> Audit:
    """An audit from its name, or from YAML with its settings. Raises ConfigError with all problems."""
    problems: list[Problem] = []
    spec = build(Audit, text.parse(f"audit: {said}", "--audit")["audit"], "audit", problems, "audit")
    if problems:
        raise ConfigError(problems)
    assert isinstance(spec, Audit)
    return spec
