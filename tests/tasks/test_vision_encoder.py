"""Pictures before a pre-trained encoder: any architecture, each tuning; what is saved scores as the run did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fedfm.core.errors import ConfigError, FedfmError, ModelError
from fedfm.core.federation import Federation
from fedfm.data.digits import Digits
from fedfm.data.partition.iid import Iid
from fedfm.efficiency.computation.tuning.full import Full
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.efficiency.training.local import Local
from fedfm.engines.inprocess import InProcess
from fedfm.engines.processes import Processes
from fedfm.models import tiny
from fedfm.running.commands.tuned import export
from fedfm.running.entry import run
from fedfm.tasks import load_tuned
from fedfm.tasks.vision.encoder import VisionClassification

DATA = Digits(train_rows=80, test_rows=30, partition=Iid(parties=2))
SMALL = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 32}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTConfig", {**SMALL, "image_size": 16, "patch_size": 4}),
    "dino": ("Dinov2Config", {**SMALL, "mlp_ratio": 2, "image_size": 16, "patch_size": 4}),
    "beit": ("BeitConfig", {**SMALL, "image_size": 16, "patch_size": 4}),
    "convnext": ("ConvNextConfig", {"hidden_sizes": [4, 8, 12, 16], "depths": [1, 1, 1, 1]}),
    "swin": ("SwinConfig", {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "image_size": 16, "patch_size": 4}),
    "resnet": ("ResNetConfig", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}),
}  # fmt: skip


def encoder(kind: str, folder: Path) -> str:
    """A tiny random encoder whose features tell pictures apart."""
    import transformers

    name, settings = CONFIGS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = transformers.AutoModel.from_config(getattr(transformers, name)(**settings))
        for p in network.parameters():
            if p.dim() > 1:
                torch.nn.init.normal_(p, std=0.3)
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.4] * 3, "image_std": [0.3] * 3})
    )
    return str(folder)


def fed(task: VisionClassification, engine: Any = None) -> Federation:
    client = Local(lr=0.05, steps=5, batch=8, momentum=0.9)
    return Federation(task, DATA, client=client, rounds=2, engine=engine or InProcess())


def learnt(run: Path) -> bool:
    """Did the loss fall? An encoder of random weights promises no more."""
    losses = [
        json.loads(line)["metrics"]["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    return bool(losses[-1] < losses[0])


def rescored(folder: Path, task: VisionClassification) -> float:
    rows = DATA.open(0, task.columns).test().rows
    said = load_tuned(folder).predict([r["image"] for r in rows])
    return sum(a == r["label"] for a, r in zip(said, rows, strict=True)) / len(rows)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_head_on_any_encoder(kind: str, tmp_path: Path) -> None:
    task = VisionClassification(
        encoder(kind, tmp_path / "m"), size=32 if kind in ("convnext", "resnet") else 16
    )
    result = run(fed(task), out=tmp_path / "run", baselines="none")
    assert result.status == "finished" and learnt(tmp_path / "run")
    assert result.summary["trainable_parameters"] == 10 * 17
    assert rescored(tmp_path / "run" / "model", task) == pytest.approx(result.metric["federated"])


@pytest.mark.parametrize("kind", ["vit", "dino"])
@pytest.mark.parametrize("tuning", [LoRA(r=2), Full()], ids=["lora", "full"])
def test_tunings_train_save_and_merge(kind: str, tuning: Any, tmp_path: Path) -> None:
    task = VisionClassification(encoder(kind, tmp_path / "m"), size=16, tuning=tuning, pooling="mean")
    result = run(fed(task), out=tmp_path / "run", baselines="none")
    assert learnt(tmp_path / "run")
    assert rescored(tmp_path / "run" / "model", task) == pytest.approx(result.metric["federated"])
    found = export(tmp_path / "run", tmp_path / "out", merged=True)
    assert (found.folder / "config.json").is_file() and (found.folder / "preprocessor_config.json").is_file()
    assert rescored(found.folder, task) == pytest.approx(result.metric["federated"])


@pytest.mark.parametrize("tuning", [None, LoRA(r=2)], ids=["head", "lora"])
def test_every_engine_gives_the_same_bits(tuning: Any, tmp_path: Path) -> None:
    more = {} if tuning is None else {"tuning": tuning}
    task = VisionClassification(encoder("vit", tmp_path / "m"), size=16, **more)
    one, two = (
        run(fed(task, engine), out=tmp_path / type(engine).__name__, baselines="none")
        for engine in (InProcess(), Processes(2))
    )
    assert one.summary["model_digest"] == two.summary["model_digest"]
    assert one.metric == two.metric


def test_features_are_those_of_the_plain_encoder(tmp_path: Path) -> None:
    """The README of a saved model, followed by hand."""
    from safetensors.torch import load_file
    from transformers import AutoModel

    task = VisionClassification(encoder("vit", tmp_path / "m"), size=16)
    run(fed(task), out=tmp_path / "run", baselines="none")
    rows = DATA.open(0, task.columns).test().rows[:6]
    x = torch.stack([r["image"] for r in rows]).float() / 255
    x = torch.nn.functional.interpolate(x.expand(-1, 3, -1, -1), (16, 16), mode="bilinear", antialias=True)
    with torch.no_grad():
        plain = AutoModel.from_pretrained(tmp_path / "m").eval()
        hidden = plain(pixel_values=(x - 0.4) / 0.3, interpolate_pos_encoding=True).last_hidden_state
    head = load_file(tmp_path / "run" / "model" / "head.safetensors")
    logits = torch.nn.functional.normalize(hidden[:, 0], dim=-1) * 10 @ head["weight"].T + head["bias"]
    tuned = load_tuned(tmp_path / "run" / "model")
    labels = tuned.objective.labels
    assert tuned.predict([r["image"] for r in rows]) == [labels[int(k)] for k in logits.argmax(-1)]


@pytest.mark.parametrize(
    ("kind", "size", "words"),
    [
        ("vit", 15, r"no whole patches[\s\S]*task.size=16"),
        ("dino", 2, "no whole patches"),
        ("resnet", 0, "task.size"),
    ],
)
def test_a_size_that_cannot_be_seen_is_refused(kind: str, size: int, words: str, tmp_path: Path) -> None:
    task = VisionClassification(encoder(kind, tmp_path / "m"), size=size)
    with pytest.raises(FedfmError, match=words):
        run(fed(task), out=tmp_path / "run")


def test_models_and_rows_of_another_kind_are_refused(tmp_path: Path) -> None:
    text = VisionClassification(str(tiny("encoder", tmp_path / "t")))
    with pytest.raises(ModelError, match=r"is no vision model[\s\S]*sequence-classification"):
        run(fed(text), out=tmp_path / "run")
    rows = [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(20)]
    from fedfm.data.arrays import Arrays

    wrong = Federation(
        VisionClassification(encoder("vit", tmp_path / "m"), size=16), Arrays({"a": rows}), rounds=1
    )
    with pytest.raises(FedfmError, match="image"):
        run(wrong, out=tmp_path / "other")
    with pytest.raises((ConfigError, FedfmError), match="rank"):
        VisionClassification(encoder("vit", tmp_path / "n"), size=16).open(DATA.open(0, text.columns)).at(
            "party-0", __import__("fedfm.core.context", fromlist=["Terms"]).Terms(width=0.5)
        )
