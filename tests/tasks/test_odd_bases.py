"""A base model whose files load and say nonsense is blamed itself: its file is named, not the learning rate or the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import architectures as arch
from fedfm.core.errors import ConfigError, ModelError
from fedfm.models import tiny
from fedfm.running.entry import probe
from fedfm.tasks.network import load_base
from fedfm.tasks.text.causal import CausalLM


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return Path(arch.decoder(tmp_path / "base"))


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def scaled(base: Path, by: float) -> None:
    [file] = base.glob("*.safetensors")
    save_file({n: t * by for n, t in load_file(file).items()}, file, metadata={"format": "pt"})


@pytest.mark.parametrize("wrong", [{"hidden_size": "16"}, {"num_hidden_layers": 2.0}, {"rms_norm_eps": None}])
def test_a_wrong_value_in_config_json_is_of_that_file(wrong: dict[str, Any], base: Path) -> None:
    edit(base / "config.json", **wrong)
    with pytest.raises(
        ModelError, match=rf"(?s)config.json cannot be used.*{next(iter(wrong))}.*fix: .*config.json"
    ):
        CausalLM(model=str(base)).open(None)


@pytest.mark.parametrize("most", ["a", -5, 0, None, True, [3]])
def test_a_length_that_is_none_is_named(most: Any, base: Path) -> None:
    edit(base / "tokenizer_config.json", model_max_length=most)
    if most is None:  # as where nothing is said
        assert CausalLM(model=str(base)).open(None)
        return
    with pytest.raises(ModelError, match=r"(?s)tokenizer_config.json.*model_max_length.*fix: correct it"):
        CausalLM(model=str(base)).open(None)


def test_weights_that_are_all_zero_are_refused(base: Path) -> None:
    scaled(base, 0.0)
    with pytest.raises(ModelError, match=r"(?s)its weights are zero.*fix:"):
        CausalLM(model=str(base)).open(None)


def test_a_base_whose_own_loss_is_no_number_is_blamed_itself(base: Path) -> None:
    scaled(base, 1e30)
    rows = [{"instruction": f"say {k}", "answer": str(k)} for k in range(4)]
    with pytest.raises(
        ConfigError, match=r"(?s)task: the model's (loss|first gradient) is no number.*fix: task.model"
    ):
        probe("fedit", model=str(base), data={"a": rows, "b": rows})


def test_code_that_a_known_model_brings_is_told_of(tmp_path: Path) -> None:
    folder = tiny("encoder", tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling_my.My"}}))
    (folder / "modeling_my.py").write_text("raise RuntimeError('run')\n")
    with pytest.warns(UserWarning, match=r"brings code of its own \(modeling_my.py\), which is not run"):
        load_base("AutoModel", str(folder))
