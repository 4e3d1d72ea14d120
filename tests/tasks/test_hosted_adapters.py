"""Adapters in trainers of one's own: they alone travel, the base is held once; TRL's trainers too, where TRL is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, Trainer, set_seed

import fedfm
import hosted
from fedfm.engines.processes import Processes
from fedfm.tasks.hosted.rows import Trainers
from fedfm.tasks.hosted.task import Hosted

torch.set_num_threads(1)
WORDS = ["<pad>", "<eos>", *"abcdefghij"]


def base() -> Any:
    set_seed(1)
    shape = {"n_positions": 24, "n_embd": 8, "n_layer": 1, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(WORDS), bos_token_id=1, eos_token_id=1, **shape))


def lora() -> LoraConfig:
    return LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM", fan_in_fan_out=True)


def words(number: int, n: int) -> list[str]:
    draw = torch.Generator().manual_seed(number)
    return [" ".join(WORDS[2 + int(k)] for k in torch.randint(10, (4,), generator=draw)) for _ in range(n)]


def adapter(party: str) -> Any:
    """A causal language model with an adapter in a plain Trainer, on rows of token numbers."""
    rows = [
        [
            {"input_ids": (ids := [WORDS.index(w) for w in line.split()]), "labels": ids}
            for line in words(k, 9)
        ]
        for k in (int(party[-1]), 50)
    ]
    args = hosted.arguments(optim="adamw_torch", lr_scheduler_type="linear", num_train_epochs=2)
    return Trainer(get_peft_model(base(), lora()), args, train_dataset=rows[0], eval_dataset=rows[1])


def sft(party: str) -> Any:
    return _trl(
        party, "SFT", [{"prompt": "a b", "completion": f" {line}"} for line in words(int(party[-1]), 9)]
    )


def dpo(party: str) -> Any:
    number = int(party[-1])
    pairs = zip(words(number, 9), words(number + 20, 9), strict=True)
    return _trl(party, "DPO", [{"prompt": "a b", "chosen": f" {x}", "rejected": f" {y}"} for x, y in pairs])


def _trl(party: str, kind: str, rows: list[Any]) -> Any:
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers

    written = Tokenizer(models.WordLevel({w: k for k, w in enumerate(WORDS)}, unk_token="<pad>"))
    written.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens = PreTrainedTokenizerFast(tokenizer_object=written, pad_token="<pad>", eos_token="<eos>")
    plain = {"use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True, "logging_steps": 1}
    args = getattr(trl, f"{kind}Config")(
        "/tmp/fedfm-hosted", per_device_train_batch_size=4, max_length=16, num_train_epochs=2, **plain
    )
    sets = {"train_dataset": Dataset.from_list(rows), "eval_dataset": Dataset.from_list(rows[:5])}
    made: Any = getattr(trl, f"{kind}Trainer")
    return made(base(), args=args, processing_class=tokens, peft_config=lora(), **sets)


@pytest.mark.parametrize("make", [adapter, sft, dpo])
def test_an_adapter_alone_travels_and_learns_as_in_one_training(make: Any, tmp_path: Path) -> None:
    one = fedfm.run(fedfm.patch(make, parties=["party-0"], rounds=2), out=tmp_path / "one")
    plain = make("party-0")
    wanted = get_peft_model_state_dict(plain.model)
    assert one.summary["trainable_parameters"] == sum(t.numel() for t in wanted.values())
    plain.train()
    left = get_peft_model_state_dict(PeftModel.from_pretrained(base(), str(one.folder / "model")))
    wanted = get_peft_model_state_dict(plain.model)
    assert left.keys() == wanted.keys()
    assert max(float((left[k] - wanted[k]).abs().max()) for k in left) < 1e-6
    fed = fedfm.patch(make, parties=2, rounds=2)
    digests = {
        fedfm.run(fed, out=tmp_path / str(e), engine=e).summary["model_digest"] for e in (None, Processes(2))
    }
    assert len(digests) == 1


def test_the_base_is_held_once() -> None:
    parties = Trainers(adapter, ("party-0", "party-1")).open(0)
    one = Hosted().open(parties)
    other = one.at("party-1", fedfm.Terms())
    frozen = {n: p for n, p in one.module.named_parameters() if not p.requires_grad}
    theirs = dict(other.module.named_parameters())
    assert other is not one and frozen
    assert all(p.data_ptr() == theirs[n].data_ptr() for n, p in frozen.items())
