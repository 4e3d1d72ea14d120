"""Where the model of a federation is, and how that device computes."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

from fedfm.core.errors import ConfigError, Problem
from fedfm.core.federation import Federation

T = TypeVar("T")
PLACES = ("auto", "cpu", "cuda")
INEXACT = "deterministic implementation"  # of torch's words where it has no such kernel


def forks(fed: Federation) -> bool:
    """Does the engine fork this process?"""
    return bool(getattr(fed.engine, "forks", False))  # an engine's spec has no base class


def unknown(fed: Federation) -> Problem | None:
    """What is wrong with the word that says where to compute; which devices this machine has is another question."""
    if fed.device in PLACES:
        return None
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    card = re.fullmatch(r"cuda:(\d{1,3})", str(fed.device))
    fix = "device=auto"
    if card:
        fix = f"CUDA_VISIBLE_DEVICES={card[1]} in the environment, and device=cuda" if cards else "device=cpu"
    return Problem(
        "device",
        f"'{str(fed.device)[:80]}' is no device of a federation",
        f"one of {', '.join(PLACES)} is expected; here are the CPU and "
        + (f"{cards} CUDA device{'s' * (cards > 1)}" if cards else "no CUDA device"),
        fix,
    )


def place(fed: Federation) -> str:
    """`cpu` or `cuda`: auto takes a visible GPU, unless the engine forks, which a process that uses CUDA cannot."""
    if problem := unknown(fed):
        raise ConfigError([problem])
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
