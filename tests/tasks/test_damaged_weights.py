"""A tuned model whose weights are not those that were written is not asked: a flipped bit answers as well as any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import architectures as arch
from fedfm.core.errors import ModelError
from fedfm.efficiency.computation.tuning.full import Full
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.tasks import load_tuned
from fedfm.tasks.text.causal import CausalLM


def tuned(folder: Path, tuning: Any) -> Path:
    bound = CausalLM(model=arch.decoder(folder / "base"), tuning=tuning).open(None)
    bound.objective.save(bound.module, str(folder / "model"))
    return folder / "model"


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-3] ^= 4
    file.write_bytes(data)


@pytest.mark.parametrize("tuning", [LoRA(r=2), Full()])
def test_a_flipped_bit_and_a_missing_file_are_named(tuning: Any, tmp_path: Path) -> None:
    model = tuned(tmp_path, tuning)
    load_tuned(model)
    [file] = model.glob("*.safetensors")
    flip(file)
    with pytest.raises(
        ModelError, match=rf"(?s){file.name} has changed since it was written.*fix: restore it"
    ):
        load_tuned(model)
    file.unlink()
    with pytest.raises(ModelError):
        load_tuned(model)


def test_nobody_starts_from_a_damaged_adapter(tmp_path: Path) -> None:
    model = tuned(tmp_path, LoRA(r=2))
    going_on = CausalLM(model=str(tmp_path / "base"), start=str(model))
    going_on.open(None)
    flip(model / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="has changed since it was written"):
        going_on.open(None)


def test_a_folder_that_tells_no_digests_is_read(tmp_path: Path) -> None:
    model = tuned(tmp_path, LoRA(r=2))
    record = json.loads((model / "fedfm-task.json").read_text())
    assert list(record.pop("sha256")) == ["adapter_model.safetensors"]
    (model / "fedfm-task.json").write_text(json.dumps(record))
    load_tuned(model)
