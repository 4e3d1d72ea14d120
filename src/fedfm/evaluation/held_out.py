"""When and on what the global model is scored."""

from __future__ import annotations

from dataclasses import dataclass

from fedfm.cards.registry import knob, method
from fedfm.core.protocols import Evaluator


@method("held-out", slot="evaluate", section="VII")
@dataclass(frozen=True)
class HeldOut(Evaluator):
    """Score the global model on the common held-out data, in parts wherever sessions run."""

    every: int = knob(1, "rounds between two scores (the last round is always scored)", low=1)
    parts: int = knob(2, "pieces of the held-out data, scored side by side", low=1)
