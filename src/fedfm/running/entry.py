"""Python's way in: `fedfm.run`, `fedfm.probe`, `fedfm.resume`, `fedfm.recipe_of`."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedfm.cards.registry import load
from fedfm.config.configure import given
from fedfm.config.setup import Setup
from fedfm.config.stages import joined
from fedfm.core.errors import ConfigError, Problem
from fedfm.core.federation import Federation
from fedfm.running import execute
from fedfm.running.commands import checking
from fedfm.running.commands.checking import Checked
from fedfm.running.course.listening import Callback
from fedfm.running.progress import Lines
from fedfm.running.verdict import Result
from fedfm.text import nearest


def run(
    what: str | Path | Mapping[str, Any] | Federation | Sequence[Federation],
    *,
    out: str | Path | None = None,
    model: str | Path | None = None,
    data: Any = None,
    clients: int | None = None,
    rounds: int | None = None,
    seed: int | None = None,
    engine: Any = None,
    baselines: str | Sequence[str] | None = "none",
    settings: str | Iterable[str] | Mapping[str, Any] = (),
    callbacks: Callback | Iterable[Callback] = (),
    trackers: str | Iterable[Any] = (),
    keep_rounds: int = 0,
    progress: bool = False,
    strict: bool = False,
    **slots: Any,
) -> Result:
    """Run a recipe (by name), a YAML file, a mapping or a `Federation`; returns its `Result` (folder and summary).

    A list of federations is one run of several stages, each from the model of the one before; settings are the last one's.

    The objects that are given are the objects that run; config.yaml records them. `model`: a packaged name, a local
    folder or a hub id. `data`: a data spec; a file, folder, glob or a list of them, one file a party; or what is in
    memory (a dict of parties, a DataFrame, a data set, rows). `clients`: how many parties a partition makes.
    `settings`: "client.lr=0.1", a list of such, or {"client.lr": 0.1}. `engine`: a name or a spec. `callbacks`: called
    with each round's record. `trackers`: names, or objects with `log(round, metrics)` and `close()`. `keep_rounds`: of
    every so many rounds keep the states, for audits (0: none). `progress`: print a line a round. Other keywords fill
    slots. Raises ConfigError with all problems, RunFailed for a run that failed, with `strict` also for one that has
    findings.
    """
    setup = _setup("run", what, model, data, clients, rounds, seed, engine, settings, slots)
    return execute.execute(
        setup,
        out,
        baselines=baselines,
        progress=Lines() if progress else None,
        trackers=trackers,
        callbacks=callbacks,
        keep_rounds=keep_rounds,
        strict=strict,
    )


def probe(
    what: str | Path | Mapping[str, Any] | Federation | Sequence[Federation],
    *,
    model: str | Path | None = None,
    data: Any = None,
    clients: int | None = None,
    rounds: int | None = None,
    seed: int | None = None,
    engine: Any = None,
    settings: str | Iterable[str] | Mapping[str, Any] = (),
    **slots: Any,
) -> Checked:
    """What the command `fedfm check` looks at: the data is opened, and a few local steps are taken where the model is here.

    Arguments as in `run`; nothing is written. `remarks` has what a person must know before the run, `estimate` what it
    takes. Raises ConfigError and DataError with all problems, as `run` would before its first round.
    """
    return checking.probe(_setup("probe", what, model, data, clients, rounds, seed, engine, settings, slots))


def resume(
    folder: str | Path,
    federation: Federation | Sequence[Federation] | None = None,
    *,
    rounds: int | None = None,
    accept: Iterable[str] = (),
    callbacks: Callback | Iterable[Callback] = (),
    trackers: str | Iterable[Any] | None = None,
    progress: bool = False,
    strict: bool = False,
) -> Result:
    """Continue an interrupted run, or extend one to `rounds` in all; the same bits as a run that never stopped.

    `federation`: the one that was run, where it holds objects that a config cannot say. `accept`: ("imports",) goes
    on although your own modules have changed. The others as in `run`. Raises `ResumeError` that names what differs.
    """
    return execute.resume(
        folder,
        joined(federation) if isinstance(federation, Sequence) else federation,
        rounds=rounds,
        accept=accept,
        progress=Lines() if progress else None,
        trackers=trackers,
        callbacks=callbacks,
        strict=strict,
    )


def recipe_of(name: str) -> Federation:
    """The federation that a recipe's name stands for, to `replace` slots of."""
    fed: Federation = load(name, "recipe")()
    return fed


def _setup(
    call: str,
    what: Any,
    model: Any,
    data: Any,
    clients: int | None,
    rounds: int | None,
    seed: int | None,
    engine: Any,
    settings: Any,
    slots: dict[str, Any],
) -> Setup:
    """What the arguments of a call stand for. Raises ConfigError."""
    fed = Federation.__dataclass_fields__
    if strange := [k for k in slots if k not in fed]:
        known = (*fed, *inspect.signature(run).parameters)
        raise ConfigError(
            [
                Problem(f"{call}({k}=...)", f"there is no '{k}'", nearest(k, known), "rename it")
                for k in strange
            ]
        )
    if data is not None:
        slots = {"data": given(data), **slots}
    more: dict[str, Any] = {}
    if model is not None:
        if not isinstance(model, str | os.PathLike):
            fix = "task=fedfm.Torch(module, ...) for a module; model= takes a name, a folder or a hub id"
            what_ = f"{type(model).__name__} is no name of a model"
            raise ConfigError([Problem("model", what_, "a model is named, a task opens it", fix)])
        more["task.model"] = os.fspath(model)
    if clients is not None:
        more["data.partition.parties"] = clients
    setup = execute.configure(what, settings, rounds=rounds, seed=seed, engine=engine, slots=slots, also=more)
    for note in setup.notes:
        warnings.warn(f"fedfm: {note}", stacklevel=3)
    return setup
