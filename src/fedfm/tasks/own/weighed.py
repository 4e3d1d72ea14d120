"""Cross-entropies of torch that divide by weights, not by rows: what their means of pieces are put together by."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional


def weighed(loss: Any, module: nn.Module, batch: Any) -> tuple[Tensor, Tensor] | None:
    """Losses and weights, summed over each row (n,), under a cross-entropy whose mean is over weights; None: over rows.

    Torch divides by the weights of the classes that are there, and by the targets that `ignore_index` does not leave out:
    means of pieces of the rows cannot be put together, these sums can.
    """
    weights = weights_of(loss, batch)
    if weights is None:
        return None
    given = module(batch[0])
    crossed = loss is functional.cross_entropy or isinstance(loss, nn.CrossEntropyLoss)
    classes: Any = getattr(loss, "weight", None)
    more: dict[str, Any] = {"ignore_index": getattr(loss, "ignore_index", -100), "reduction": "none"}
    more |= {"label_smoothing": loss.label_smoothing} if isinstance(loss, nn.CrossEntropyLoss) else {}
    measure = functional.cross_entropy if crossed else functional.nll_loss
    each = measure(given, batch[1], None if classes is None else classes.to(given), **more)
    return each.reshape(len(each), -1).sum(1), weights.to(each)


def weights_of(loss: Any, batch: Any) -> Tensor | None:
    """What the mean of a cross-entropy of torch divides by, summed over each row (n,); None: by the rows."""
    if loss not in (functional.cross_entropy, functional.nll_loss) and not isinstance(
        loss, nn.CrossEntropyLoss | nn.NLLLoss
    ):
        return None
    wanted, classes = batch[1], getattr(loss, "weight", None)
    left = wanted != getattr(loss, "ignore_index", -100)
    if wanted.is_floating_point() or (classes is None and wanted.dim() == 1 and bool(left.all())):
        return None
    kept: Tensor = left.float() if classes is None else left * classes.to(wanted.device)[wanted.clamp(min=0)]
    return kept.reshape(len(kept), -1).sum(1)
