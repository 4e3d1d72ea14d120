"""Going on from an adapter: the task takes its settings, the network its tensors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from fedfm.config.record import to_config
from fedfm.core.errors import ModelError
from fedfm.files import path as meant
from fedfm.models.folder import read, regular
from fedfm.models.identity import base, digest
from fedfm.models.packaged import catalog
from fedfm.models.store import here
from fedfm.tasks.export import FILE, to_whole, unchanged

T = TypeVar("T")


def begun(task: T, labels: tuple[str, ...] | None = None) -> T:
    """The task with the tuning's settings from `task.start`. Raises ModelError when that one cannot be gone on from."""
    spec: Any = task
    if spec.start is None:
        return task
    folder = meant(spec.start)
    if not folder.is_dir():
        raise ModelError(f"task.start={spec.start}: no such folder\n    fix: name a folder with an adapter")
    regular(folder)
    if (folder / "config.json").is_file():
        raise ModelError(
            f"task.start={folder}: holds a whole model, not an adapter\n    why: config.json lies in it\n"
            f"    fix: task.model={folder}, without task.start"
        )
    if not (folder / "adapter_config.json").is_file():
        inner = folder / "model"
        fix = (
            f"task.start={inner}"
            if (inner / "adapter_config.json").is_file()
            else "name a folder with an adapter"
        )
        raise ModelError(f"task.start={folder}: no adapter_config.json here\n    fix: {fix}")
    if (folder / FILE).is_file():
        record = read(folder / FILE)
        unchanged(folder, record)
        told = (record.get("base") or {}).get("weights")
        if told and told != base(spec.model).weights:
            raise ModelError(
                f"task.start={folder}: was trained over another base model than {spec.model}\n"
                f"    why: the digests differ\n    fix: task.model={record['base'].get('name')}"
            )
        if labels is not None and list(labels) != record.get("labels"):
            raise ModelError(
                f"task.start={folder}: its head knows other labels\n    why: {record.get('labels')} are not "
                f"{list(labels)}\n    fix: go on with data of the same labels"
            )
        _as_tuned(spec, folder, record.get("task"))
    else:
        _of_elsewhere(spec, folder)
    return replace(spec, start=str(folder), tuning=spec.tuning.like(folder))  # type: ignore[no-any-return]


def tuned(spec: Any, network: Any) -> Any:
    """The network with the task's tuning, and with the tensors of `start`, where `begun` has read one. Raises ModelError."""
    try:
        made = spec.tuning.apply(network)
    except ModelError as e:
        text = str(e).split("\n")
        if spec.start is None or not text[0].startswith("task.tuning."):
            raise
        raise ModelError(  # nobody has written it
            f"task.start={spec.start}: the adapter's {text[0].removeprefix('task.tuning.')}\n    why: the tuning "
            f"'{spec.tuning.name}' does not adapt what this adapter does\n    fix: {to_whole(Path(spec.start))}"
        ) from e
    if spec.start is not None:
        spec.tuning.resume(made, Path(spec.start))
    return made


def _as_tuned(spec: Any, folder: Path, told: Any) -> None:
    """Refuse settings under which the adapter would be another function than it was tuned as; warn of those that only
    show it other rows. Raises ModelError."""
    now, was = to_config(spec), told if isinstance(told, Mapping) else {}
    unlike: dict[str, list[str]] = {"refused": [], "told": []}
    for f in fields(spec):
        if (stays := f.metadata.get("stays")) and f.name in was and was[f.name] != now.get(f.name):
            unlike[stays].append(f.name)
    lines, mine = (
        " ".join(f"task.{n}={of[n]}" for n in unlike["refused"] + unlike["told"]) for of in (was, now)
    )
    if unlike["refused"]:
        raise ModelError(
            f"task.start={folder}: was tuned under other settings of the task\n    why: under {mine} what it has learnt is "
            f"another function, which nobody has tuned or scored\n    fix: {lines}"
        )
    if unlike["told"]:
        warnings.warn(
            f"fedfm: task.start={folder} was tuned under {lines}, and goes on under {mine}: it sees other pieces of the rows",
            UserWarning,
            stacklevel=2,
        )


def _of_elsewhere(spec: Any, folder: Path) -> None:
    """What an adapter of elsewhere says of its base: refused where that one is here and another, told where nobody can
    see. That the tensors fit is checked when they are taken. Raises ModelError."""
    named = read(folder / "adapter_config.json").get("base_model_name_or_path")
    if not isinstance(named, str) or not named or named == spec.model:
        return
    mine, lies = base(spec.model), named in catalog() or meant(named).is_dir()
    try:
        there = here(named)
        theirs = digest(there) if there is not None else ""
    except ModelError:
        theirs = ""
    if theirs == mine.weights or named in (mine.source, _source(spec.model)):
        return
    if theirs and lies:
        raise ModelError(
            f"task.start={folder}: was trained over another base model than {spec.model}\n    why: its adapter_config.json "
            f"names {named}, and the digests of the two differ\n    fix: task.model={named}"
        )
    warnings.warn(
        f"fedfm: task.start={folder} says that it was trained over {named}, and goes on over task.model={spec.model}: over "
        "another model than its own its tensors say nothing, even where they fit",
        UserWarning,
        stacklevel=2,
    )


def _source(model: str) -> str:
    """The model card of a packaged model."""
    return catalog()[model].source if model in catalog() else ""
