"""Where the model of a federation is, and how that device computes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

from fedfm.core.federation import Federation

T = TypeVar("T")
INEXACT = "deterministic implementation"  # of torch's words where it has no such kernel


def forks(fed: Federation) -> bool:
    """Does the engine fork this process?"""
    return bool(getattr(fed.engine, "forks", False))  # an engine's spec has no base class


def place(fed: Federation) -> str:
    """`cpu` or `cuda`: auto takes a visible GPU, unless the engine forks, which a process that uses CUDA cannot."""
    if fed.device != "auto":
        return fed.device
    return "cuda" if torch.cuda.is_available() and not forks(fed) else "cpu"


def forked() -> None:
    """Called in a fork: there is no GPU here. Optimisers ask for one and would start CUDA, which a fork cannot."""
    torch.cuda.is_available = lambda: False


def settled(fed: Federation) -> str:
    """`place`, and torch told to compute there what it would compute again: the same bits for the same seed.

    On CUDA: deterministic kernels only, and float32 that is not rounded to TF32 in convolutions either.
    """
    device = place(fed)
    if device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first product
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # shows nobody a bug
        torch.backends.cudnn.allow_tf32 = False
    return device


def tried(step: Callable[[], T]) -> T:
    """The result of a first step; a network that has no deterministic kernel for something works without them."""
    try:
        return step()
    except RuntimeError as e:
        if INEXACT not in str(e):
            raise
        why = str(e).split(".")[0].split(", but")[0]
        warnings.warn(
            f"this run may not give the same bits again: {why}; device=cpu does", UserWarning, stacklevel=2
        )
        torch.use_deterministic_algorithms(True, warn_only=True)
        return step()
