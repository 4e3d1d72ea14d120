"""Messages whose length stands out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.message import Message
from fedfm.core.protocols import Detector, State

FEWEST = 4  # with three messages the median absolute deviation says nothing


@method(
    "norm-outliers",
    slot="detect",
    section="V.A",
    paper="Iglewicz, Hoaglin, How to detect and handle outliers, 1993 (modified z-score)",
    also=("norm-clipping", "outliers"),
)
@dataclass(frozen=True)
class NormOutliers(Detector):
    """Refuse a message whose norm lies more than k robust deviations from the median norm of the round.

    z = (||x|| - median) / (1.4826 MAD), MAD the median absolute deviation, at least 0.1 % of the median (equal norms
    are no reason to refuse rounding errors). Norms are over all coordinates, running statistics among them. Refuses
    nobody among fewer than four messages. It sees scaled updates and noise; it cannot see an attack of the usual
    length.
    """

    k: float = knob(3.5, "deviations that are still accepted", low=0.0)
    one_sided: bool = knob(True, "refuse only what is too long, not what is too short")

    reads = True
    takes = ("delta",)  # whole weights are all about as long as the model

    def flag(self, messages: Mapping[str, Message], state: State, ctx: Ctx) -> tuple[dict[str, str], State]:
        if len(messages) < FEWEST:
            return {}, state
        norms = torch.stack(
            [torch.linalg.vector_norm(m.x.float(), dtype=torch.float64) for m in messages.values()]
        )
        middle = float(norms.quantile(0.5))
        spread = max(1.4826 * float((norms - middle).abs().quantile(0.5)), 1e-3 * middle)
        flagged = {}
        for i, norm in zip(messages, norms.tolist(), strict=True):
            away = norm - middle if self.one_sided else abs(norm - middle)
            if away > self.k * spread:
                z = f"{away / spread:.1f}" if spread else "infinitely many"
                flagged[i] = (
                    f"norm {norm:.4g} is {z} robust deviations from the round's median {middle:.4g} "
                    f"(accepted: {self.k:g})"
                )
        return flagged, state
