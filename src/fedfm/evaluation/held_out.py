"""When and on what the global model is scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedfm.cards.registry import knob, method
from fedfm.core.protocols import Bound, Evaluator

STOP = "rounds without a gain on validation rows (data.server_rows) after which the run ends; 0: never"
BEST = "the run's model is that of the best round on validation rows (data.server_rows), not the last"


@method("held-out", slot="evaluate", section="VII", also=("global", "server", "central"))
@dataclass(frozen=True)
class HeldOut(Evaluator):
    """Score the global model on the common held-out data, in parts wherever sessions run, or at each party.

    With `where=parties` no test row leaves its party: each measures the model on its own test rows and sends the sums;
    the metrics are over all of these rows, `METRIC/PARTY` and `parties/METRIC` (mean, worst, worst tenth) beside them.
    Where parties have models of their own (FedRep, ...) each is scored on its party's test rows, and METRIC is their mean.
    """

    every: int = knob(1, "rounds between two scores (the last round is always scored)", low=1)
    parts: int = knob(2, "pieces of the held-out data, scored side by side", low=1, high=256)
    where: Literal["server", "parties"] = knob(
        "server",
        "of the test rows: common ones at the server, or each party's own",
        choices=("server", "parties"),
    )
    stop_after: int = knob(0, STOP, low=0)
    keep_best: bool = knob(False, BEST)

    def feasible(self, parties: int, bound: Bound) -> str:
        if self.parts > 1 and self.where == "server" and not getattr(bound.objective, "pieces", True):
            return (
                f"the task scores all test rows at once, and pieces of them ({self.parts}) have other scores, whose mean is none "
                "of the whole; evaluate.parts=1"
            )
        return super().feasible(parties, bound)
