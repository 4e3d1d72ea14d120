"""What the losses of torch are given inside a loss, also by one of the user's own: numbers on the scale that each reads?"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fedfm.core.errors import Problem
from fedfm.tasks.bound import evaluating
from fedfm.tasks.own.measures import LOG_READ, of_torch

SCORED = (functional.cross_entropy, functional.binary_cross_entropy_with_logits)
TRIES = 12  # other weights, ever farther from the start: scores leave any range, probabilities do not


class _Heard(TorchFunctionMode):
    """Keeps the first argument of each loss of torch that is called."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[Any, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (*SCORED, *LOG_READ):
            given = args[0] if args else kwargs.get("input")
            if isinstance(given, Tensor):
                self.given.append((func, given.detach().double()))
        return func(*args, **kwargs)


def misread(task: Any, bound: Any, batch: Any) -> Iterator[Problem]:
    """Refuse probabilities for a loss of torch that reads scores, whatever the weights; in a loss of one's own, warn of them,
    and of other numbers where it reads log-probabilities."""
    try:
        first = _heard(bound, batch)
    except Exception:  # noqa: BLE001 - compiled modules may not take it; what fails otherwise, the step tells
        return
    direct = task.loss is None or of_torch(task.loss)
    for func, what, why, fix in _faults(bound, batch, first):
        if direct and func is functional.binary_cross_entropy_with_logits:
            yield Problem("task.loss", what, why, fix + "; if it is meant: loss=lambda module, batch: ...")
        elif not direct or func is functional.cross_entropy:
            warnings.warn(
                f"fedfm: task.loss: {func.__name__} {what}: {why}; {fix}, if it is not meant",
                UserWarning,
                stacklevel=2,
            )


def _faults(bound: Any, batch: Any, first: list[tuple[Any, Tensor]]) -> list[tuple[Any, str, str, str]]:
    start = bound.read()
    found: dict[Any, tuple[Any, str, str, str]] = {}
    for func, given in first:
        if func in LOG_READ and not _sums_to_one(given.exp()):
            why = "of other numbers it falls without end, whatever is learnt"
            fix = "log_softmax(..., 1) of them, or cross_entropy"
            found[func] = (func, "reads log-probabilities, and is given other numbers", why, fix)
    at = {i for i, (func, given) in enumerate(first) if func in SCORED and _bounded(func, given)}
    trained = torch.zeros_like(start)
    for e in bound.layout.entries:
        trained[e.offset : e.offset + e.size] = float(e.trainable)
    generator = torch.Generator().manual_seed(0)
    try:
        for k in range(TRIES):
            if not at:
                break
            bound.load(start + 2.0 ** (k % 4) * trained * torch.randn(start.shape, generator=generator))
            again = _heard(bound, batch)
            at = {i for i in at if i < len(again) and _bounded(*again[i])}
    finally:
        bound.load(start)
    for func in {first[i][0] for i in at}:
        why = "it takes the softmax or sigmoid itself; after two of them its gradient is small, and it cannot reach 0"
        fix = "let the module give scores, without a softmax, sigmoid or logarithm of one"
        if func is functional.binary_cross_entropy_with_logits:
            fix += ", or take torch.nn.BCELoss() of probabilities"
        found[func] = (func, "reads scores, and is given probabilities or their logarithms", why, fix)
    return list(found.values())


def _heard(bound: Any, batch: Any) -> list[tuple[Any, Tensor]]:
    heard = _Heard()
    with evaluating(bound.module), heard:
        bound.objective.losses(bound.module, batch)
    return heard.given


def _bounded(func: Any, given: Tensor) -> bool:
    """All in 0..1, or the logarithms of such that sum to one: those are scores too where the softmax is taken again."""
    unit = bool(((given >= 0) & (given <= 1)).all())
    return unit or (
        func is not functional.cross_entropy
        and given.dim() > 1
        and _sums_to_one(given.exp())
        and bool((given <= 0).all())
    )


def _sums_to_one(found: Tensor) -> bool:
    axes = range(1, found.dim()) if found.dim() > 1 else range(found.dim())
    sums = [found.sum(i) for i in axes]
    return any(torch.allclose(s, torch.ones_like(s), atol=1e-3) for s in sums)
