"""The even partition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedfm.cards.registry import knob, method
from fedfm.data.partition.deal import cut, enough
from fedfm.data.source import Partition, stream


@method("iid", slot="partition", section="II.B", survey=(13,))
@dataclass(frozen=True)
class Iid(Partition):
    """No skew: a random deal in which sizes differ by at most one row."""

    parties: int = knob(8, "number of parties", low=1)

    def split(
        self, rows: Sequence[Mapping[str, Any]], labels: Sequence[str] | None, generator_seed: int
    ) -> dict[str, list[int]]:
        """Row numbers per party; raises `DataError` when there are fewer rows than parties."""
        enough(len(rows), self.parties, 1, "iid")
        order = stream(generator_seed, "iid").permutation(len(rows))
        return cut(order, np.array([len(p) for p in np.array_split(order, self.parties)]))
