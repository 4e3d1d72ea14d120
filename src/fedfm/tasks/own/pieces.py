"""Losses and scores that a person brings, taken of pieces of the rows: are they what the pieces say when put together?

The outputs of the module are replaced by drawn ones, as those of a new module may be all alike.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedfm.core.errors import Problem
from fedfm.tasks.own.measures import of_torch

ROWS = 32  # of few rows some stand for several: of eight, many an F1 or AUC is the mean of its pieces
DRAWS = 6


def uneven(loss: Any, module: nn.Module, batch: Any, out: Any) -> None:
    """Warn of a loss that is no mean over rows: pairs and weights mix them, and the value told depends on the pieces."""
    known = of_torch(loss) and type(loss).__module__.startswith("torch.") or inspect.isbuiltin(loss)
    if loss is None or known or str(getattr(loss, "__module__", "")).startswith("torch."):
        return
    ours: Any = (lambda m, b: loss(m(b[0]), b[1])) if isinstance(loss, nn.Module) else loss
    if (found := _parted(ours, module, batch, out)) is not None:
        warnings.warn(
            f"fedfm: task.loss is no mean over rows: it gives {found[0]:.4g} for {len(batch[1])} rows and, for two pieces of them, "
            f"numbers whose mean is {found[1]:.4g}. The loss told depends on evaluate.parts, a step on client.micro_batch; give "
            "one value a row (n,), weights of classes as loss=nn.CrossEntropyLoss(weight=...), or scores to judge by",
            UserWarning,
            stacklevel=2,
        )


def lumped(scores: Mapping[str, Any], module: nn.Module, batch: Any, out: Any) -> Iterator[Problem]:
    """A score given as one number that is no mean over rows (F1, AUC, a root): pieces of it cannot be put together."""
    for name, measure in scores.items():
        if (found := _parted(measure, module, batch, out)) is not None:
            yield Problem(
                f"task.scores[{name!r}]",
                f"gives {found[0]:.4g} for {len(batch[1])} rows and, for two pieces of them, numbers whose mean is {found[1]:.4g}",
                "rows are scored in pieces whose numbers are averaged: only the mean of something over rows survives it",
                "one value a row (n,) whose mean is the score (squared errors for a root); for F1 or AUC an evaluator "
                "of your own that adds up counts (fedfm new evaluate NAME)",
            )


def _parted(measure: Any, module: nn.Module, batch: Any, out: Any) -> tuple[float, float] | None:
    """A lone number of all rows, and the mean of those of two pieces, where they differ for some drawn outputs."""
    if not isinstance(out, Tensor) or not out.is_floating_point() or len(batch[1]) < 4:
        return None
    x, y, out = _several(batch, out)
    n, draw = len(y), torch.Generator().manual_seed(0)
    for k, first in itertools.product(range(DRAWS), (n // 2, n // 4, 1)):
        noise = torch.randn(out.shape, generator=draw).to(out)
        given, wanted = (noise if k % 2 else out + noise.abs()), _both(y, out, draw) if k > 1 else y
        pieces = [slice(0, n), slice(0, first), slice(first, n)]
        found = _of_pieces(measure, module, (x, wanted), given, pieces)
        if found is None or not all(map(math.isfinite, found)):
            continue
        whole, parts = found[0], (found[1] * first + found[2] * (n - first)) / n
        if not math.isclose(whole, parts, rel_tol=1e-3, abs_tol=1e-6):
            return whole, parts
    return None


def _both(y: Tensor, out: Tensor, draw: torch.Generator) -> Tensor:
    """Targets of all classes, where they are class numbers, else of both signs: of few rows all may be alike."""
    classes = out.shape[1] if out.dim() == 2 and out.shape[1] > 1 else 2
    number = y.to(torch.uint8) if y.dtype == torch.bool else y
    if bool(((number == number.floor()) & (number >= 0) & (number < classes)).all()):
        return torch.randint(classes, y.shape, generator=draw).to(y)
    return torch.randn(y.shape, generator=draw).to(y) * y.abs().max() if y.is_floating_point() else y


@contextlib.contextmanager
def _answering(module: nn.Module, answer: Any) -> Iterator[None]:
    """The module gives what `answer` says, without computing."""
    own = vars(module).get("forward")
    vars(module)["forward"] = lambda *_, **__: answer()
    try:
        yield
    finally:
        del vars(module)["forward"]
        if own is not None:
            vars(module)["forward"] = own


def _of_pieces(
    measure: Any, module: nn.Module, batch: tuple[Any, Any], given: Tensor, pieces: Sequence[slice]
) -> list[float] | None:
    """A measure of each piece of the rows, with the outputs replaced by `given`; None where it gives no lone number."""
    rows, found = slice(0, 0), []
    try:
        with warnings.catch_warnings(), _answering(module, lambda: given[rows].clone()):
            warnings.simplefilter("ignore")  # of a class that a piece has no row of
            for rows in pieces:
                value = torch.as_tensor(measure(module, (batch[0][rows], batch[1][rows])))
                if value.dim():
                    return None
                found.append(float(value))
    except Exception:  # noqa: BLE001 - nobody can list what measures of strangers raise on a few rows
        return None
    return found


def mixing(asked: Mapping[str, Any], module: nn.Module, batch: Any, out: Any) -> Iterator[Problem]:
    """A measure of one's own in which torch pairs every output with every target, as (n, 1) beside (n,) does.

    It is one when targets of the shape of the outputs give the mean over the rows, and those as they are do not.
    """
    if not isinstance(out, Tensor) or _fitting(batch[1], out) is None:
        return
    x, y, out = _several(batch, out)
    fix = (
        "module(x).reshape(y.shape) in it"
        if out.numel() == y.numel()
        else "y.squeeze(1) in it, or targets (n,)"
    )
    for where, measure in asked.items():

        def mean(module: nn.Module, batch: Any, measure: Any = measure) -> Tensor:
            return torch.as_tensor(measure(module, batch)).double().mean()

        told, rows = _paired(mean, module, (x, y), out)
        if told != rows:
            n = len(batch[1])
            yield Problem(
                where,
                f"gives {told:.4g} for {len(y)} rows whose own values have the mean {rows:.4g}",
                f"outputs {(n, *out.shape[1:])} beside targets {(n, *y.shape[1:])} are paired each with each, and the "
                "module would learn the mean of the targets",
                fix,
            )


def _fitting(y: Tensor, out: Tensor) -> Tensor | None:
    """Targets in the shape that pairs each row with its own; None where they have it, or there is none."""
    if out.shape == y.shape or not out.dim() or len(out) != len(y):
        return None
    if out.numel() == y.numel() == len(y):
        return y.reshape(out.shape)
    return y[:, 0] if y.dim() == 2 and y.shape[1] == 1 and out.dim() == 2 else None


def _several(batch: Any, out: Tensor) -> tuple[Any, Tensor, Tensor]:
    """Inputs, targets and outputs, of few rows some several times."""
    some = torch.arange(max(ROWS, len(batch[1]))) % len(batch[1])
    return batch[0][some], batch[1][some], out[some]


def _paired(mean: Any, module: nn.Module, batch: Any, out: Tensor) -> tuple[float, float]:
    """What a measure says of rows together and of each alone, where only the shapes of the targets make them unlike."""
    (x, y), n = batch, len(batch[1])
    every, each = [slice(0, n)], [slice(i, i + 1) for i in range(n)]
    draw = torch.Generator().manual_seed(0)
    for k in range(DRAWS):
        noise = torch.rand(out.shape, generator=draw).to(out)
        given = (
            torch.randn(out.shape, generator=draw).to(out) if k % 2 else out + noise * (0.1 + 0.1 * out.abs())
        )
        wanted = _both(y, out, draw) if k > 1 else y
        found = _of_pieces(mean, module, (x, wanted), given, every)
        right = _of_pieces(mean, module, (x, _fitting(wanted, out)), given, every)
        alone = _of_pieces(mean, module, (x, wanted), given, each)
        if not (found and right and alone):
            continue
        told, rows = found[0], sum(alone) / n
        if math.isclose(right[0], rows, rel_tol=1e-4) and not math.isclose(told, rows, rel_tol=1e-3):
            return told, rows
    return 0.0, 0.0
