"""The folder of a tuned model: what `save` adds to the adapter, and the way back.

`fedfm-task.json` holds the task's spec and its labels; `README.md` shows how to use the folder without fedfm.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedfm.config.building import build
from fedfm.config.places import places
from fedfm.config.record import to_config
from fedfm.core.errors import DataError, ModelError, Problem
from fedfm.core.protocols import Task
from fedfm.files import path as meant
from fedfm.lent import given_back
from fedfm.models.folder import regular
from fedfm.models.hub import is_id
from fedfm.models.identity import Base

FILE, FORMAT = "fedfm-task.json", 2
FREE = "README.md"  # for people, who may write into it


def write_task(objective: Any, folder: Path, task: Any = None) -> None:
    """Write `fedfm-task.json`, which names the exact base and the files that lie there, and `README.md`.

    `task`: of what lies there, where it is not the objective's own.
    """
    task, labels, base = task or objective.task, objective.labels, objective.base
    record = {"format": FORMAT, "task": to_config(task), "labels": labels, "base": asdict(base)}
    record |= {"inputs": objective.inputs} if objective.inputs else {}
    if (folder / "config.json").is_file():
        _classes(folder / "config.json", labels)
    made = [p for p in sorted(folder.iterdir()) if p.is_file() and p.name not in (FILE, FREE)]
    record["sha256"] = {p.name: _sha256(p) for p in made} | {FILE: _own(record)}
    (folder / FILE).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / FREE).write_text(task.readme(folder, labels, base), encoding="utf-8")


def _classes(file: Path, labels: Sequence[Any] | None) -> None:
    """The classes of this run in a network's config, in the place of those that its base had been tuned for."""
    config = json.loads(file.read_text(encoding="utf-8"))
    kept = {k: v for k, v in config.items() if k not in ("id2label", "label2id", "problem_type")}
    if labels is not None:
        kept |= {
            "id2label": dict(enumerate(map(str, labels))),
            "label2id": {str(n): k for k, n in enumerate(labels)},
        }
    if kept != config:
        file.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_weights(tensors: dict[str, torch.Tensor], file: Path) -> None:
    """A safetensors file with the rights that the umask gives (the library's own writer makes it private)."""
    from safetensors.torch import save

    file.write_bytes(save(tensors, metadata={"format": "pt"}))


def source(base: Base, folder: Path) -> tuple[str, str, str]:
    """Python source for the README: an import line, the expression for the base model, and its revision."""
    from fedfm import models

    if (folder / "config.json").exists():
        return "", "folder", ""
    if base.name in models.catalog():
        return "import fedfm.models\n", f'fedfm.models.path("{base.name}")', ""
    return "", repr(base.source), f', revision="{base.revision}"' if base.revision else ""


def to_whole(folder: Path) -> str:
    """How to make a whole model of the adapter in `folder`, and to name it."""
    if (folder / FILE).is_file():
        return f"fedfm export {folder} --merged --to NEW, and task.model=NEW"
    return "merge_and_unload() of peft, save_pretrained(NEW), the tokenizer's too, and task.model=NEW"


def in_dtype(dtype: str) -> str:
    """The argument of `from_pretrained` for a base in another dtype than float32."""
    return "" if dtype == "float32" else f", dtype=torch.{dtype}"


@dataclass(frozen=True, eq=False)
class Tuned:
    """A tuned model that was read back."""

    task: Any
    module: nn.Module
    objective: Any

    def predict(self, texts: Sequence[Any]) -> list[Any]:
        """The label or number of each text (or pair of texts), or the answer to each instruction. Raises DataError."""
        if isinstance(texts, str | bytes):  # a sequence too, of letters
            raise DataError("predict takes a list of texts, and was given one text\n    fix: predict([text])")
        with given_back(), torch.no_grad():
            found: list[Any] = self.objective.predict(
                self.module, texts, next(self.module.parameters()).device
            )
        return found


def load_tuned(folder: str | Path, device: str = "cpu") -> Tuned:
    """Read what a task's `save` wrote: base model, adapter and head, in evaluation mode. Raises ModelError."""
    with given_back():  # a module that is made draws its weights before they are read
        return _loaded(folder, device)


def _loaded(folder: str | Path, device: str) -> Tuned:
    place, record = meant(folder), whole(folder)
    task = _task(folder, record.get("task"))
    if not (place / "config.json").exists():
        task = _over(folder, task, record.get("base"))
    module, objective = task.restore(place, record.get("labels"))
    if isinstance(sorts := record.get("inputs"), list):
        objective.seen = set(sorts)
    return Tuned(task, module.eval().to(device), objective)


def whole(folder: str | Path) -> dict[str, Any]:
    """What `fedfm-task.json` says of a tuned model whose files are those that were written. Raises ModelError."""
    place = meant(folder)
    if place.is_dir():
        regular(place)
    refuse_other(place, place / "model")
    try:
        record = json.loads((place / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise ModelError(
            f"{folder}: no tuned model here\n    why: {FILE} cannot be read ({e})\n"
            "    fix: name the folder `model` of a finished run"
        ) from e
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ModelError(
            f"{folder}: {FILE} has format {record.get('format') if isinstance(record, dict) else None}, this release reads {FORMAT}"
        )
    unchanged(place, record)
    return record


def refuse_other(*places: Path) -> None:
    """Raises ModelError for a folder that holds a model, and none that answers texts or sees pictures by itself."""
    for place in places:
        if (place / FILE).is_file() or not any(place.glob("*.safetensors")):
            continue
        readme = place / "README.md"
        fix = (
            f"{readme} shows how to load it" if readme.is_file() else "load it with the library of its class"
        )
        raise ModelError(
            f"{place}: what lies here is a trained module, and no tuned text model\n    why: there is no {FILE}: which rows "
            f"it takes, and how it is made, its own code says\n    fix: {fix}"
        )


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def unchanged(place: Path, record: Mapping[str, Any]) -> None:
    """Raises ModelError for files of a tuned model that are not those that were written, and for those that are gone.

    Weights are not all: a scale, a target module or the order of labels makes another model of the same weights. A file
    whose digest is null may be anything.
    """
    told = record.get("sha256")
    for name, digest in (
        told.items() if isinstance(told, dict) else ()
    ):  # a release before this one tells none
        file = place / Path(name).name
        if digest is None:
            continue
        if not file.is_file():
            raise ModelError(
                f"{file} is missing\n    why: {FILE} names it as a part of this model\n    fix: restore it"
            )
        if (_own(record) if name == FILE else _sha256(file)) != digest:
            raise ModelError(
                f"{file} has changed since it was written\n    why: its SHA-256 is not the one in {FILE} ({str(digest)[:12]}...): "
                "scores were told of another model\n    fix: restore it; to use it as it is now, put null for its digest "
                f'there: "sha256": {{..., "{name}": null}}'
            )


def _own(record: Mapping[str, Any]) -> str:
    """Digest of what the record says, but for the digests, and for where the base lies: that has a digest of its own."""
    said, task = {k: v for k, v in record.items() if k != "sha256"}, record.get("task")
    if isinstance(task, Mapping):
        somewhere = {at for at, _, _ in places(task)}
        said["task"] = {k: v for k, v in task.items() if k not in somewhere}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _task(folder: Any, plain: Any) -> Any:
    """The task's spec from its config. Raises ModelError."""
    problems: list[Problem] = []
    task = build(Task, plain, "task", problems, "task") if isinstance(plain, dict) else None
    if problems or not hasattr(task, "restore"):
        why = "; ".join(map(str, problems)) or "it names no task that can be read back"
        raise ModelError(
            f"{folder}: {FILE} does not fit this release\n    why: {why}\n"
            "    fix: read it with the release of fedfm that wrote it"
        )
    return task


def _over(folder: Any, task: Any, told: Any) -> Any:
    """The task over the very base that it was trained over. Raises ModelError when that one has changed."""
    from fedfm import models

    if isinstance(told, dict) and told.get(
        "revision"
    ):  # of the hub: this commit, whatever its branch holds now
        task = replace(task, model=f"{task.model.partition('@')[0]}@{told['revision']}")
    try:
        weights = models.base(task.model).weights
    except ModelError as e:
        if task.model in models.catalog() or is_id(task.model):
            raise
        raise ModelError(
            f"{folder}: the base model that this was trained over cannot be read: {str(e).split(chr(10))[0]}\n    why: it was "
            f"there when the model was saved\n    fix: if it has moved, write its new place into {meant(folder) / FILE}, under "
            "task, as model; its digest is compared"
        ) from e
    if not isinstance(told, dict) or told.get("weights") != weights:
        raise ModelError(
            f"{folder}: the base model {task.model} is not the one that this was trained over\n"
            f"    why: its weights or its config.json have changed (digest {weights[:12]}...)\n"
            "    fix: restore that base model"
        )
    if (words := told.get("words")) and words != models.base(task.model).words:
        raise ModelError(
            f"{folder}: the base model {task.model} reads texts otherwise than when this was trained over it\n"
            f"    why: its tokenizer's files or its chat template have changed (digest {words[:12]}... then)\n"
            "    fix: restore that base model"
        )
    return task
