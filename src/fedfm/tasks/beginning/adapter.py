"""Going on from an adapter: the task takes its settings, the network its tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from fedfm.core.errors import ModelError
from fedfm.files import path as meant
from fedfm.models.folder import read, regular
from fedfm.models.identity import base
from fedfm.tasks.export import FILE, unchanged

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
    elif (named := read(folder / "adapter_config.json").get("base_model_name_or_path")) and labels is None:
        _ = named  # an adapter of elsewhere: that its tensors fit is checked when they are taken
    return replace(spec, start=str(folder), tuning=spec.tuning.like(folder))  # type: ignore[no-any-return]
