"""A tuned model whose files are not those that were written is not asked: a flipped bit or another scale answers as well as any."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
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
    going_on = CausalLM(model=str(tmp_path / "base"), start=str(model), tuning=LoRA(r=2))
    going_on.open(None)
    flip(model / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="has changed since it was written"):
        going_on.open(None)


def test_a_folder_that_tells_no_digests_is_read(tmp_path: Path) -> None:
    model = tuned(tmp_path, LoRA(r=2))
    record = json.loads((model / "fedfm-task.json").read_text())
    assert list(record.pop("sha256")) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "fedfm-task.json",
    ]
    (model / "fedfm-task.json").write_text(json.dumps(record))
    load_tuned(model)


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    told = json.loads(file.read_text())
    change(told)
    file.write_text(json.dumps(told))


EDITS: list[tuple[Any, str, Callable[[dict[str, Any]], object]]] = [
    (LoRA(r=2), "adapter_config.json", lambda c: c.update(lora_alpha=1e3)),
    (LoRA(r=2), "adapter_config.json", lambda c: c.update(use_rslora=True)),
    (LoRA(r=2), "fedfm-task.json", lambda c: c.update(labels=["b", "a"])),
    (Full(), "config.json", lambda c: c.update(rms_norm_eps=0.5)),
    (Full(), "tokenizer_config.json", lambda c: c.update(chat_template="{{ messages }}")),
]


@pytest.mark.parametrize("tuning, name, change", EDITS)
def test_an_edited_config_is_named_and_may_be_meant(
    tuning: Any, name: str, change: Callable[[dict[str, Any]], object], tmp_path: Path
) -> None:
    model = Path(shutil.move(tuned(tmp_path, tuning), tmp_path / "elsewhere"))
    (model / "README.md").write_text("for people")
    load_tuned(model)
    edit(model / name, change)
    with pytest.raises(ModelError, match=rf'(?s){name} has changed.*put null.*"{name}": null'):
        load_tuned(model)
    edit(model / "fedfm-task.json", lambda record: record["sha256"].update({name: None}))
    load_tuned(model)


def test_a_lost_part_and_an_edited_start_are_named(tmp_path: Path) -> None:
    whole, adapter = tuned(tmp_path / "a", Full()), tuned(tmp_path / "b", LoRA(r=2))
    (whole / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match=r"(?s)tokenizer_config.json is missing.*fix: restore it"):
        load_tuned(whole)
    edit(adapter / "adapter_config.json", lambda c: c.update(lora_alpha=1e3))
    with pytest.raises(ModelError, match="adapter_config.json has changed"):
        CausalLM(model=str(tmp_path / "b/base"), start=str(adapter)).open(None)


def test_a_base_that_reads_otherwise_is_another_base(tmp_path: Path) -> None:
    model = tuned(tmp_path, LoRA(r=2))
    edit(tmp_path / "base/tokenizer_config.json", lambda c: c.update(chat_template="{{ messages }}"))
    with pytest.raises(ModelError, match=r"(?s)reads texts otherwise.*tokenizer.*fix: restore"):
        load_tuned(model)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "of-ones-own"])
def test_a_pipe_in_a_model_folder_is_not_waited_for(name: str, tmp_path: Path) -> None:
    base = Path(arch.decoder(tmp_path / "base"))
    (base / name).unlink(missing_ok=True)
    os.mkfifo(base / name)
    with pytest.raises(ModelError, match=rf"(?s){name}: is not a file.*pipe.*fix: put"):
        CausalLM(model=str(base)).open(None)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "fedfm-task.json"])
def test_a_pipe_beside_an_adapter_is_not_waited_for(name: str, tmp_path: Path) -> None:
    model = tuned(tmp_path, LoRA(r=2))
    (model / name).unlink()
    os.mkfifo(model / name)
    with pytest.raises(ModelError, match=f"{name}: is not a file"):
        load_tuned(model)
    with pytest.raises(ModelError, match=f"{name}: is not a file"):
        CausalLM(model=str(tmp_path / "base"), start=str(model)).open(None)
