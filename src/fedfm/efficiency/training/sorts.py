"""The two sorts of numbers in a server's vector: weights, which it steps, and buffers, which become their mean."""

from __future__ import annotations

from torch import Tensor

from fedfm.core.tree import Layout


def apart(x: Tensor, layout: Layout | None) -> tuple[Tensor, Tensor]:
    """Weights and buffers of `x` (size,); all are weights where no layout says otherwise."""
    if layout is None or not layout.mixed:
        return x, x[:0]
    return layout.weights(x), layout.buffers(x)


def together(weights: Tensor, buffers: Tensor, layout: Layout | None) -> Tensor:
    """The inverse of `apart`."""
    return weights if layout is None or not layout.mixed else layout.whole(weights, buffers)
