"""The global generators that a trainer draws from (Python's, numpy's, torch's): where they stand, and back to it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from fedfm.core.protocols import State


def standing() -> State:
    """Where they stand, as numbers and tensors."""
    version, words, gauss = random.getstate()
    _, keys, at, has_gauss, cached = np.random.get_state(legacy=True)
    found: State = {
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "keys": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            "at": int(at),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found["cuda"] = torch.cuda.get_rng_state()
    return found


def put(where: State) -> None:
    """Let them stand there; a card that this process does not use is left as it is."""
    python, numpy = where["python"], where["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, numpy["at"], numpy["has_gauss"], numpy["cached"]))
    torch.set_rng_state(where["torch"])
    if "cuda" in where and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.set_rng_state(where["cuda"])


@contextlib.contextmanager
def aside(seed: int | None = None) -> Iterator[None]:
    """Put aside while somebody else draws (from `seed`, if there is one), and afterwards where they stood."""
    before = standing()
    try:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.default_generator.manual_seed(seed)
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.manual_seed_all(seed)
        yield
    finally:
        put(before)
