"""Federations in which each party keeps a model of its own."""

from __future__ import annotations

from fedfm.cards.registry import recipe
from fedfm.core.federation import Federation
from fedfm.data.partition.dirichlet import Dirichlet
from fedfm.data.wordnet_topics import WordnetTopics
from fedfm.efficiency.computation.tuning.head import Head
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.efficiency.training.personal.fedmd import FedMD
from fedfm.engines.processes import Processes
from fedfm.tasks.by_client import TaskByClient
from fedfm.tasks.text.classify import SequenceClassification


@recipe(
    "fedmd",
    section="IV.A",
    paper="Li, Wang, FedMD: Heterogenous Federated Learning via Model Distillation, 2019",
)
def fedmd() -> Federation:
    """Three architectures learn from each other through what they say of 200 public texts; no weights travel.

    Of 8 parties with some 30 texts each, three tune MiniLM with LoRA, three its head alone, two the head of SmolLM2.
    Each is scored on some 70 texts of its own.
    """
    return Federation(
        task=TaskByClient(
            {
                "party-[0-2]": SequenceClassification(model="minilm", tuning=LoRA(r=8), max_tokens=24),
                "party-[3-5]": SequenceClassification(model="minilm", tuning=Head(), max_tokens=24),
                "*": SequenceClassification(model="smollm2", tuning=Head(), max_tokens=24),
            }
        ),
        data=WordnetTopics(
            train_rows=800,
            test_rows=400,
            partition=Dirichlet(alpha=1.0, parties=8),
            public_rows=200,
            own_test=0.7,
        ),
        client=FedMD(
            local=Local(optimizer="adamw", lr=4e-3, steps=5, batch=8),
            digest=Local(optimizer="adamw", lr=2e-3, steps=6, batch=16),
            rows=100,
        ),
        aggregate=Mean(weights="equal"),
        engine=Processes(),
        rounds=6,
    )
