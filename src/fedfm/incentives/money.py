"""Money is a whole number of minor units (cents) wherever it is divided or compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction


def exact(amount: float, decimals: int) -> Fraction:
    """`amount` in minor units, 10^-decimals, as the decimal it is written as: 0.57 is exactly 57 cents."""
    units: Fraction = Fraction(str(amount)) * 10**decimals
    return units


def units_up(amount: float, decimals: int) -> int:
    """The fewest minor units worth at least `amount`."""
    return math.ceil(exact(amount, decimals))


def units_down(amount: float, decimals: int) -> int:
    """The most minor units worth at most `amount`."""
    return math.floor(exact(amount, decimals))


def largest_remainder(weights: Sequence[Fraction], total: int) -> list[int]:
    """Whole shares of `total`, in proportion to `weights` (>= 0), that sum to it exactly.

    Each gets the floor of its exact share; the units left over go to the largest fractional parts, ties to
    the earlier position. A zero weight gets nothing, a larger weight never less, and nobody is off by a unit
    or more. All weights zero: all shares zero. (Hamilton's method.)
    """
    whole = sum(weights, Fraction(0))
    if whole <= 0:
        return [0] * len(weights)
    fair = [w * total / whole for w in weights]
    shares = [math.floor(f) for f in fair]
    by_rest = sorted(range(len(weights)), key=lambda k: (shares[k] - fair[k], k))
    for k in by_rest[: total - sum(shares)]:
        shares[k] += 1
    return shares
