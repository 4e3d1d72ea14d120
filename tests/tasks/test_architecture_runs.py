"""Many architectures and the packaged models, checked, run, exported, merged and read by plain libraries: one score."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import architectures as arch
from fedfm import models
from fedfm.config.setup import Setup
from fedfm.core.errors import FedfmError
from fedfm.core.federation import Federation
from fedfm.core.protocols.scoring import means
from fedfm.data.files import Files
from fedfm.efficiency.computation.tuning.full import Full
from fedfm.efficiency.computation.tuning.head import Head
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.efficiency.training.local import Local
from fedfm.running.commands.checking import probe
from fedfm.running.commands.tuned import export
from fedfm.running.entry import run
from fedfm.tasks import load_tuned
from fedfm.tasks.text.causal import CausalLM
from fedfm.tasks.text.classify import SequenceClassification
from fedfm.tasks.text.encoder import Read

TUNINGS: dict[str, Any] = {"full": Full(), "head": Head(), "lora": LoRA(r=2)}
KINDS = {
    "lm": [*arch.DECODERS, "tiny-causal-lm", "smollm2"],
    "encoder": [*arch.ENCODERS, "tiny-encoder", "minilm"],
}
ALL = [c for kind, names in KINDS.items() for c in itertools.product([kind], names, TUNINGS)]
LARGE = {"smollm2", "minilm"}  # fetched from a package index
SAMPLE = random.Random(3).sample([c for c in ALL if c[1] not in LARGE], 6)


def rows(kind: str, party: str, n: int) -> list[dict[str, str]]:
    if kind == "lm":
        return [{"instruction": f"{party} say {'x' * (i % 5)}", "answer": f"{i}{i}"} for i in range(n)]
    return [{"text": f"{party} text {'y' * (i % 5)}", "label": "ab"[i % 2]} for i in range(n)]


def by_plain_libraries(kind: str, folder: Path, base: str) -> float:
    """The loss on the test rows of what lies in `folder`, with its network loaded by transformers and PEFT alone."""
    import transformers
    from peft import PeftModel

    auto = getattr(transformers, "AutoModelForCausalLM" if kind == "lm" else "AutoModel")
    net = auto.from_pretrained(str(folder) if (folder / "config.json").exists() else base)
    if (folder / "adapter_config.json").exists():
        net = PeftModel.from_pretrained(net, str(folder))
    tuned = load_tuned(folder)
    objective = tuned.objective
    if kind == "encoder":
        net = Read(net, tuned.module.head, tuned.task.pooling, tuned.task.scale)  # type: ignore[arg-type]
    objective.whole = net.eval()
    encoded = objective.encode(Files(str(folder.parent / "t.jsonl"), test_fraction=0.0).open(0).pooled())
    with torch.no_grad():
        return means([objective.score(net, encoded, torch.device("cpu"))])["loss"]


def go(kind: str, name: str, tuned: str, tmp_path: Path) -> None:
    base = name
    if name in arch.DECODERS or name in arch.ENCODERS:
        base = (arch.decoder if kind == "lm" else arch.encoder)(tmp_path / "base", name)
    for file, n in (("d/a", 8), ("d/b", 6), ("t", 5)):
        (tmp_path / "d").mkdir(exist_ok=True)
        lines = [json.dumps(r) + "\n" for r in rows(kind, file[-1], n)]
        (tmp_path / f"{file}.jsonl").write_text("".join(lines))
    more = {"score_by": "loss"} if kind == "lm" else {}
    task: Any = (CausalLM if kind == "lm" else SequenceClassification)(
        model=base, tuning=TUNINGS[tuned], **more
    )
    data = Files(str(tmp_path / "d"), test_path=str(tmp_path / "t.jsonl"))
    fed = Federation(task, data, client=Local(lr=0.05, steps=2, batch=3), rounds=1)
    try:
        checked = probe(Setup(fed))
    except FedfmError as e:
        with pytest.raises(type(e)):  # what check refuses, run refuses
            run(fed, out=tmp_path / "run")
        assert arch.refused(name, tuned, str(e)), e
        return
    assert not checked.absent and not checked.lost.entries
    metrics = run(fed, out=tmp_path / "run").summary["metrics"]
    for merged in (False, True):
        found = export(tmp_path / "run", tmp_path / f"merged{merged}", merged=merged)
        assert found.scores["loss"] == pytest.approx(metrics["loss"], rel=1e-3, abs=1e-4)
        where = str(models.path(base))
        assert by_plain_libraries(kind, found.folder, where) == pytest.approx(
            metrics["loss"], rel=1e-3, abs=1e-4
        )


@pytest.mark.parametrize(("kind", "name", "tuned"), SAMPLE)
def test_some(kind: str, name: str, tuned: str, tmp_path: Path) -> None:
    go(kind, name, tuned, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name", "tuned"), [c for c in ALL if c not in SAMPLE])
def test_all(kind: str, name: str, tuned: str, tmp_path: Path) -> None:
    go(kind, name, tuned, tmp_path)
