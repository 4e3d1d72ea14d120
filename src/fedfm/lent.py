"""What work in a process of somebody else's changes on the way, and gives back: its generators, and an environment variable."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator, Sequence
from typing import Any

PARALLEL = "TOKENIZERS_PARALLELISM"  # of tokenizers, whose thread pool does not survive a fork


@contextlib.contextmanager
def given_back(cards: Sequence[int] = ()) -> Iterator[None]:
    """The generators of Python, numpy and torch (of these CUDA devices too) are afterwards where they were, so is `PARALLEL`."""
    import numpy as np
    import torch

    drawn: Any = np.random.get_state()
    before = os.environ.get(PARALLEL)
    try:
        with undrawn(), torch.random.fork_rng(devices=list(cards)):
            yield
    finally:
        np.random.set_state(drawn)
        if before is None:
            os.environ.pop(PARALLEL, None)
        else:
            os.environ[PARALLEL] = before


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Python's generator is afterwards where it was: libraries draw from it when they are imported."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
