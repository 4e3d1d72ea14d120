"""Epsilons worked out a second time, by hand: no code of the package, none of dp-accounting.

Whole Gaussian releases in closed form; sampled ones by composing their privacy loss on a grid, with every loss rounded
down and up, so that the true figure lies between; zero-concentrated ones by the best Renyi order.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.special import ndtr


def whole(k: float, z: float, rounds: int, delta: float) -> float:
    """One party moves each of `rounds` sums by k C, the noise is z C (Balle and Wang 2018, theorem 8)."""
    mu = k * math.sqrt(rounds) / z

    def phi(x: float) -> float:  # far tails too, which e^epsilon makes large
        return 0.5 * math.erfc(-x / math.sqrt(2.0))

    def spent(eps: float) -> float:
        return phi(mu / 2 - eps / mu) - math.exp(eps) * phi(-mu / 2 - eps / mu)

    low, high = 0.0, 400.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) > delta else (low, middle)
    return high


def sampled(q: float, z: float, rounds: int, delta: float, change: str) -> tuple[float, float]:
    """(at least, at most): Poisson with rate q. The sum without the party lies at 0, with it at C; replaced, at -C."""
    joined = ((1 - q, 0.0), (q, 1.0))
    other = ((1 - q, 0.0), (q, -1.0)) if change == "replace-one" else ((1.0, 0.0),)
    pairs = ((joined, other), (other, joined))
    each = [[_composed(p, r, z, rounds, delta, up) for p, r in pairs] for up in (False, True)]
    return max(each[0]), max(each[1])


Mixture = tuple[tuple[float, float], ...]


def _composed(
    p: Mixture, r: Mixture, z: float, rounds: int, delta: float, up: bool, step: float = 2e-4
) -> float:
    x = np.linspace(-1 - 13 * z, 1 + 13 * z, 200_001)
    mass = np.diff(sum(w * ndtr(torch.from_numpy((x - m) / z)).numpy() for w, m in p))
    loss = _log(p, x, z) - _log(r, x, z)  # monotone in x for these pairs
    ends = np.stack([loss[:-1], loss[1:]]) / step
    cells = (np.ceil(ends.max(0)) if up else np.floor(ends.min(0))).astype(np.int64)
    size = 1 << 19
    pmf = np.bincount(cells % size, weights=mass, minlength=size)
    many = np.fft.irfft(np.fft.rfft(pmf) ** rounds, size).clip(0.0)[: size // 2]  # of losses from 0 up
    losses, low, high = np.arange(size // 2) * step, 0.0, size // 2 * step
    for _ in range(40):
        eps = (low + high) / 2
        beyond = losses > eps
        spent = float((many[beyond] * -np.expm1(eps - losses[beyond])).sum())
        low, high = (eps, high) if spent > delta else (low, eps)
    return high


def _log(mixture: Mixture, x: np.ndarray, z: float) -> np.ndarray:
    terms = [math.log(w) - (x - m) ** 2 / (2 * z * z) for w, m in mixture]
    found: np.ndarray = np.logaddexp.reduce(terms)
    return found


def concentrated(rho: float, delta: float) -> float:
    """rho-zCDP as (epsilon, delta): the best Renyi order a > 1 (Canonne, Kamath, Steinke 2020, proposition 12)."""
    a = 1.0 + np.logspace(-3, 4, 200_000)
    return float((rho * a + np.log1p(-1 / a) - (math.log(delta) + np.log(a)) / (a - 1)).min())
