"""Label skew by sorted shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedfm.cards.registry import knob, method
from fedfm.data.partition.deal import enough, kinds_of, named
from fedfm.data.source import Partition, stream


@method(
    "shards",
    slot="partition",
    section="II.B",
    survey=(13,),
    paper="McMahan et al., Communication-efficient learning of deep networks, AISTATS 2017",
)
@dataclass(frozen=True)
class LabelShards(Partition):
    """Label skew: rows sorted by label, cut into equal shards, a few random shards per party.

    No row is left over: where the rows do not divide, some shards have one more than the others.
    With as many rows per label as a shard holds (or more), a party sees at most 2 * shards_per_party labels.
    """

    parties: int = knob(10, "number of parties", low=1)
    shards_per_party: int = knob(2, "shards dealt to each party", low=1)

    def split(
        self, rows: Sequence[Mapping[str, Any]], labels: Sequence[str] | None, generator_seed: int
    ) -> dict[str, list[int]]:
        """Row numbers per party; sizes differ by at most shards_per_party. `DataError` without labels."""
        labels = kinds_of(rows, labels, "shards", "sort by")
        enough(len(rows), self.parties, self.shards_per_party, "shards")
        rng = stream(generator_seed, "shards")
        order = rng.permutation(len(rows))
        order = order[np.argsort(np.asarray(labels)[order], kind="stable")]
        pieces = np.array_split(order, self.parties * self.shards_per_party)
        hands = rng.permutation(len(pieces)).reshape(self.parties, self.shards_per_party)
        return named([[i for p in hand for i in pieces[p].tolist()] for hand in hands])
