"""Tunings of PEFT: what is trained, that a saved adapter is the trained one, and going on from one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import architectures as arch
from conftest import Drive
from fedfm.core.errors import ModelError
from fedfm.core.federation import Federation
from fedfm.data.source import Parties, Shard
from fedfm.efficiency.computation.tuning.full import Full
from fedfm.efficiency.computation.tuning.head import Head
from fedfm.efficiency.computation.tuning.ia3 import IA3
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.efficiency.computation.tuning.peft import AnyPeft
from fedfm.efficiency.computation.tuning.prompt import PromptTuning, PTuning
from fedfm.efficiency.training.local import Local
from fedfm.models import tiny
from fedfm.tasks import load_tuned
from fedfm.tasks.probing import probe
from fedfm.tasks.text.causal import CausalLM
from fedfm.tasks.text.classify import SequenceClassification

pytestmark = pytest.mark.filterwarnings("ignore:fedfm. what nobody has written of task.tuning")
ROWS = tuple(
    {"instruction": f"say {'x' * (i % 5)}{i}", "answer": f"{i}{i}", "text": f"t {i}", "label": "ab"[i % 2]}
    for i in range(10)
)
DATA = Parties((Shard("p", ROWS), Shard("q", ROWS[:6])), (Shard("", ROWS[:4]),), labels=("a", "b"))
PEFTS = [
    LoRA(),
    IA3(),
    PromptTuning(tokens=3),
    PTuning(tokens=3, hidden=8),
    AnyPeft("LOHA", {"target_modules": ("q_proj", "v_proj", "query", "value"), "r": 2}),
    AnyPeft("LN_TUNING", {"target_modules": ("input_layernorm", "LayerNorm")}),
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny("causal-lm", tmp_path_factory.mktemp("lm")))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny("encoder", tmp_path_factory.mktemp("e")))


def stir(bound: Any, size: float = 0.3) -> None:
    g, flat = torch.Generator().manual_seed(3), bound.init.clone()
    for view in bound.layout.views(flat).values():
        view += size * torch.randn(view.shape, generator=g)
    bound.load(flat)


@pytest.mark.parametrize("tuning", PEFTS, ids=repr)
@pytest.mark.parametrize("kind", ["lm", "encoder"])
def test_a_saved_adapter_is_the_trained_one(
    llama: str, bert: str, tmp_path: Path, tuning: Any, kind: str
) -> None:
    task: Any = (
        CausalLM(model=llama, tuning=tuning)
        if kind == "lm"
        else SequenceClassification(model=bert, tuning=tuning)
    )
    bound = task.open(DATA)
    assert probe(task, bound, DATA) == []
    start = bound.score(bound.encode(DATA.test()))["loss"]
    stir(bound)
    encoded = bound.encode(DATA.train("p"))
    was = bound.risk(encoded)[0]
    assert was != start[0]
    bound.objective.save(bound.module, str(tmp_path))
    tuned = load_tuned(tmp_path)
    tuned.objective.whole = tuned.module
    assert tuned.objective.risk(tuned.module, encoded, torch.device("cpu"))[0] == pytest.approx(was, rel=1e-5)


def test_counts(llama: str, bert: str) -> None:
    def count(tuning: Any, model: str = llama) -> int:
        return int(CausalLM(model=model, tuning=tuning).open(None).layout.trainable)

    assert count(PromptTuning(tokens=3)) == 3 * 32
    assert count(IA3()) == 2 * (16 + 16 + 64)  # k and v (two heads of eight), and what goes into down_proj
    assert count(LoRA(r=1, targets="all-linear")) == 2 * (64 + 48 + 48 + 64 + 3 * 96)
    assert count(LoRA(r=1, targets="q_proj")) == count(LoRA(r=1, targets=("q_proj",))) == 2 * 64


def test_the_numbers_of_prompt_tuning(llama: str) -> None:
    """Oracle: the virtual tokens' embeddings in front of the text's, through the plain network."""
    from fedfm.tasks.network import load_base

    bound = CausalLM(model=llama, tuning=PromptTuning(tokens=3)).open(None)
    stir(bound)
    batch = bound.batch(bound.encode(DATA.train("p")), torch.arange(10))
    base, n = load_base("AutoModelForCausalLM", llama), len(batch.ids)
    with torch.no_grad():
        (prompt,) = bound.layout.views(bound.params).values()
        words = base.get_input_embeddings()(batch.ids)
        given = torch.cat([prompt.expand(n, -1, -1), words], 1)
        mask = torch.cat([torch.ones(n, 3, dtype=torch.long), batch.mask], 1)
        logits = base(inputs_embeds=given, attention_mask=mask).logits[:, 3:]
        means = [
            torch.nn.functional.cross_entropy(x[t != -100], t[t != -100])
            for x, t in zip(logits, batch.targets, strict=True)
        ]
    torch.testing.assert_close(bound.losses(batch), torch.stack(means), rtol=1e-5, atol=1e-5)


def test_the_numbers_of_ia3(llama: str) -> None:
    """Oracle: the weights' rows (keys, values) or columns (into down_proj) multiplied by the vectors."""
    from fedfm.tasks.network import load_base

    bound = CausalLM(model=llama, tuning=IA3()).open(None)
    stir(bound)
    batch = bound.batch(bound.encode(DATA.train("p")), torch.arange(10))
    base = load_base("AutoModelForCausalLM", llama)
    with torch.no_grad():
        for name, vector in bound.layout.views(bound.params).items():
            layer = base.get_submodule(name.removeprefix("base_model.model.").partition(".ia3_l")[0])
            layer.weight *= vector.view(1, -1) if "down_proj" in name else vector.view(-1, 1)
        plain = CausalLM(model=llama, tuning=Full()).open(None).objective
        theirs = plain.losses(base, batch)
    torch.testing.assert_close(bound.losses(batch), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tuning", [PromptTuning(tokens=3), PTuning(tokens=3, hidden=8), LoRA()], ids=repr)
def test_answers_do_not_depend_on_their_neighbours(llama: str, tuning: Any) -> None:
    bound = CausalLM(model=llama, tuning=tuning, max_new_tokens=6).open(None)
    stir(bound)
    bound.module.eval()
    asked = [r["instruction"] for r in ROWS]
    alone = [bound.objective.predict(bound.module, [a], bound.device)[0] for a in asked]
    assert bound.objective.predict(bound.module, asked, bound.device) == alone


@pytest.mark.parametrize("tuning", [LoRA(targets="all-linear"), LoRA(residual=True), IA3()], ids=repr)
def test_merged_equals_unmerged(llama: str, tuning: Any) -> None:
    bound = CausalLM(model=llama, tuning=tuning).open(None)
    stir(bound, 0.1)
    encoded = bound.encode(DATA.train("p"))
    was = bound.risk(encoded)[0]
    merged = tuning.merged(bound.module)
    assert tuning.exact_merge and "lora" not in str(merged) and "ia3" not in str(merged).lower()
    bound.objective.whole = merged
    now = bound.objective.risk(merged.eval(), encoded, torch.device("cpu"))[0]
    assert now == pytest.approx(was, rel=1e-4)


def test_a_switched_off_adapter_is_the_base(llama: str) -> None:
    """What a preference loss needs of its reference; and a frozen A stays frozen afterwards."""
    for tuning in (LoRA(residual=True), LoRA(train="B")):
        bound = CausalLM(model=llama, tuning=tuning).open(None)
        batch = bound.batch(bound.encode(DATA.train("p")), torch.arange(4))
        base = bound.losses(batch)
        stir(bound)
        with bound.module.disable_adapter():
            assert torch.equal(bound.losses(batch), base)
        assert not torch.equal(bound.losses(batch), base)
        bound.gradient(batch)
        trained = {n for n, p in bound.module.named_parameters() if p.requires_grad}
        assert trained == {e.name for e in bound.layout.entries if e.trainable}


def test_plain_libraries_read_it(llama: str, bert: str, tmp_path: Path) -> None:
    from peft import AutoPeftModel, AutoPeftModelForCausalLM

    lm = CausalLM(model=llama, tuning=LoRA(r=2)).open(None)
    stir(lm)
    lm.objective.save(lm.module, str(tmp_path / "lm"))
    config = json.loads((tmp_path / "lm" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == llama
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        theirs = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "lm").eval()(input_ids=ids).logits
        torch.testing.assert_close(theirs, lm.module.eval()(input_ids=ids).logits)
    encoder = SequenceClassification(model=bert, tuning=LoRA(r=2)).open(DATA)
    stir(encoder)
    encoder.objective.save(encoder.module, str(tmp_path / "e"))
    with torch.no_grad():
        plain = AutoPeftModel.from_pretrained(tmp_path / "e").eval()(input_ids=ids).last_hidden_state
        torch.testing.assert_close(plain, encoder.module.eval().encoder(input_ids=ids).last_hidden_state)


def test_kinds_that_cannot_be_used(llama: str) -> None:
    for kind, why in (
        ("ADALORA", "ranks change"),
        ("LORRA", "did you mean 'LORA'"),
        ("POLY", "number of a task"),
    ):
        with pytest.raises(ModelError, match=why):
            CausalLM(model=llama, tuning=AnyPeft(kind)).open(None)
    with pytest.raises(ModelError, match=r"(?s)does not fit this network.*fix: other settings"):
        CausalLM(model=llama, tuning=AnyPeft("LOHA", {"target_modules": ("nothing",)})).open(None)


@pytest.mark.parametrize("tuning", [IA3(), PromptTuning(tokens=2), LoRA(targets="all-linear")], ids=repr)
def test_both_engines_agree(llama: str, drive: Drive, tuning: Any) -> None:
    from fedfm.data.arrays import Arrays

    rows = [{k: r[k] for k in ("instruction", "answer")} for r in ROWS]
    fed = Federation(
        task=CausalLM(model=llama, tuning=tuning, score_by="loss"),
        data=Arrays(train={"a": rows[:5], "b": rows[5:]}, test=rows[:3]),
        client=Local(lr=0.05, steps=2, batch=2),
        rounds=2,
    )
    one, two = drive(fed, workers=0), drive(fed, workers=2)
    assert not one.failed and one.digest == two.digest and torch.equal(one.model, two.model)
    assert not torch.equal(one.model, one.run.bound.init)


# ---- going on from an adapter ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("tuning", "asked"),
    [
        (LoRA(r=3, alpha=5.0, targets=("k_proj",)), LoRA()),
        (IA3(), IA3()),
        (PromptTuning(tokens=5), PromptTuning()),
    ],
)
def test_a_run_goes_on_from_an_adapter(llama: str, tmp_path: Path, tuning: Any, asked: Any) -> None:
    first = CausalLM(model=llama, tuning=tuning).open(None)
    stir(first)
    first.objective.save(first.module, str(tmp_path / "model"))
    second = CausalLM(model=llama, tuning=asked, start=str(tmp_path / "model")).open(None)
    assert second.layout.digest == first.layout.digest and torch.equal(second.init, first.read())
    second.objective.save(second.module, str(tmp_path / "again"))
    assert load_tuned(tmp_path / "again").predict(["say 1"]) == load_tuned(tmp_path / "model").predict(
        ["say 1"]
    )


def test_a_classifier_goes_on_with_its_head(bert: str, tmp_path: Path) -> None:
    task = SequenceClassification(model=bert, tuning=LoRA(r=2))
    first = task.open(DATA)
    stir(first)
    first.objective.save(first.module, str(tmp_path))
    second = replace(task, tuning=LoRA(), start=str(tmp_path)).open(DATA)
    assert torch.equal(second.init, first.read())
    with pytest.raises(ModelError, match="its head knows other labels"):
        replace(task, start=str(tmp_path)).open(Parties(DATA.shards, labels=("a", "c")))


def test_what_cannot_be_gone_on_from(llama: str, bert: str, tmp_path: Path) -> None:
    first = CausalLM(model=llama, tuning=LoRA(r=2)).open(None)
    first.objective.save(first.module, str(tmp_path / "model"))
    task = CausalLM(model=llama, start=str(tmp_path / "model"))
    with pytest.raises(ModelError, match="fix: task.start=.*model"):
        replace(task, start=str(tmp_path)).open(None)
    with pytest.raises(ModelError, match="holds a whole model"):
        replace(task, start=llama).open(None)
    with pytest.raises(ModelError, match="an adapter of the kind LORA"):
        replace(task, tuning=IA3()).open(None)
    with pytest.raises(ModelError, match="another base model"):
        replace(task, model=arch.decoder(tmp_path / "other")).open(None)
    config, record = tmp_path / "model" / "adapter_config.json", tmp_path / "model" / "fedfm-task.json"
    saved, told = json.loads(config.read_text()), json.loads(record.read_text())
    record.write_text(json.dumps(told | {"sha256": told["sha256"] | {config.name: None}}))
    config.write_text(json.dumps(saved | {"use_dora": True}))
    with pytest.raises(ModelError, match="use_dora=True"):
        task.open(None)
    config.write_text(json.dumps(saved | {"target_modules": ["k_proj"]}))
    with pytest.raises(ModelError, match="does not fit the model"):
        task.open(None)
    config.write_text(json.dumps(saved))
    weights = tmp_path / "model" / "adapter_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    record.write_text(json.dumps(told | {"sha256": {}}))
    with pytest.raises(ModelError, match="nothing is ever unpickled"):
        load_tuned(tmp_path / "model")
    for tuning in (Full(), Head()):
        with pytest.raises(ModelError, match="writes no adapter"):
            replace(task, tuning=tuning).open(None)


def test_a_tuned_model_knows_its_base(tmp_path: Path) -> None:
    base = arch.decoder(tmp_path / "base")
    bound = CausalLM(model=base, tuning=LoRA(r=2)).open(None)
    bound.objective.save(bound.module, str(tmp_path / "model"))
    record = json.loads((tmp_path / "model" / "fedfm-task.json").read_text())
    assert set(record["base"]) == {"name", "folder", "revision", "weights", "words"}
    load_tuned(tmp_path / "model")
    arch.reconfigure(base, rms_norm_eps=1e-2)
    with pytest.raises(ModelError, match="is not the one that this was trained over"):
        load_tuned(tmp_path / "model")
    record["sha256"]["fedfm-task.json"] = None
    for odd in ({"name": "fedavg"}, {"name": "local"}, "x", None):
        (tmp_path / "model" / "fedfm-task.json").write_text(json.dumps(record | {"task": odd}))
        with pytest.raises(ModelError, match="does not fit this release"):
            load_tuned(tmp_path / "model")


def test_settings_of_another_tool_that_are_ours_or_say_nothing(llama: str, tmp_path: Path) -> None:
    """What says where an adapter is from passes; what the tuning does not have, or changed the base, does not."""
    first = CausalLM(model=llama, tuning=LoRA(r=2)).open(None)
    first.objective.save(first.module, str(tmp_path))
    (tmp_path / "fedfm-task.json").unlink()
    file = tmp_path / "adapter_config.json"
    told = json.loads(file.read_text())
    task = CausalLM(model=llama, start=str(tmp_path))
    quiet = {"peft_version": "9", "revision": "x", "init_lora_weights": "gaussian", "inference_mode": False}
    eva = {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}}
    for more in (quiet, eva, {"task_type": "CAUSAL_LM"}):
        file.write_text(json.dumps(told | more))
        assert torch.equal(task.open(None).init, first.read())
    for more in (
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}},
        {"use_dora": True},
        {"eva_config": {"rho": 2.0}},
        {"rank_pattern": {"q_proj": 4}},
    ):
        file.write_text(json.dumps(told | more))
        with pytest.raises(ModelError, match=f"{min(more)}="):
            task.open(None)
