"""Weights that are no numbers, and outputs on another scale than their loss reads, are refused before work."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from fedfm.core.errors import ConfigError, ModelError
from fedfm.core.federation import Federation
from fedfm.data.arrays import Arrays
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.efficiency.training.local import Local
from fedfm.models import tiny
from fedfm.running.entry import run
from fedfm.tasks import load_tuned
from fedfm.tasks.own.module import Torch
from fedfm.tasks.text.causal import CausalLM
from fedfm.tasks.text.classify import SequenceClassification

LOST = "holds weights that are not finite"


def drawn(seed: int, n: int = 24) -> tuple[Any, Any]:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return x.numpy(), (x[:, 0] > x[:, 1]).long().numpy()


def trained(task: Any, folder: Path, data: Any = None) -> Any:
    rows = Arrays({f"p{i}": drawn(i) for i in range(2)}, drawn(9))
    fed = Federation(task=task, data=data or rows, client=Local(lr=0.1, steps=2, batch=8))
    return run(fed, rounds=1, out=folder, engine="inprocess")


def spoilt(file: Path, value: float) -> None:
    """One value of one tensor of a file."""
    tensors = load_file(file)
    tensors[sorted(tensors)[0]].view(-1)[0] = value
    save_file(tensors, file, metadata={"format": "pt"})
    if (
        record := file.with_name("fedfm-task.json")
    ).exists():  # as one writes it who saves what training lost
        told = json.loads(record.read_text())
        record.write_text(json.dumps({k: v for k, v in told.items() if k != "sha256"}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_lost_adapter_is_no_start_and_answers_nothing(value: float, tmp_path: Path) -> None:
    base = str(tiny("causal-lm", tmp_path / "base"))
    rows = [{"instruction": f"say {i}", "answer": f"{i}"} for i in range(20)]
    task = CausalLM(model=base, tuning=LoRA(), max_tokens=48)
    trained(task, tmp_path / "run", Arrays({"p": rows, "q": rows}))
    folder = tmp_path / "run" / "model"
    assert load_tuned(folder).predict(["say 1"])
    spoilt(folder / "adapter_model.safetensors", value)
    with pytest.raises(ModelError, match=LOST):
        load_tuned(folder)
    with pytest.raises(ModelError, match=LOST):
        task = CausalLM(model=base, tuning=LoRA(), max_tokens=48, start=str(folder))
        trained(task, tmp_path / "again", Arrays({"p": rows, "q": rows}))


def test_a_lost_head_and_a_lost_base_are_refused(tmp_path: Path) -> None:
    base = Path(tiny("encoder", tmp_path / "base"))
    rows = [{"text": f"word {i}", "label": "ab"[i % 2]} for i in range(20)]
    task = SequenceClassification(model=str(base), tuning=LoRA())
    trained(task, tmp_path / "run", Arrays({"p": rows, "q": rows}))
    folder = shutil.copytree(tmp_path / "run" / "model", tmp_path / "copy")
    spoilt(folder / "head.safetensors", float("nan"))
    with pytest.raises(ModelError, match=rf"head\.safetensors: {LOST}"):
        load_tuned(folder)
    spoilt(base / "model.safetensors", float("inf"))
    with pytest.raises(ModelError, match=LOST):
        trained(task, tmp_path / "again", Arrays({"p": rows, "q": rows}))


def test_a_lost_module_is_no_start_and_a_mask_of_infinities_is_no_weight(tmp_path: Path) -> None:
    net = nn.Linear(4, 2)
    net.register_buffer("mask", torch.full((2, 2), float("-inf")).triu(1))
    assert trained(Torch(net), tmp_path / "a").status == "finished"
    with torch.no_grad():
        net.bias[0] = float("nan")
    with pytest.raises(ModelError, match=rf"task\.module: {LOST}"):
        trained(Torch(net), tmp_path / "b")


def ending(end: nn.Module) -> Any:
    return lambda: nn.Sequential(nn.Linear(4, 2), end)


@pytest.mark.parametrize("loss", [F.nll_loss, nn.NLLLoss()])
def test_the_likelihood_reads_log_probabilities(loss: Any, tmp_path: Path) -> None:
    assert trained(Torch(ending(nn.LogSoftmax(1)), loss=loss), tmp_path / "a").status == "finished"
    for k, end in enumerate((nn.Identity(), nn.Softmax(1), nn.LogSigmoid())):
        with pytest.raises(ConfigError, match="reads log-probabilities, and the module gives none"):
            trained(Torch(ending(end), loss=loss), tmp_path / str(k))


@pytest.mark.parametrize("loss", [None, F.cross_entropy, nn.CrossEntropyLoss()])
def test_the_cross_entropy_reads_scores(loss: Any, tmp_path: Path) -> None:
    for k, end in enumerate((nn.Identity(), nn.LogSoftmax(1))):
        assert trained(Torch(ending(end), loss=loss), tmp_path / str(k)).status == "finished"
    with pytest.warns(UserWarning, match="reads scores, and is given probabilities"):
        assert trained(Torch(ending(nn.Sigmoid()), loss=loss), tmp_path / "a").status == "finished"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ConfigError, match="reads scores, and the module gives probabilities"):
            trained(Torch(ending(nn.Softmax(1)), loss=loss), tmp_path / "b")


def test_a_loss_of_ones_own_reads_what_it_will(tmp_path: Path) -> None:
    def loss(module: Any, batch: Any) -> Any:
        return F.cross_entropy(module(batch[0]), batch[1], reduction="none")

    with pytest.warns(UserWarning, match="reads scores, and is given probabilities"):
        assert trained(Torch(ending(nn.Softmax(1)), loss=loss), tmp_path).status == "finished"
