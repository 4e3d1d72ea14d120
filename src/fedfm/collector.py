"""Python's collector of cycles, in a process that is fedfm's own (the command line; never somebody's notebook)."""

from __future__ import annotations

import gc

EVERY = 10_000  # new containers between two looks; Python's own 700 costs a start 0.4 s, for imports make no garbage


def rarely() -> None:
    """Look for cycles less often, and from then on."""
    gc.set_threshold(EVERY, *gc.get_threshold()[1:])
