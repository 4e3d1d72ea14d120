"""Refusals that name the way out: a moved base, low precision, quantized layers, rows of more columns, exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import architectures as arch
import fedfm
from fedfm.core.errors import FedfmError, ModelError
from fedfm.data.source import Parties, Shard
from fedfm.efficiency.computation.tuning.full import Full
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.models import tiny
from fedfm.running.commands.tuned import export
from fedfm.tasks import load_tuned
from fedfm.tasks.text.classify import SequenceClassification

ROWS = tuple({"text": f"t {i}", "label": "ab"[i % 2]} for i in range(6))
DATA = Parties((Shard("p", ROWS),), (Shard("", ROWS[:4]),), labels=("a", "b"))
POINTS = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")


def test_a_moved_base_may_be_named_anew(tmp_path: Path) -> None:
    base = tiny("encoder", tmp_path / "base")
    bound = SequenceClassification(model=str(base), tuning=LoRA(r=2)).open(DATA)
    bound.objective.save(bound.module, str(tmp_path / "model"))
    moved, file = base.rename(tmp_path / "moved"), tmp_path / "model/fedfm-task.json"
    with pytest.raises(
        ModelError, match=f"(?s)cannot be read: {base}: no such folder.*fix: .*{file}, under task, as model"
    ):
        load_tuned(tmp_path / "model")
    record = json.loads(file.read_text())
    record["task"]["model"] = str(moved)
    file.write_text(json.dumps(record))
    assert load_tuned(tmp_path / "model").predict(["t 1"])[0] in ("a", "b")
    record["task"]["model"] = str(arch.decoder(tmp_path / "other"))
    file.write_text(json.dumps(record))
    with pytest.raises(ModelError, match="is not the one"):
        load_tuned(tmp_path / "model")


def test_a_whole_model_has_the_classes_of_its_run(tmp_path: Path) -> None:
    base = str(tiny("encoder", tmp_path / "base"))
    arch.reconfigure(base, id2label={"0": "x"}, label2id={"x": 0}, problem_type="multi_label_classification")
    bound = SequenceClassification(model=base, tuning=Full()).open(DATA)
    bound.objective.save(bound.module, str(tmp_path / "model"))
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["id2label"] == {"0": "a", "1": "b"} and config["label2id"] == {"a": 0, "b": 1}
    assert "problem_type" not in config and load_tuned(tmp_path / "model").predict(["t 1"])


def test_an_export_names_what_stands_in_the_way_of_scores(tmp_path: Path) -> None:
    rows = [dict(r) for r in ROWS]
    task = SequenceClassification(model="tiny-encoder", tuning=LoRA(r=2))
    fed = fedfm.Federation(task=task, data=fedfm.Arrays({"a": rows, "b": rows}, test=rows))
    fedfm.run(fed, rounds=1, out=tmp_path / "run")
    said = export(tmp_path / "run", None, merged=False).unscored
    assert said.startswith("data.") and said.endswith("were objects of a Python process, which are gone")


class Ages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor, age: torch.Tensor) -> Any:
        return self.last(torch.cat([x, age[:, None]], 1))


def told(task: Any, target: str = "y") -> str:
    rows = [{"x": x, "age": float(i), target: i % 2} for i, x in enumerate(POINTS)]
    data = fedfm.Arrays({"a": rows, "b": rows}, test=rows)
    try:
        return str(fedfm.probe(fedfm.Federation(task=task, data=data)))
    except FedfmError as e:
        return str(e)


def test_rows_of_more_columns_are_a_mapping_under_the_name_that_is_told() -> None:
    def loss(module: nn.Module, batch: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(module(batch["x"], batch["age"]), batch["y"])

    task = fedfm.Torch(Ages, loss=loss, scores={"gain": lambda m, b: -loss(m, b)})
    assert "call the targets `label`" in told(task)
    assert "the model fails" not in told(task, "label")


def test_low_precision_and_quantized_layers_have_a_way_of_their_own() -> None:
    assert "net.float()): it holds torch.float16" in told(fedfm.Torch(lambda: nn.Linear(4, 2).half()))
    layers = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    small = torch.ao.quantization.quantize_dynamic(layers, {nn.Linear})
    assert "as it was before quantize_dynamic" in told(fedfm.Torch(lambda: small))
