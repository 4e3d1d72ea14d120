"""Federations that tune a sentence encoder to classify texts: the quickstart and the training methods of section IV.A."""

from __future__ import annotations

import dataclasses

from fedfm.cards.registry import recipe
from fedfm.core.federation import Federation, replace
from fedfm.data.wordnet_topics import WordnetTopics
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.efficiency.computation.tuning.sparse import Sparse
from fedfm.efficiency.training.adaptive import FedAdam
from fedfm.efficiency.training.arrivals.fedasync import FedAsync
from fedfm.efficiency.training.arrivals.fedbuff import FedBuff
from fedfm.efficiency.training.fedprox import FedProx
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.lora_exact import FedExLoRA
from fedfm.efficiency.training.scaffold import Scaffold, ScaffoldServer
from fedfm.efficiency.training.servers import Apply
from fedfm.engines.processes import Processes
from fedfm.evaluation.held_out import HeldOut
from fedfm.incentives.selection.uniform import Uniform
from fedfm.pace import Buffered, Link, Speed
from fedfm.tasks.text.classify import SequenceClassification

LOCAL = Local(optimizer="adamw", lr=4e-3, steps=5, batch=8)


@recipe(
    "quickstart",
    section="IV.A",
    survey=(25, 63),
    paper="McMahan et al., 2017 (FedAvg) with Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2022",
)
def quickstart() -> Federation:
    """Tune MiniLM with LoRA on WordNet topics across 8 parties; a minute on two cores.

    8 parties hold 10 topics in Dirichlet(0.5) shares; LoRA r = 8 with a mean-pooled head; FedAvg.
    """
    return Federation(
        task=SequenceClassification(model="minilm", tuning=LoRA(r=8), max_tokens=24),
        data=WordnetTopics(test_rows=300),
        client=LOCAL,
        engine=Processes(),
        rounds=4,
    )


@recipe(
    "fedavg",
    section="IV.A",
    survey=(25,),
    atlas=("fedavg",),
    paper="McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017",
)
def fedavg() -> Federation:
    """FedAvg with half of the parties in each round."""
    return replace(quickstart(), select=Uniform(fraction=0.5), rounds=10)


@recipe(
    "fedsgd",
    section="IV.A",
    survey=(25,),
    atlas=("fedsgd",),
    paper="McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017",
)
def fedsgd() -> Federation:
    """One gradient a party and round; the server takes the step."""
    return replace(
        quickstart(),
        client=Local(optimizer="sgd", lr=0.1, steps=1, batch=64),
        server=Apply(momentum=0.9),
        rounds=20,
    )


@recipe(
    "fedprox",
    section="IV.A",
    survey=(28,),
    atlas=("fedprox",),
    paper="Li et al., Federated Optimization in Heterogeneous Networks, 2020",
)
def fedprox() -> Federation:
    """FedAvg with a proximal term at the clients."""
    return replace(quickstart(), client=FedProx(mu=0.01, local=LOCAL))


@recipe(
    "scaffold",
    section="IV.A",
    survey=(29,),
    atlas=("scaffold",),
    paper="Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, 2020",
)
def scaffold() -> Federation:
    """Control variates against client drift; plain SGD at the clients."""
    return replace(
        quickstart(),
        client=Scaffold(Local(optimizer="sgd", lr=0.15, steps=8, batch=8)),
        server=ScaffoldServer(),
    )


@recipe(
    "fedadam",
    section="IV.A",
    survey=(13, 52),
    atlas=("fedopt",),
    paper="Reddi et al., Adaptive Federated Optimization, 2021",
)
def fedadam() -> Federation:
    """Adam at the server on the mean update."""
    return replace(quickstart(), server=FedAdam(lr=0.01), rounds=8)


@recipe(
    "fedbuff",
    section="VIII.A",
    survey=(215, 229),
    atlas=("async",),
    paper="Nguyen et al., Federated Learning with Buffered Asynchronous Aggregation, 2022",
)
def fedbuff() -> Federation:
    """Asynchronous: 8 parties always work, the server steps whenever 3 updates are in; a simulated clock."""
    return replace(quickstart(), aggregate=FedBuff(), pace=Buffered(size=3, concurrency=8), rounds=10)


@recipe(
    "fedasync",
    section="IV.A",
    survey=(215, 229),
    atlas=("async",),
    paper="Xie et al., Asynchronous Federated Optimization, 2019",
)
def fedasync() -> Federation:
    """The server steps at every arrival; links of 1 Mbit/s a party on average, some much slower; a simulated clock."""
    link = Link(up_mbit_s=1.0, down_mbit_s=10.0, latency_s=0.05, spread=1.0)
    return replace(
        quickstart(),
        client=dataclasses.replace(LOCAL, send="weights"),
        server=FedAsync(mix=0.4),
        pace=Buffered(
            size=1, concurrency=8, speed=Speed(step_s=0.2, spread=0.5, jitter=0.1), links={"*": link}
        ),
        evaluate=HeldOut(every=8),
        rounds=48,
    )


@recipe(
    "fedex-lora",
    section="IV.A",
    survey=(63,),
    atlas=("lora-exact",),
    paper="Singhal et al., FedEx-LoRA: Exact Aggregation for Federated Parameter-Efficient Fine-Tuning, 2025",
)
def fedex_lora() -> Federation:
    """LoRA factors averaged exactly: what averaging A and B apart would lose is added to the base."""
    base = quickstart()
    return replace(
        base,
        task=SequenceClassification(model="minilm", tuning=LoRA(r=8, residual=True), max_tokens=24),
        aggregate=FedExLoRA(),
        client=dataclasses.replace(LOCAL, send="weights"),
        server=Apply(takes="weights"),
    )


@recipe(
    "slora",
    section="IV.B",
    survey=(44,),
    atlas=("slora",),
    paper="Babakniya et al., SLoRA: Federated Parameter Efficient Fine-Tuning of Language Models, 2023",
)
def slora() -> Federation:
    """Two stages: a few entries of the weights are tuned, then LoRA from the singular vectors of what they have moved."""
    lora = quickstart()
    sparse = replace(
        lora, task=SequenceClassification(model="minilm", tuning=Sparse(r=8), max_tokens=24), rounds=3
    )
    return replace(lora, stages=(sparse,), rounds=3)
