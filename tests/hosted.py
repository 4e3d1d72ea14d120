"""Tiny trainers that tests host: a two-layer BERT that tells whether a row has a certain token, or any of its like."""

from __future__ import annotations

from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

WORDS, LONG = 24, 6


def rows(seed: int, n: int) -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, WORDS, (n, LONG), generator=draw)
    return [{"input_ids": x.tolist(), "labels": int((x < 5).any())} for x in ids]


def model(dropout: float = 0.0) -> Any:
    set_seed(3)
    shape = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return BertForSequenceClassification(
        BertConfig(vocab_size=WORDS, max_position_embeddings=LONG, num_labels=2, **shape, **drop)
    )


def right(found: Any) -> dict[str, float]:
    return {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())}


def arguments(**more: Any) -> TrainingArguments:
    told: dict[str, Any] = {
        "output_dir": "/tmp/fedfm-hosted",
        "use_cpu": True,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.05,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
    }
    return TrainingArguments(**told | more)


def trainer(
    party: str, dropout: float = 0.0, kind: Any = Trainer, more: Any = None, model_of: Any = None, **args: Any
) -> Any:
    """A trainer of a party called NAME-NUMBER, with rows of its own; `more`: other arguments of `kind`."""
    number, more = int(party.rpartition("-")[2]), dict(more or {})
    tests = more.pop("tests", rows(100 + number, 6))
    return kind(
        model(dropout) if model_of is None else model_of,
        arguments(**args),
        train_dataset=rows(number, 10 + 2 * number),
        eval_dataset=tests,
        compute_metrics=right,
        **more,
    )
