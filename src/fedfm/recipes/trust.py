"""Federations that do not trust each other: robust aggregation, differential privacy, secure aggregation (section V)."""

from __future__ import annotations

from fedfm.core.combine import Pipe
from fedfm.core.federation import Federation, replace
from fedfm.core.registry import recipe
from fedfm.data.partition.dirichlet import Dirichlet
from fedfm.data.wordnet_topics import WordnetTopics
from fedfm.efficiency.computation.tuning.head import Head
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.incentives.selection.poisson import Poisson
from fedfm.recipes.text import quickstart
from fedfm.tasks.text.classify import SequenceClassification
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.secure.secagg import SecAgg
from fedfm.trust.robustness.attack.sign_flip import SignFlip
from fedfm.trust.robustness.rule.krum import Krum


@recipe(
    "krum",
    section="V.A",
    survey=(86,),
    atlas=("krum",),
    paper="Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent, 2017",
)
def krum() -> Federation:
    """Multi-Krum against two of eight parties that send their update with the sign flipped, ten times over."""
    return replace(quickstart(), adversary=SignFlip(count=2, scale=10.0), aggregate=Krum(f=2, m=4))


@recipe(
    "dp-fedavg",
    section="V.B",
    survey=(105, 107),
    atlas=("dp-noise",),
    paper="McMahan et al., Learning Differentially Private Recurrent Language Models, 2018",
)
def dp_fedavg() -> Federation:
    """Central differential privacy at the level of a party: clipped updates, Poisson sampling, noise once on the sum.

    Epsilon 8 at delta 1e-5 for a whole party, whatever its contribution was, turned into noise for ten rounds. Noise grows
    with the square root of the tuned parameters and shrinks with the parties: hence a hundred of them, and the head
    alone. On eight parties the same noise leaves no model.
    """
    return replace(
        quickstart(),
        task=SequenceClassification(model="minilm", tuning=Head(), max_tokens=24),
        data=WordnetTopics(train_rows=5000, test_rows=300, partition=Dirichlet(alpha=0.5, parties=100)),
        client=Local(optimizer="adamw", lr=0.02, steps=8, batch=8),
        select=Poisson(rate=0.5),
        uplink=ClipNoise(clip_norm=1.0, epsilon=8.0, delta=1e-5),
        aggregate=Mean(weights="equal", denominator=50.0),
        rounds=10,
    )


@recipe(
    "secagg",
    section="V.C",
    survey=(211, 225),
    atlas=("secagg",),
    paper="Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning, 2017",
)
def secagg() -> Federation:
    """The server sees only the sum of the parties' updates; parties may drop out at any phase."""
    return replace(quickstart(), uplink=Pipe(SecAgg()))
