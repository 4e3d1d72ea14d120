"""Tunings: what is trained, what is sent, and that what is exported is the model that was trained."""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedfm.core.context import Terms
from fedfm.core.errors import FedfmError, ModelError
from fedfm.data.source import Parties, Shard
from fedfm.efficiency.computation.tuning.full import Full
from fedfm.efficiency.computation.tuning.head import Head
from fedfm.efficiency.computation.tuning.lora import LoRA, adapted
from fedfm.efficiency.computation.tuning.sparse import Sparse
from fedfm.efficiency.computation.tuning.targets import targets
from fedfm.models import tiny
from fedfm.tasks.bound import BoundModule
from fedfm.tasks.text.causal import CausalLM
from fedfm.tasks.text.classify import SequenceClassification
from fedfm.vectors.cut import cut

WIDTH, LAYERS = 32, 2  # of the tiny models


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny("encoder", tmp_path_factory.mktemp("encoder")))


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny("causal-lm", tmp_path_factory.mktemp("lm")))


TEXTS = ["red house", "a green animal", "water and fire in the night", "good doctor", "the loan of a bank"]
ROWS = tuple({"text": t, "label": "ab"[i % 2]} for i, t in enumerate(TEXTS))
DATA = Parties((Shard("p", ROWS),), labels=("a", "b"))


def opened(encoder: str, tuning: Any, **fields: Any) -> tuple[BoundModule, Any]:
    bound = SequenceClassification(model=encoder, tuning=tuning, **fields).open(DATA)
    return bound, bound.batch(bound.encode(DATA.train("p")), torch.arange(len(ROWS)))


def logits(bound: BoundModule, batch: Any) -> Tensor:
    with torch.no_grad():
        return bound.objective.outputs(bound.module, batch)


def stir(bound: BoundModule, seed: int = 0) -> Tensor:
    """Random trainable values, as after training (padding and buffers stay zero)."""
    flat = bound.init.clone()
    g = torch.Generator().manual_seed(seed)
    for e in bound.layout.entries:
        if e.trainable:
            flat[e.offset : e.offset + e.size] += 0.2 * torch.randn(e.size, generator=g)
    bound.load(flat)
    return flat


def train(bound: BoundModule, batch: Any, steps: int = 3) -> None:
    for _ in range(steps):
        bound.gradient(batch)
        still = bound.layout.pack({e.name: torch.ones(e.shape) for e in bound.layout.entries if e.trainable})
        bound.load(bound.read() - 0.1 * bound.grads * still)


def test_lora_counts_and_names(encoder: str) -> None:
    bound, _ = opened(encoder, LoRA(r=3))
    # q and v of every layer: r (in + out) each; the head: 2 (width + 1)
    assert (
        bound.layout.trainable
        == sum(e.size for e in bound.layout.entries)
        == LAYERS * 2 * 3 * (WIDTH + WIDTH) + 2 * (WIDTH + 1)
    )
    names = [e.name for e in bound.layout.entries]
    assert names[0].endswith("base_model.model.encoder.layer.0.attention.self.query.lora_A.default.weight")
    axes = {e.name.split(".")[-3]: (e.axes, e.shape) for e in bound.layout.entries if "lora" in e.name}
    assert axes == {"lora_A": (("rank", ""), (3, WIDTH)), "lora_B": (("", "rank"), (WIDTH, 3))}


def test_lora_starts_as_the_base_and_the_base_stays(encoder: str) -> None:
    plain, batch = opened(encoder, LoRA())
    head, _ = opened(encoder, Head())
    head.objective.frozen = False
    same = head.objective.batch(head.encode(DATA.train("p")), torch.arange(len(ROWS)), head.device)
    assert torch.equal(logits(plain, batch), logits(head, same))
    frozen = {n: p.clone() for n, p in plain.module.named_parameters() if not p.requires_grad}
    train(plain, batch)
    assert not torch.equal(logits(plain, batch), logits(head, same))
    assert all(torch.equal(p, frozen[n]) for n, p in plain.module.named_parameters() if n in frozen)


def test_everybody_starts_from_the_same_bits_and_no_global_draw(encoder: str) -> None:
    torch.manual_seed(1)
    first, _ = opened(encoder, LoRA())
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second, _ = opened(encoder, LoRA())
    assert torch.equal(first.init, second.init) and first.layout.digest == second.layout.digest
    assert torch.equal(before, torch.get_rng_state())


def test_targets_are_checked(encoder: str) -> None:
    with pytest.raises(ModelError, match="did you mean 'query'"):
        opened(encoder, LoRA(targets=("querry",)))
    assert targets(torch.nn.Sequential(torch.nn.Linear(2, 2)), None) == (
        "0",
    )  # all, where none has a usual name
    bound, _ = opened(encoder, LoRA(targets=("dense",)))
    assert any("intermediate.dense.lora_A" in e.name for e in bound.layout.entries)


@pytest.mark.parametrize("spec", [LoRA, Sparse])
def test_a_word_is_a_list_of_one_and_all_linear_is_every_layer_but_the_output(
    spec: Any, language_model: str
) -> None:
    def adapted(wanted: Any) -> list[str]:
        bound = CausalLM(model=language_model, tuning=spec(targets=wanted)).open(None)
        return sorted(
            {re.split(r"\.(?:lora|shira)_", e.name)[0].rpartition(".")[2] for e in bound.layout.entries}
        )

    usual = adapted(None)
    assert len(usual) == 2 and adapted(usual[0]) == adapted((usual[0],)) == adapted([usual[0]]) == usual[:1]
    every = adapted("all-linear")
    assert every == adapted(["all-linear"]) == adapted(("all-linear", usual[0]))
    assert set(usual) < set(every) and "lm_head" not in every
    for wrong, why in (
        ([], "names no layer"),
        ("q_prj", "did you mean 'q_proj'"),
        ("all_linear", "did you mean 'all-linear'"),
        (r".*\.(q|v)_proj", "patterns and paths are not read"),
        (["layers.0.q_proj"], "patterns and paths are not read"),
    ):
        with pytest.raises(
            ModelError, match=f"(?s)task.tuning.targets: .*{why}.*fix: write .*all-linear"
        ) as e:
            adapted(wrong)
        fix = re.search(r"fix: write \[([^\]]*)\]", str(e.value))
        assert fix and "lm_head" not in fix[1]  # it is tied: the next check would refuse it
        assert adapted(fix[1].split(", ")) == every


def test_frozen_a(encoder: str) -> None:
    both, _ = opened(encoder, LoRA())
    only, _ = opened(encoder, LoRA(train="B"))
    assert not any("lora_A" in e.name for e in only.layout.entries)
    assert both.layout.trainable - only.layout.trainable == LAYERS * 2 * 8 * WIDTH
    mine = dict(only.module.named_parameters())
    assert all(torch.equal(p, mine[n]) for n, p in both.module.named_parameters() if "lora_A" in n)


def test_residual_is_a_dense_update_of_the_base(encoder: str) -> None:
    bound, batch = opened(encoder, LoRA(r=2, alpha=6.0, residual=True))
    still = [e for e in bound.layout.entries if not e.trainable]
    assert [e.shape for e in still] == [(WIDTH, WIDTH)] * 4
    assert {e.name.removesuffix("lora_R") + "lora_A.default.weight" for e in still} <= {
        e.name for e in bound.layout.entries
    }
    flat, g = stir(bound), torch.Generator().manual_seed(5)
    for e in still:
        flat[e.offset : e.offset + e.size] = 0.05 * torch.randn(e.size, generator=g)
    bound.load(flat)
    # oracle: a base whose weights are W + (alpha / r) (B A + R), nothing added
    merged = copy.deepcopy(bound.module)
    for _, layer in adapted(merged):
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        layer.base_layer.weight.data += 3.0 * (b @ a + layer.lora_R).detach()
        b.data, layer.lora_R.data = torch.zeros_like(b), torch.zeros_like(layer.lora_R)
    with torch.no_grad():
        torch.testing.assert_close(
            bound.objective.outputs(merged, batch), logits(bound, batch), rtol=1e-5, atol=1e-5
        )
    bound.gradient(batch)
    assert all(not bound.layout.views(bound.grads)[e.name].any() for e in still)
    assert torch.equal(bound.read(), flat)


@pytest.mark.parametrize("rank", [0, 1, 3, WIDTH])
def test_residual_is_exported_as_a_plain_adapter(encoder: str, tmp_path: Path, rank: int) -> None:
    import json

    from peft import PeftModel
    from transformers import AutoModel

    bound, batch = opened(encoder, LoRA(r=2, alpha=6.0, residual=True))
    flat, g = stir(bound), torch.Generator().manual_seed(7)
    for e in (e for e in bound.layout.entries if not e.trainable):
        r = torch.randn(WIDTH, rank, generator=g) @ torch.randn(rank, WIDTH, generator=g) * 0.03
        flat[e.offset : e.offset + e.size] = r.flatten()
    bound.load(flat)
    bound.objective.save(bound.module, str(tmp_path))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["r"] == min(2 + rank, WIDTH) and config["lora_alpha"] / config["r"] == pytest.approx(3.0)
    base = AutoModel.from_pretrained(encoder)
    plain = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    with torch.no_grad():
        theirs = plain(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
        ours = bound.module.encoder(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("mode", ["both", "B"])
def test_smaller_rank_is_a_prefix_of_the_whole(encoder: str, mode: str) -> None:
    bound, batch = opened(encoder, LoRA(r=4, train=mode))
    flat = stir(bound)
    part = cut(bound.layout, 1.0, 2)
    assert part is not None
    sub = bound.at("", Terms(rank=2))
    sub.load(part.narrow(flat))
    # oracle: the whole model with directions 2 and 3 at zero (B's columns)
    zeroed = flat.clone()
    for name, view in bound.layout.views(zeroed).items():
        if "lora_B" in name:
            view[:, 2:] = 0
    bound.load(zeroed)
    torch.testing.assert_close(logits(sub, batch), logits(bound, batch), rtol=1e-5, atol=1e-6)
    sub.gradient(batch)
    bound.gradient(batch)
    torch.testing.assert_close(sub.grads, part.narrow(bound.grads), rtol=1e-4, atol=1e-6)
    whole = dict(bound.module.named_parameters())
    shared = [n for n, p in sub.module.named_parameters() if not p.requires_grad and "lora" not in n]
    assert shared and all(
        dict(sub.module.named_parameters())[n].data_ptr() == whole[n].data_ptr() for n in shared
    )


def test_only_lora_has_a_rank(encoder: str) -> None:
    with pytest.raises(FedfmError, match="use lora"):
        opened(encoder, Head())[0].at("", Terms(rank=2))
    with pytest.raises(FedfmError, match="not in width"):
        opened(encoder, LoRA())[0].at("", Terms(width=0.5))


def test_full_trains_everything_that_is_used(encoder: str) -> None:
    bound, batch = opened(encoder, Full())
    assert sum(e.size for e in bound.layout.entries) == bound.total and not any(
        "pooler" in e.name for e in bound.layout.entries
    )
    bound.gradient(batch)
    dead = [n for n, g in bound.layout.views(bound.grads).items() if not g.any()]
    assert dead == []


def test_head_is_alone_in_the_layout(encoder: str) -> None:
    bound, batch = opened(encoder, Head())
    assert [e.name for e in bound.layout.entries] == ["head.weight", "head.bias"]
    # features computed once are those of the network
    ids, mask = bound.encode(DATA.train("p")).tokens.padded(torch.arange(len(ROWS)), 0)
    with torch.no_grad():
        torch.testing.assert_close(batch.features, bound.module.features(ids, mask), rtol=1e-4, atol=1e-5)
    encoded = bound.encode(DATA.train("p"))
    one = bound.batch(encoded, torch.tensor([3])).features
    assert torch.equal(one[0], bound.batch(encoded, torch.tensor([0, 3])).features[1])


def test_a_tied_language_model_has_no_head(language_model: str) -> None:
    with pytest.raises(ModelError, match="use the tuning lora or full"):
        CausalLM(model=language_model, tuning=Head()).open(None)


@pytest.mark.parametrize("tuning", [LoRA(), LoRA(residual=True), Head(), Full()])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bound_holds(encoder: str, tmp_path: Path, tuning: Any, dtype: str) -> None:
    """The same batch gives the same bits; views survive a step, a score and a save."""
    bound, batch = opened(encoder, tuning, dtype=dtype)
    start = bound.gradient(batch)
    first = bound.grads.clone()
    bound.gradient(batch)
    assert torch.equal(first, bound.grads) and bool(first.any())
    assert all(
        p.dtype == torch.float32 for n, p in bound.module.named_parameters() if "lora_" in n or "head" in n
    )
    train(bound, batch, 20)
    bound.score(bound.encode(DATA.train("p")))
    bound.objective.save(bound.module, str(tmp_path))
    bound.check()
    flat = bound.read()
    bound.load(bound.init)
    bound.load(flat)
    assert torch.equal(bound.read(), flat) and bound.module.training
    assert bound.loss(batch) < start


@pytest.mark.parametrize("mask", [0o022, 0o027])
@pytest.mark.parametrize("tuning", [LoRA(r=2), Full(), Head()])
def test_what_is_written_has_the_rights_of_the_umask(
    encoder: str, tmp_path: Path, tuning: Any, mask: int
) -> None:
    bound, _ = opened(encoder, tuning)
    before = os.umask(mask)
    try:
        bound.objective.save(bound.module, str(tmp_path / "model"))
    finally:
        os.umask(before)
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "model").iterdir()}
    assert "head.safetensors" in modes and set(modes.values()) == {0o666 & ~mask}, modes
