"""The best round of a run by rows that are not reported: which it is, whether the run still gains, where its model lies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fedfm.core.protocols import Evaluator
from fedfm.core.state import freeze, thaw
from fedfm.files import write


class Best:
    """What is known of a run's rounds is in its records, so a resumed run knows the same.

    Rounds that are scored only because a run ended there count for that run alone: an extended run is equal to one
    that was never cut.
    """

    def __init__(self, evaluate: Evaluator, objective: Any, folder: Path):
        self.evaluate, self.folder = evaluate, folder / "checkpoints"
        self.name: str = objective.primary
        self._sign = 1.0 if objective.higher_is_better else -1.0
        self._worth: dict[int, float] = {}  # of the scored rounds; what is no number is worth nothing

    def see(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Take notice of scored rounds."""
        for r in records:
            if (scores := r.get("validation")) is not None:
                value = scores.get(self.name)
                known = value is not None and not math.isnan(value)
                self._worth[r["round"]] = self._sign * value if known else -math.inf

    def round(self, last: int = -1) -> int | None:
        """The best round, the first of equals; of those that a longer run would score too, and of `last`."""
        there = [k for k in self._worth if self._regular(k) or k == last]
        return max(there, key=lambda k: (self._worth[k], -k), default=None)

    def value(self, round: int) -> float:
        """Its score, in the metric's own sign."""
        return self._sign * self._worth[round]

    def stale(self, round: int) -> str:
        """Why no further round should begin after this one; empty: it should, or nobody asked."""
        best, after = self.round(), self.evaluate.stop_after
        if not after or best is None or not self._regular(round) or round - best < after:
            return ""
        return (
            f"no gain for {round - best} rounds: {self.name} {self.value(best):.4g} after round {best} was the best "
            "on the validation rows (evaluate.stop_after)"
        )

    # ---- its model --------------------------------------------------------------------------------------------
    def keep(self, round: int, model: Tensor) -> None:
        """Before a checkpoint: if this round is the best so far, its model lies beside those that were."""
        if self.evaluate.keep_best and round in self._named(round):
            write(self._path(round), freeze({"model": model}))

    def settle(self, round: int) -> None:
        """After a checkpoint: models of rounds that are the best no more can go."""
        for path in self.folder.glob("best-*.safetensors"):
            if path not in map(self._path, self._named(round)):
                path.unlink(missing_ok=True)

    def model(self, last: int) -> Tensor | None:
        """That of the best round, where it is kept. Raises ResumeError when its file is damaged or gone."""
        best = self.round(last) if self.evaluate.keep_best else None
        if best is None:
            return None
        found: Tensor = thaw(self._path(best))["model"]
        return found

    def _named(self, last: int) -> set[int]:
        return {k for k in (self.round(), self.round(last)) if k is not None}

    def _regular(self, round: int) -> bool:
        return round % self.evaluate.every == 0

    def _path(self, round: int) -> Path:
        return self.folder / f"best-{round:06d}.safetensors"
