"""Going on from an adapter under what it was tuned under: what was written otherwise is refused, with the lines to write."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import architectures as arch
from fedfm.core.errors import ModelError
from fedfm.data.source import Parties, Shard
from fedfm.efficiency.computation.tuning.full import Full
from fedfm.efficiency.computation.tuning.ia3 import IA3
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.efficiency.computation.tuning.peft import AnyPeft
from fedfm.efficiency.computation.tuning.prompt import PromptTuning, PTuning
from fedfm.models import tiny
from fedfm.running.commands.tuned import export
from fedfm.tasks import load_tuned
from fedfm.tasks.text.causal import CausalLM
from fedfm.tasks.text.classify import SequenceClassification
from fedfm.tasks.text.regress import TextRegression

ROWS = tuple({"text": f"t {i}", "label": "ab"[i % 2], "number": float(i)} for i in range(6))
DATA = Parties((Shard("p", ROWS),), (Shard("", ROWS[:4]),), labels=("a", "b"))
QV, KQV = ("q_proj", "v_proj"), ("k_proj", "q_proj", "v_proj")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny("causal-lm", tmp_path_factory.mktemp("lm")))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny("encoder", tmp_path_factory.mktemp("e")))


def saved(task: Any, folder: Path) -> str:
    bound = task.open(DATA)
    bound.objective.save(bound.module, str(folder))
    return str(folder)


def pefts(target: str) -> Any:
    return {"target_modules": (target,), "r": 2}


@pytest.mark.parametrize(
    ("was", "written", "fix"),
    [
        (LoRA(r=3, alpha=5.0), LoRA(r=4, alpha=2.0), r"'task.tuning.r=3' 'task.tuning.alpha=5.0'"),
        (LoRA(targets=QV), LoRA(targets="q_proj"), r"'task.tuning.targets=\[q_proj, v_proj\]'"),
        (
            LoRA(targets="all-linear"),
            LoRA(targets=QV),
            r"'task.tuning.targets=\[down_proj, gate_proj, k_proj",
        ),
        (IA3(), IA3(targets=("v_proj",)), r"'task.tuning.targets=\[down_proj, k_proj, v_proj\]'"),
        (PromptTuning(tokens=3), PromptTuning(tokens=4), "'task.tuning.tokens=3'"),
        (PTuning(tokens=8, hidden=4), PTuning(hidden=6), "'task.tuning.hidden=4'"),
        (
            AnyPeft("LOHA", pefts("q_proj")),
            AnyPeft("LOHA", pefts("q_proj") | {"alpha": 32}),
            "'task.tuning.options.alpha=8'",
        ),
    ],
)
def test_written_settings_that_the_adapter_does_not_have_are_refused(
    llama: str, tmp_path: Path, was: Any, written: Any, fix: str
) -> None:
    start = saved(CausalLM(model=llama, tuning=was), tmp_path)
    with pytest.raises(ModelError, match=f"(?s)was made with other settings.*was written.*fix: {fix}"):
        CausalLM(model=llama, tuning=written, start=start).open(None)


@pytest.mark.parametrize(
    ("was", "written"),
    [
        (LoRA(r=3, targets=KQV), LoRA(r=3, targets=KQV[::-1], dropout=0.3)),
        (LoRA(targets=("q_proj",)), LoRA(targets="q_proj")),
        (LoRA(targets="all-linear", residual=True), LoRA(targets="all-linear", residual=True)),
        (IA3(targets=QV), IA3(targets=QV[::-1])),
        (IA3(("k_proj",), ("down_proj",)), IA3(("k_proj",), ("down_proj",))),
        (AnyPeft("LOHA", pefts("q_proj") | {"alpha": 32}), AnyPeft("LOHA", pefts("q_proj") | {"alpha": 32})),
        (AnyPeft("LORA", pefts("q_proj") | {"use_rslora": True}),) * 2,
    ],
)
def test_the_same_settings_in_other_words_go_on(llama: str, tmp_path: Path, was: Any, written: Any) -> None:
    task = CausalLM(model=llama, tuning=was)
    bound = replace(task, tuning=written, start=saved(task, tmp_path)).open(
        None
    )  # a warning is an error here
    assert torch.equal(bound.init, task.open(None).init)
    rates = {m.p for n, m in bound.module.named_modules() if ".lora_dropout." in n and hasattr(m, "p")}
    assert rates == ({0.3} if getattr(written, "dropout", 0.0) else set())


def test_a_default_that_is_not_the_adapters_is_told_and_another_all_linear_refused(
    llama: str, tmp_path: Path
) -> None:
    start = saved(CausalLM(model=llama, tuning=LoRA(r=3, targets=QV)), tmp_path)
    with pytest.warns(UserWarning, match=r"taken from task.start: r=3 \(config.yaml: 8\)$"):
        CausalLM(model=llama, start=start).open(None)
    with pytest.raises(ModelError, match="does not fit the model"):
        CausalLM(model=llama, start=start, tuning=LoRA(r=3, targets="all-linear")).open(None)


@pytest.mark.parametrize(
    ("was", "now", "fix"),
    [
        ({"pooling": "cls", "scale": 1.0}, {}, "task.pooling=cls task.scale=1.0"),
        ({"scale": 2.0, "max_tokens": 9}, {"max_tokens": 8}, "task.scale=2.0 task.max_tokens=9"),
    ],
)
def test_an_adapter_goes_on_under_the_task_that_it_was_tuned_under(
    bert: str, tmp_path: Path, was: Any, now: Any, fix: str
) -> None:
    task = SequenceClassification(model=bert, tuning=LoRA(r=2))
    start = saved(replace(task, **was), tmp_path)
    with pytest.raises(ModelError, match=f"(?s)other settings of the task.*fix: {fix}$"):
        replace(task, start=start, **now).open(DATA)
    replace(task, start=start, **was).open(DATA)


def test_so_do_templates_numbers_and_shorter_texts(llama: str, bert: str, tmp_path: Path) -> None:
    task = CausalLM(model=llama, tuning=LoRA(r=2), template="plain")
    start = saved(task, tmp_path / "a")
    with pytest.raises(ModelError, match="fix: task.template=plain"):
        replace(task, template="chat", start=start).open(None)
    with pytest.warns(
        UserWarning, match="tuned under task.max_tokens=256, and goes on under task.max_tokens=64"
    ):
        replace(task, max_tokens=64, start=start).open(None)
    numbers = TextRegression(model=bert, tuning=LoRA(r=2), center=2.0)
    start = saved(numbers, tmp_path / "b")
    with pytest.raises(ModelError, match=r"fix: task.center=2.0 task.spread=1.0"):
        replace(numbers, center=0.0, spread=3.0, start=start).open(DATA)


def test_an_adapter_of_elsewhere_over_another_base(llama: str, tmp_path: Path) -> None:
    """Refused where its base is here, told where nobody can see; of a copy of the same base nothing is said."""
    start = Path(saved(CausalLM(model=llama, tuning=LoRA(r=2)), tmp_path / "own"))
    (start / "fedfm-task.json").unlink()
    file = start / "adapter_config.json"
    told = json.loads(file.read_text())
    task = CausalLM(model=llama, tuning=LoRA(r=2), start=str(start))
    file.write_text(
        json.dumps(told | {"base_model_name_or_path": str(other := arch.decoder(tmp_path / "other"))})
    )
    with pytest.raises(ModelError, match=f"(?s)another base model.*fix: task.model={other}"):
        task.open(None)
    for named in ("somebody/else", "./gone/folder", "word"):
        file.write_text(json.dumps(told | {"base_model_name_or_path": named}))
        with pytest.warns(UserWarning, match=f"trained over {named}, and goes on over task.model={llama}"):
            task.open(None)
    copied = tiny("causal-lm", tmp_path / "copied")
    for named in (str(copied), "", None):
        file.write_text(json.dumps(told | {"base_model_name_or_path": named}))
        task.open(None)


@pytest.mark.parametrize("found", [".*q_proj", ["embed_tokens"], ["layers.0.self_attn.q_proj"]])
def test_targets_of_elsewhere_are_called_the_adapters(llama: str, tmp_path: Path, found: Any) -> None:
    start = Path(saved(CausalLM(model=llama, tuning=LoRA(r=2)), tmp_path))
    (start / "fedfm-task.json").unlink()
    file = start / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"target_modules": found}))
    with pytest.raises(
        ModelError, match=r"(?s)^task.start=\S+: the adapter's targets.*fix: merge_and_unload"
    ) as e:
        CausalLM(model=llama, tuning=LoRA(r=2), start=str(start)).open(None)
    assert "task.tuning.targets" not in str(e.value)


def test_a_whole_tuning_goes_on_from_a_merged_adapter(llama: str, tmp_path: Path) -> None:
    start = saved(CausalLM(model=llama, tuning=LoRA(r=2)), tmp_path)
    with pytest.raises(ModelError, match=rf"fedfm export {start} --merged --to NEW, and task.model=NEW"):
        CausalLM(model=llama, tuning=Full(), start=start).open(None)


@pytest.mark.parametrize("option", ["use_rslora", "use_dora"])
def test_an_adapter_of_loras_kind_is_merged(llama: str, tmp_path: Path, option: str) -> None:
    tuning = AnyPeft("LORA", pefts("q_proj") | {option: True, "init_lora_weights": False})
    saved(CausalLM(model=llama, tuning=tuning), tmp_path / "one")
    export(tmp_path / "one", tmp_path / "two", merged=True)
    one, two = load_tuned(tmp_path / "one"), load_tuned(tmp_path / "two")
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        assert torch.allclose(one.module(input_ids=ids)[0], two.module(input_ids=ids)[0], atol=1e-4)


def test_one_on_a_tied_embedding_is_not(tmp_path: Path) -> None:
    base = str(tiny("causal-lm", tmp_path / "base"))
    tuning = AnyPeft("LORA", pefts("embed_tokens") | {"init_lora_weights": False})
    saved(CausalLM(model=base, tuning=tuning), tmp_path / "one")
    with pytest.raises(ModelError, match="fix: export it as it is"):
        export(tmp_path / "one", tmp_path / "two", merged=True)
