"""Federations that send less (section IV.C)."""

from __future__ import annotations

from fedfm.cards.registry import recipe
from fedfm.core.combine import Pipe
from fedfm.core.federation import Federation, replace
from fedfm.efficiency.communication.codec.entropy import Entropy
from fedfm.efficiency.communication.codec.error_feedback import ErrorFeedback
from fedfm.efficiency.communication.codec.qsgd import QSGD
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.training.mean import Mean
from fedfm.recipes.text import quickstart


@recipe(
    "fedpaq",
    section="IV.C",
    survey=(30,),
    atlas=("fedpaq",),
    paper="Reisizadeh et al., FedPAQ: Communication-Efficient FL with Periodic Averaging and Quantization, 2020",
)
def fedpaq() -> Federation:
    """Periodic averaging with updates quantised to 15 levels by QSGD; plain mean."""
    return replace(quickstart(), uplink=QSGD(levels=15), aggregate=Mean(weights="equal"))


@recipe(
    "sparse",
    section="IV.C",
    survey=(213, 242),
    atlas=("sparsify", "entropy-coding"),
    paper="Stich, Cordonnier, Jaggi, Sparsified SGD with Memory, 2018",
)
def sparse() -> Federation:
    """One value in twenty travels, quantised and entropy-coded; what stays behind is fed back."""
    return replace(quickstart(), uplink=Pipe(ErrorFeedback(TopK(fraction=0.05)), QSGD(levels=15), Entropy()))
