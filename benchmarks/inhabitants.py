"""What the methods without a recipe reach on a real pre-trained model: MiniLM on WordNet topics, short, over seeds.

    python benchmarks/inhabitants.py [NAME ...]        # one JSON line a method and seed, on standard output

Frozen MiniLM and a trained head, but for the methods that part a model in two or keep several (LoRA there).
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from typing import Any

import fedfm
from fedfm.core.combine import Pipe
from fedfm.core.federation import Federation
from fedfm.data.partition.dirichlet import Dirichlet
from fedfm.data.wordnet_topics import WordnetTopics
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.communication.memory.ef21 import EF21
from fedfm.efficiency.computation.tuning.head import Head
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.efficiency.training.hierarchy import Edges
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.efficiency.training.personal.fedrep import FedRep
from fedfm.efficiency.training.personal.ifca import IFCA, ClusterMean
from fedfm.efficiency.training.soup import GreedySoup
from fedfm.evaluation.by_party import ByParty
from fedfm.incentives.contract.menu import ContractMenu
from fedfm.incentives.contribution.datainf import DataInf
from fedfm.incentives.reward.budget_split import BudgetSplit
from fedfm.tasks.text.classify import SequenceClassification
from fedfm.trust.privacy.mechanism.discrete_gaussian import DiscreteGaussian
from fedfm.trust.privacy.secure.secagg import SecAgg
from fedfm.trust.robustness.attack.sign_flip import SignFlip
from fedfm.trust.robustness.rule.fltrust import FLTrust

SEEDS = (0, 1, 2)
STEPS = Local(optimizer="adamw", lr=0.02, steps=5, batch=8)
LOW = Local(optimizer="adamw", lr=4e-3, steps=5, batch=8)
DATA = WordnetTopics(train_rows=400, test_rows=140, partition=Dirichlet(alpha=0.5, parties=8))
VALUED = replace(DATA, server_rows=40)
OWN = replace(DATA, own_test=0.3)
ATTACK = SignFlip(count=3, scale=5.0)


def minilm(tuning: Any) -> SequenceClassification:
    return SequenceClassification(model="minilm", tuning=tuning, max_tokens=20)


BASE = Federation(task=minilm(Head()), data=DATA, client=STEPS, rounds=4)
ALL: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "fedavg under attack": {"adversary": ATTACK},
    "fltrust under attack": {"adversary": ATTACK, "aggregate": FLTrust(), "data": VALUED},
    "greedy soup": {"aggregate": GreedySoup(), "data": VALUED},
    "contract menu": {"select": ContractMenu()},
    "datainf": {"value": DataInf(), "reward": BudgetSplit(), "data": VALUED},
    "ef21": {"uplink": EF21(TopK(0.1))},
    "discrete gaussian": {
        "uplink": Pipe(
            DiscreteGaussian(clip_norm=1.0, noise_multiplier=1.0, shares=5), SecAgg(threshold=0.62)
        ),
        "aggregate": Mean(weights="equal", denominator=8.0),
    },
    "tree, exact": {"select": Edges(count=3), "fold": "fixed"},
    "flat, exact": {"fold": "fixed"},
    "by party": {"evaluate": ByParty(), "data": OWN},
    "fedrep": {"client": FedRep(local=LOW, head_steps=5), "task": minilm(LoRA(r=4)), "data": OWN},
    "ifca": {"client": IFCA(local=LOW), "aggregate": ClusterMean(), "task": minilm(LoRA(r=4)), "data": OWN},
}


def main(names: list[str]) -> None:
    for name in names or ALL:
        for seed in SEEDS:
            with tempfile.TemporaryDirectory() as folder:
                fed = replace(BASE, seed=seed, **ALL[name])
                told = fedfm.run(fed, out=f"{folder}/run", baselines="local").summary
            kept = {k: told["metric"][k] for k in ("base", "local", "federated")}
            extra = {
                k: v for k, v in told["metrics"].items() if k.startswith(("macro_f1", "parties/accuracy"))
            }
            privacy = {"epsilon": told["privacy"]["epsilon"]} if told["privacy"] else {}
            line = {"name": name, "seed": seed, "status": told["status"], **kept, **privacy, **extra}
            line |= {"up": told["bytes"]["up"], "model": told["model_digest"][:12]}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
