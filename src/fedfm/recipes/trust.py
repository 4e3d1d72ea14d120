"""Federations that do not trust each other: robust aggregation, differential privacy, secure aggregation (section V)."""

from __future__ import annotations

from fedfm.core.combine import Pipe
from fedfm.core.federation import Federation, replace
from fedfm.core.registry import recipe
from fedfm.efficiency.training.mean import Mean
from fedfm.incentives.poisson import Poisson
from fedfm.recipes.text import quickstart
from fedfm.trust.privacy.gaussian import ClipNoise
from fedfm.trust.privacy.secagg import SecAgg
from fedfm.trust.robustness.krum import Krum
from fedfm.trust.robustness.sign_flip import SignFlip


@recipe("krum", section="V.A", survey=(86,), atlas=("krum",),
        paper="Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent, 2017")
def krum() -> Federation:
    """Multi-Krum against two of eight parties that send their update with the sign flipped, ten times over."""
    return replace(quickstart(), adversary=SignFlip(count=2, scale=10.0), aggregate=Krum(f=2, m=4))


@recipe("dp-fedavg", section="V.B", survey=(105, 107), atlas=("dp-noise",),
        paper="McMahan et al., Learning Differentially Private Recurrent Language Models, 2018")
def dp_fedavg() -> Federation:
    """Central differential privacy at the level of a party: clipped updates, Poisson sampling, noise once on the sum.

    With eight parties the noise is large for the privacy that it buys: this shows the mechanics, not a good model.
    """
    return replace(quickstart(), select=Poisson(rate=0.5), uplink=ClipNoise(clip_norm=1.0, noise_multiplier=0.6),
                   aggregate=Mean(weights="equal", denominator=4.0), rounds=6)


@recipe("secagg", section="V.C", survey=(211, 225), atlas=("secagg",),
        paper="Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning, 2017")
def secagg() -> Federation:
    """The server sees only the sum of the parties' updates; parties may drop out at any phase."""
    return replace(quickstart(), uplink=Pipe(SecAgg()))
