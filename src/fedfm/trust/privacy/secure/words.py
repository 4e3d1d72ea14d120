"""What secure aggregation says: byte strings of equal length, as the rows of a tensor in a message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedfm.core.message import Message, raw


def message(_info: Mapping[str, Any] | None = None, **side: Tensor) -> Message:
    return Message(torch.empty(0), kind="secagg", side=side, info=_info or {})


def rows(rows: Sequence[bytes]) -> Tensor:
    """Byte strings of equal length as the rows of a uint8 tensor."""
    if not rows:
        return torch.empty(0, 0, dtype=torch.uint8)
    return torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.uint8).view(len(rows), -1)


def unrow(t: Tensor | None, count: int, width: int) -> list[bytes]:
    """The inverse of `rows`; raises ValueError unless there are `count` rows of `width` bytes."""
    if t is None or t.dtype != torch.uint8 or tuple(t.shape) != (count, width):
        raise ValueError(
            f"{count} rows of {width} bytes are expected, got "
            f"{None if t is None else (t.dtype, tuple(t.shape))}"
        )
    data = bytes(raw(t))
    return [data[k : k + width] for k in range(0, len(data), width)]


def usable(messages: Mapping[str, Message], name: str, count: int, width: int) -> dict[str, list[bytes]]:
    """The rows that each party sent; who sent something else is left out, and its session fails at the reply."""
    found = {}
    for i, m in messages.items():
        try:
            found[i] = unrow(m.side.get(name), count, width)
        except ValueError:
            continue
    return found
