"""Quantity skew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedfm.cards.registry import knob, method
from fedfm.core.errors import DataError
from fedfm.data.partition.deal import apportion, cut, enough, mixed_order
from fedfm.data.source import Partition, stream


@method(
    "quantity",
    slot="partition",
    section="II.B",
    survey=(200,),
    paper="Li et al., Federated learning on non-IID data silos: an experimental study, ICDE 2022",
    departs="labels are balanced within each party, where the paper leaves them to chance",
)
@dataclass(frozen=True)
class Quantity(Partition):
    """Quantity skew: sizes drawn from Dirichlet(alpha), labels mixed alike everywhere.

    Every party has at least one row; the others are shared out by the draw, to the row.
    """

    parties: int = knob(8, "number of parties", low=1)
    alpha: float = knob(0.5, "concentration of the sizes; small is skewed", low=1e-3)

    def split(
        self, rows: Sequence[Mapping[str, Any]], labels: Sequence[str] | None, generator_seed: int
    ) -> dict[str, list[int]]:
        """Row numbers per party, at least one each; raises `DataError` with fewer rows than parties."""
        enough(len(rows), self.parties, 1, "quantity")
        if self.alpha <= 0:
            raise DataError(f"quantity: alpha is {self.alpha}; it must be above 0")
        rng = stream(generator_seed, "quantity")
        shares = rng.dirichlet(np.full(self.parties, self.alpha))
        sizes = 1 + apportion(shares, len(rows) - self.parties)
        return cut(mixed_order(len(rows), labels, rng), sizes)
