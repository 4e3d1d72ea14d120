"""What a module gives for a row: that it reads the row, and that it needs no other rows of the batch for it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fedfm.tasks.bound import evaluating

NEAR, NEAR_HALF = 1e-3, 5e-2  # of the largest output: what arithmetic alone makes unlike
TOLD = 5e-2  # of the spread of the outputs


def reads(bound: Any, batch: Any) -> None:
    """Warn of a module whose outputs are the same for all rows, also where its weights are others than at the start."""
    if not isinstance(batch, tuple) or bool((batch[0] == batch[0][:1]).all()):
        return
    start = bound.read()
    bound.load(start + 0.1 * torch.randn(start.shape, generator=torch.Generator().manual_seed(0)))
    with evaluating(bound.module):
        out = bound.module(batch[0])
    bound.load(start)
    if isinstance(out, Tensor) and out.dim() and len(out) == len(batch[0]) and bool((out == out[:1]).all()):
        warnings.warn(
            "fedfm: the module gives the same output for every row, whatever its weights: it does not read them "
            "(a normalisation over too few values, a wrong index?)",
            UserWarning,
            stacklevel=2,
        )


def alone(bound: Any, encoded: Any) -> None:
    """Warn of a module that in evaluation gives a row something else when other rows stand beside it.

    It is asked as the loss asks it, and then for every other row of the same; also with weights a little other than at
    the start, where layers that begin with zeros hide it.
    """
    sizes = {n for t in encoded.tensors.values() for n in t.shape[1:]}
    n = next(
        (k for k in range(len(encoded), 3, -1) if k not in sizes), 0
    )  # so that axis 0 alone is of this size
    start = bound.read()
    for weights in (start, _beside(bound, start)) if n else ():
        bound.load(weights)
        if found := _unlike(bound, encoded, n):
            warnings.warn(
                f"fedfm: a row's output depends on the other rows of its batch, also in evaluation: {found}. Scores are told of "
                "rows scored together, and a row alone gets another output (batch_first=True? a norm without running "
                "statistics? a softmax or mean over axis 0?)",
                UserWarning,
                stacklevel=2,
            )
            break
    bound.load(start)


def _beside(bound: Any, start: Tensor) -> Tensor:
    """Weights near those of the start (layout.size,), none of them zero."""
    flat, draw = start.clone(), torch.Generator().manual_seed(0)
    views = bound.layout.views(flat)
    for name in (e.name for e in bound.layout.entries if e.trainable):
        spread = float(views[name].std()) if views[name].numel() > 1 else 0.0
        views[name].add_(0.1 * (spread or 1.0) * torch.randn(views[name].shape, generator=draw))
    return flat


def _unlike(bound: Any, encoded: Any, n: int) -> str:
    """How the outputs for every other one of n rows differ from those for all; empty: they do not, or nobody can say."""
    module, asked = bound.module, []
    hear = module.register_forward_pre_hook(
        lambda _, args, kwargs: asked.append((_each(args, n, 1), _each(kwargs, n, 1))), with_kwargs=True
    )
    try:
        with evaluating(module):
            bound.objective.losses(module, bound.batch(encoded, torch.arange(n)))
            hear.remove()
            (args, kwargs), *_ = asked
            whole, again = ([*_rows(module(*_each(args, n, 1), **_each(kwargs, n, 1)), n)] for _ in "12")
    except Exception:  # noqa: BLE001 - what a module raises on all of these rows, others tell
        return ""
    finally:
        hear.remove()
    if not all(torch.equal(a, b) for a, b in zip(whole, again, strict=False)) or not whole:
        return ""  # it draws at random, or holds what is no number
    try:
        with evaluating(module):
            half = [*_rows(module(*_each(args, n, 2), **_each(kwargs, n, 2)), (n + 1) // 2)]
    except Exception as e:  # noqa: BLE001 - whatever it is: of more rows it was none
        return (
            f"of {n} rows it gives some, of every other one alone it fails ({' '.join(str(e).split())[:150]})"
        )
    rough = any(t.dtype in (torch.float16, torch.bfloat16) for t in (*module.parameters(), *whole))
    for one, other in zip((t[::2] for t in whole), half, strict=False):
        one, other = one.double(), other.double()
        if one.shape != other.shape:
            continue
        apart = float((one - other).abs().max())
        limit = TOLD * float((one - one.mean(0)).abs().max())
        limit += (NEAR_HALF if rough else NEAR) * float(one.abs().max())
        if apart > limit:
            return f"for every other one of {n} rows it gives up to {apart:.3g} more or less than beside the rest"
    return ""


def _each(value: Any, n: int, step: int) -> Any:
    """Every `step`-th row of n in tensors, wherever they stand in what a module is given; copies."""
    if isinstance(value, Tensor):
        return value[::step].clone() if value.dim() and len(value) == n else value.clone()
    if isinstance(value, Mapping):
        return {k: _each(v, n, step) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_each(v, n, step) for v in value)
    return value


def _rows(out: Any, n: int) -> Iterator[Tensor]:
    """Tensors of numbers with n rows in what a module gives."""
    if isinstance(out, Tensor):
        if out.is_floating_point() and out.dim() and len(out) == n and out.numel():
            yield out
    elif isinstance(out, Mapping | list | tuple):
        for inner in out.values() if isinstance(out, Mapping) else out:
            yield from _rows(inner, n)
