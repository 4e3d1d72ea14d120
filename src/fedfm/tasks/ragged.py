"""Token sequences of different lengths in one flat tensor: padded only when a batch is made, to its longest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Ragged:
    """`tokens` (total,) int32; sequence i is `tokens[starts[i]:starts[i + 1]]`."""

    tokens: Tensor
    starts: Tensor

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> Ragged:
        flat = torch.tensor([t for s in sequences for t in s], dtype=torch.int32)
        lengths = torch.tensor([0, *map(len, sequences)])
        return cls(flat, lengths.cumsum(0))

    def __len__(self) -> int:
        return self.starts.numel() - 1

    @property
    def lengths(self) -> Tensor:
        return self.starts.diff()

    def __getitem__(self, i: int) -> list[int]:
        found: list[int] = self.tokens[self.starts[i] : self.starts[i + 1]].tolist()
        return found

    def padded(self, index: Tensor, pad: int, *, left: bool = False) -> tuple[Tensor, Tensor]:
        """Token ids (n, longest) and the attention mask (same shape, int64) of some sequences."""
        lengths = self.lengths[index][:, None]
        width = int(lengths.max()) if len(index) else 0
        place = torch.arange(width)[None] - (width - lengths if left else 0)
        mask = (place >= 0) & (place < lengths)
        ids = self.tokens[
            (self.starts[index][:, None] + place).clamp(0, max(0, self.tokens.numel() - 1))
        ].long()
        return ids.masked_fill(~mask, pad), mask.long()

    def chunks(self, size: int, ties: Sequence[object] = ()) -> Iterator[Tensor]:
        """Indices in chunks of similar length. Which sequences meet depends on the sequences, not on their order."""
        ties = ties or [0] * len(self)
        order = sorted(
            range(len(self)), key=lambda i: (int(self.starts[i + 1] - self.starts[i]), self[i], ties[i])
        )
        for at in range(0, len(order), size):
            yield torch.tensor(order[at : at + size])
