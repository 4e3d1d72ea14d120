"""Shamir's secret sharing over the prime field of 2^521 - 1: any t shares give the secret, fewer give nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

PRIME = 2**521 - 1  # a Mersenne prime: room for every 32-byte secret without a wrap
WIDTH = 66  # bytes of one share


def split(secret: bytes, threshold: int, count: int, draw: Callable[[int], bytes]) -> list[bytes]:
    """`count` shares of `secret` (at most 65 bytes), for x = 1, 2, ...; `draw(n)` gives n random bytes."""
    value = int.from_bytes(secret, "big")
    if not value < PRIME or not 1 <= threshold <= count:
        raise ValueError(f"{len(secret)} bytes cannot be shared {threshold} of {count}")
    coefficients = [_element(draw) for _ in range(threshold - 1)]
    shares = []
    for x in range(1, count + 1):
        y = 0
        for c in coefficients:  # Horner, highest power first
            y = (y + c) * x % PRIME
        shares.append(((y + value) % PRIME).to_bytes(WIDTH, "big"))
    return shares


def join(shares: Mapping[int, bytes], size: int) -> bytes:
    """The secret of `size` bytes from the shares by x; raises ValueError when they do not belong together."""
    weights = _weights(tuple(shares))
    value = sum(w * int.from_bytes(s, "big") for w, s in zip(weights, shares.values(), strict=True)) % PRIME
    if value >= 1 << (8 * size):
        raise ValueError("these shares are not of one secret")
    return value.to_bytes(size, "big")


@functools.lru_cache(maxsize=64)
def _weights(xs: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's weights at 0."""
    weights = []
    for i in xs:
        above = below = 1
        for j in xs:
            if j != i:
                above, below = above * j % PRIME, below * (j - i) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(weights)


def _element(draw: Callable[[int], bytes]) -> int:
    """A uniform element of the field, by rejection."""
    while True:
        if (value := int.from_bytes(draw(WIDTH), "big") >> (8 * WIDTH - 521)) < PRIME:
            return value
