"""Many architectures under every tuning: opened, probed, trained a step, saved, read by plain libraries, merged."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import architectures as arch
from fedfm.core.errors import ModelError
from fedfm.data.source import Parties, Shard
from fedfm.efficiency.computation.tuning.full import Full
from fedfm.efficiency.computation.tuning.head import Head
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.tasks.probing import probe
from fedfm.tasks.text.causal import CausalLM
from fedfm.tasks.text.classify import SequenceClassification

ROWS = tuple(
    {"instruction": f"say {'x' * i}", "answer": f"{i}{i}", "text": f"text {'y' * i}", "label": "ab"[i % 2]}
    for i in range(6)
)
DATA = Parties((Shard("p", ROWS),), labels=("a", "b"))
TUNINGS: dict[str, Any] = {
    "full": Full(),
    "head": Head(),
    "lora": LoRA(r=2),
    "all-linear": LoRA(r=2, targets="all-linear"),
}
ALL = [("lm", n, t) for n, t in itertools.product(arch.DECODERS, TUNINGS)]
ALL += [("encoder", n, t) for n, t in itertools.product(arch.ENCODERS, TUNINGS)]
SAMPLE = random.Random(5).sample(ALL, 10)


def plain(kind: str, folder: Path, base: str, batch: Any) -> torch.Tensor:
    """What transformers and PEFT alone give for what was saved: logits, or hidden states."""
    import transformers
    from peft import PeftModel

    auto = getattr(transformers, "AutoModelForCausalLM" if kind == "lm" else "AutoModel")
    whole = (folder / "config.json").exists()
    net = auto.from_pretrained(str(folder) if whole else base)
    if (folder / "adapter_config.json").exists():
        net = PeftModel.from_pretrained(net, str(folder))
    out = net.eval()(input_ids=batch.ids, attention_mask=batch.mask)
    found: torch.Tensor = out.logits if kind == "lm" else out.last_hidden_state
    return found


def go(kind: str, name: str, tuned: str, tmp_path: Path) -> None:
    tuning = TUNINGS[tuned]
    base = arch.decoder(tmp_path / "base", name) if kind == "lm" else arch.encoder(tmp_path / "base", name)
    make: Any = CausalLM if kind == "lm" else SequenceClassification
    task = make(model=base, tuning=tuning)
    try:
        bound = task.open(DATA)
    except ModelError as e:
        assert arch.refused(name, tuned, str(e)), e
        return
    if problems := probe(task, bound, DATA):
        assert arch.refused(name, tuned, "; ".join(map(str, problems))), problems
        return
    bound.objective.frozen = False  # the network itself is compared below
    encoded = bound.encode(DATA.train("p"))
    batch = bound.batch(encoded, torch.arange(6))
    bound.gradient(batch)
    bound.load(bound.read() - 0.5 * bound.grads.cpu())
    bound.module.eval()
    bound.objective.save(bound.module, str(tmp_path / "model"))
    mask = batch.mask.bool()
    with torch.no_grad():
        network = bound.objective.network(bound.module)
        out = network(input_ids=batch.ids, attention_mask=batch.mask)
        ours = out.logits if kind == "lm" else out.last_hidden_state
        torch.testing.assert_close(
            plain(kind, tmp_path / "model", base, batch)[mask], ours[mask], rtol=1e-4, atol=1e-4
        )
        if tuning.exact_merge:
            merged = tuning.merged(network)
            out = merged(input_ids=batch.ids, attention_mask=batch.mask)
            theirs = out.logits if kind == "lm" else out.last_hidden_state
            torch.testing.assert_close(theirs[mask], ours[mask], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("kind", "name", "tuned"), SAMPLE)
def test_some(kind: str, name: str, tuned: str, tmp_path: Path) -> None:
    go(kind, name, tuned, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name", "tuned"), [c for c in ALL if c not in SAMPLE])
def test_all(kind: str, name: str, tuned: str, tmp_path: Path) -> None:
    go(kind, name, tuned, tmp_path)
