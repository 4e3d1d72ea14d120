"""Features of a frozen encoder, computed once per row: training a head alone then costs next to nothing.

Rows are computed in chunks of similar length. Which rows share a chunk depends on the shard alone, never on the
batches drawn from it, so the bits are the same in every engine and after a resume.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedfm.tasks.ragged import Ragged

CHUNK = 16


class Features:
    """The features (n, width) of the rows of `tokens`; `compute` turns row numbers (k,) into features (k, width)."""

    def __init__(self, tokens: Ragged):
        self.tokens = tokens
        self._chunk: dict[int, Tensor] = {}
        self._row: dict[int, Tensor] = {}

    @classmethod
    def known(cls, found: Tensor) -> Features:
        """Features (n, width) that were computed before."""
        made = cls(Ragged.of([[] for _ in found]))
        made._row = dict(enumerate(found))
        return made

    def __call__(self, index: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        if not self._chunk and not self._row:
            self._chunk = {i: chunk for chunk in self.tokens.chunks(CHUNK) for i in chunk.tolist()}
        for i in index.tolist():
            if i not in self._row:
                with torch.no_grad():
                    self._row.update(zip(self._chunk[i].tolist(), compute(self._chunk[i]), strict=True))
        return torch.stack([self._row[i] for i in index.tolist()])
