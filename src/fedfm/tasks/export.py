"""The folder of a tuned model: what `save` adds to the adapter, and the way back.

`fedfm-task.json` holds the task's spec and its labels; `README.md` shows how to use the folder without fedfm.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedfm.config.plain import to_config
from fedfm.core.errors import ConfigError, ModelError
from fedfm.core.registry import load
from fedfm.tasks.network import quiet

FILE, FORMAT = "fedfm-task.json", 1


def write_task(task: Any, labels: tuple[str, ...] | None, folder: Path) -> None:
    """Write `fedfm-task.json` and `README.md`."""
    record = {"format": FORMAT, "task": to_config(task), "labels": labels}
    (folder / FILE).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(task.readme(folder, labels), encoding="utf-8")


def write_weights(tensors: dict[str, torch.Tensor], file: Path) -> None:
    """A safetensors file with the rights that the umask gives (the library's own writer makes it private)."""
    from safetensors.torch import save

    file.write_bytes(save(tensors, metadata={"format": "pt"}))


def source(model: str, folder: Path) -> tuple[str, str]:
    """Python source for the README: an import line (or nothing), and the expression for the base model."""
    from fedfm import models

    if (folder / "config.json").exists():
        return "", "folder"
    if model in models.catalog():
        return "import fedfm.models\n", f'fedfm.models.path("{model}")'
    return "", repr(model)


@dataclass(frozen=True, eq=False)
class Tuned:
    """A tuned model that was read back."""

    task: Any
    module: nn.Module
    objective: Any

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The label of each text, or the answer to each instruction."""
        with torch.no_grad():
            found: list[str] = self.objective.predict(
                self.module, texts, next(self.module.parameters()).device
            )
        return found


def load_tuned(folder: str | Path, device: str = "cpu") -> Tuned:
    """Read what a task's `save` wrote: base model, adapter and head, in evaluation mode. Raises ModelError."""
    place = Path(folder)
    try:
        record = json.loads((place / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise ModelError(
            f"{folder}: no tuned model here\n    why: {FILE} cannot be read ({e})\n"
            "    fix: name the folder `model` of a finished run"
        ) from e
    if record.get("format") != FORMAT:
        raise ModelError(f"{folder}: {FILE} has format {record.get('format')}, this release reads {FORMAT}")
    try:
        task = _revive(record["task"])
    except (ConfigError, TypeError) as e:
        raise ModelError(f"{folder}: {FILE} does not fit this release\n    why: {e}") from e
    module, objective = task.restore(place, record["labels"])
    return Tuned(task, module.eval().to(device), objective)


def _revive(plain: Any) -> Any:
    """The spec that `to_config` made plain."""
    if isinstance(plain, dict):
        return load(plain["name"])(**{k: _revive(v) for k, v in plain.items() if k != "name"})
    return tuple(map(_revive, plain)) if isinstance(plain, list) else plain


def reload(base: Any, folder: Path) -> Any:
    """`base` with the adapter in `folder`, if there is one."""
    if not (folder / "adapter_config.json").exists():
        return base
    from peft import PeftModel

    with quiet():
        return PeftModel.from_pretrained(base, str(folder))
