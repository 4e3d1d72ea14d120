"""Label skew by Dirichlet draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedfm.cards.registry import knob, method
from fedfm.core.errors import DataError
from fedfm.data.partition.deal import enough, kinds_of, named
from fedfm.data.source import Partition, stream

_DRAWS = 50


@method(
    "dirichlet",
    slot="partition",
    section="II.B",
    survey=(200,),
    paper="Yurochkin et al., Bayesian nonparametric federated learning of neural networks, ICML 2019",
    departs="after 50 draws below min_rows, rows move from the largest parties to the small ones",
    also=("label-skew", "non-iid", "noniid", "lda"),
)
@dataclass(frozen=True)
class Dirichlet(Partition):
    """Label skew: each label is shared out by its own draw from Dirichlet(alpha).

    For label c, p ~ Dir(alpha, ..., alpha) over the parties; party k gets the share p_k of the rows of c.
    alpha -> infinity gives every party the global mix; alpha -> 0 gives each label to one party. Sizes
    differ too.
    """

    alpha: float = knob(0.5, "concentration; small is skewed, 100 is nearly even", low=1e-3)
    parties: int = knob(8, "number of parties", low=1)
    min_rows: int = knob(10, "no party has fewer rows than this", low=1)

    def split(
        self, rows: Sequence[Mapping[str, Any]], labels: Sequence[str] | None, generator_seed: int
    ) -> dict[str, list[int]]:
        """Row numbers per party; raises `DataError` without labels or with too few rows."""
        labels = kinds_of(rows, labels, "dirichlet", "skew")
        enough(len(rows), self.parties, self.min_rows, "dirichlet")
        if self.alpha <= 0:
            raise DataError(f"dirichlet: alpha is {self.alpha}; it must be above 0")
        rng = stream(generator_seed, "dirichlet")
        names = np.asarray(labels)
        by_label = [np.flatnonzero(names == name) for name in sorted(set(labels))]
        for _ in range(_DRAWS):
            pieces: list[list[int]] = [[] for _ in range(self.parties)]
            for index in by_label:
                shares = rng.dirichlet(np.full(self.parties, self.alpha))
                ends = (np.cumsum(shares)[:-1] * len(index)).round().astype(int)
                for piece, part in zip(pieces, np.split(rng.permutation(index), ends), strict=True):
                    piece.extend(part.tolist())
            if min(map(len, pieces)) >= self.min_rows:
                return named(pieces)
        return named(_level(pieces, self.min_rows, rng))


def _level(pieces: list[list[int]], least: int, rng: np.random.Generator) -> list[list[int]]:
    """Move random rows from whoever has most to whoever is below `least`."""
    for piece in pieces:
        while len(piece) < least:
            donor = max(pieces, key=len)
            piece.append(donor.pop(int(rng.integers(len(donor)))))
    return pieces
