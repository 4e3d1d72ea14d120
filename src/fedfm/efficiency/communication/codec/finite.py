"""No codec takes NaN or Inf: a broken client must fail loudly, not become plausible bytes."""

from __future__ import annotations

from torch import Tensor

from fedfm.core.errors import ClientFailed


def finite(x: Tensor, codec: str) -> Tensor:
    """`x` itself; raises ClientFailed when a value is not finite."""
    if x.is_floating_point() and not bool(x.isfinite().all()):
        bad = int((~x.isfinite()).sum())
        raise ClientFailed(
            f"{codec}: {bad} of {x.numel()} values are NaN or Inf and cannot be encoded; lower the "
            "learning rate or look at this party's data"
        )
    return x
