"""Distributed differential privacy: every party adds its share of integer noise, and only the sum is ever seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx, Noise
from fedfm.core.errors import ClientFailed
from fedfm.core.protocols import Bound, State
from fedfm.trust.privacy.mechanism.clipping import clip
from fedfm.trust.privacy.mechanism.promise import CHANGES, Promise
from fedfm.vectors.layout import Layout

SLACK = 1.02  # what rounding may add to the sensitivity: the grid is made fine enough for it
COARSEST = (
    16.0  # a share's standard deviation in grid steps: below 4 a sum of discrete Gaussians is no Gaussian
)
FINEST = 4096.0  # above, the sampler's integers would leave 62 bits
EXACT = 2.0**24  # grid steps that fp32 holds exactly
CHUNK = 1 << 16


@method(
    "discrete-gaussian",
    slot="wire",
    section="V.B",
    survey=(211, 225),
    paper="Kairouz, Liu, Steinke: The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure "
    "Aggregation, ICML 2021",
    departs="no rotation and no small modulus, because the ring of secagg has 64 bits: the sum never wraps",
    atlas=("dp-noise", "secagg"),
)
@dataclass(frozen=True)
class DiscreteGaussian(Promise):
    """Clip to C, round to a grid, add discrete Gaussian noise of variance (z C)^2 / `shares`: the server needs no trust.

    Under `secagg` the server sees the sum alone, with noise of standard deviation z C or more as long as `shares` honest
    parties delivered. Rounding is random, unbiased, and redrawn until the rounded update is at most 1.02 C long
    (theorem 1); so each release is rho-zCDP with rho = (1.02 k)^2 / (2 z^2), k = 1, or 2 under replace-one. The sum of
    n discrete Gaussians is no discrete Gaussian: their distance, tau = 10 sum exp(-2 (pi s)^2 k / (k + 1)), is below
    1e-500 at s = 16 grid steps. The server sees who took part, so nothing is amplified.
    """

    shares: int = knob(3, "fewest honest parties whose noise must suffice: at most secagg's threshold", low=1)
    relation: str = knob("zero-out", "what the guarantee hides of a party", choices=CHANGES)

    linear: ClassVar[bool] = True
    after_sum: ClassVar[bool] = True
    step: ClassVar[float] = 2.0**-24
    covers: ClassVar[frozenset[str]] = frozenset({"x"})

    @property
    def against(self) -> str:  # type: ignore[override]
        return "server" if self.promises else ""

    def event(self) -> Mapping[str, Any]:
        k = 2.0 if self.relation == "replace-one" else 1.0
        return {"ZCDpEvent": {"rho": 0.5 * (SLACK * k / self.noise) ** 2}}

    def feasible(self, parties: int, bound: Bound) -> str:
        """Why it cannot act on this model; empty: it can."""
        why = super().feasible(parties, bound)
        return why or (self._grid(bound.layout.trainable)[1] if self.noise_multiplier else "")

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        """Clip, round, add this party's share; fp32 multiples of the grid come back. ClientFailed on NaN or Inf."""
        y, noise = clip(x, self.clip_norm, ctx.client), ctx.noise("discrete-gaussian", self.real_noise)
        if self.noise == 0 or not y.numel():
            return y, {}, state
        layout = ctx.layout if ctx.layout is not None and ctx.layout.size == y.numel() else None
        d = layout.trainable if layout is not None else y.numel()  # padding is 0, and rounds to 0
        grid, why = self._grid(d)
        if why:
            raise ClientFailed(why)
        out = rounded(y.double() / grid, self._longest(d, grid), noise)
        variance = math.ceil((self.std / grid) ** 2 / self.shares)
        for at in range(0, out.numel(), CHUNK):
            out[at : at + CHUNK] += discrete_gaussian(out[at : at + CHUNK].numel(), variance, noise)
        if not int(out.abs().max()) < EXACT:  # rarer than 1e-300, and it would be no sum of integers
            raise ClientFailed(f"{ctx.client} has a value beyond the grid of discrete-gaussian")
        return _blank(out.float() * grid, layout), {}, state

    def decode(self, x: Tensor, side: Mapping[str, Tensor], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        return x, state

    def decode_sum(self, x: Tensor, host: State, ctx: Ctx) -> Tensor:
        """The sum as it is: its noise is in it."""
        if self.noise:
            self.announce(ctx)
        return x

    def _grid(self, d: int) -> tuple[float, str]:
        """The largest power of two at which rounding d values costs no more than SLACK; or why there is none."""
        share, g = self.std / math.sqrt(self.shares), 2.0 ** math.floor(math.log2(self.clip_norm))
        while self._longest(d, g) * g > SLACK * self.clip_norm or share / g < COARSEST:
            g /= 2.0
        if share / g > FINEST or g < self.step or self.clip_norm / g + 40 * share / g > EXACT:
            return g, (
                f"discrete-gaussian: {d} values clipped to {self.clip_norm:g} need a grid of {g:g}, on which a share of the "
                f"noise is {share / g:.0f} steps (at most {FINEST:g}); take fewer trained values, more shares, or less noise"
            )
        return g, ""

    def _longest(self, d: int, g: float) -> float:
        """The L2 norm, in grid steps, up to which a rounded update is accepted (equation 4 with beta = e^-1/2)."""
        c, root = self.clip_norm / g, math.sqrt(d)
        return min(c + root, math.sqrt(c * c + d / 4 + c + root / 2))


def rounded(y: Tensor, longest: float, noise: Noise) -> Tensor:
    """(d,) fp64 -> int64: each value up or down at random, unbiased, redrawn until the whole is at most `longest`."""
    low, scale = y.floor(), 2**53
    chance = (
        (y - low) * scale
    ).long()  # y - low is a multiple of 2^-53 or finer: what is lost favours neither side
    for _ in range(10_000):  # each draw is short enough with probability above 0.39
        up = noise.below(torch.full_like(chance, scale)) < chance
        out = low.long() + up
        if float(out.double().square().sum()) <= longest**2:
            return out
    raise ClientFailed("discrete-gaussian: no rounding of the update is short enough")


def discrete_gaussian(n: int, variance: int, noise: Noise) -> Tensor:
    """(n,) exact draws of P(k) ~ exp(-k^2 / 2 variance) on the integers (Canonne, Kamath, Steinke 2020, algorithm 3).

    Integer arithmetic throughout: a discrete Laplace draw Y of scale t = floor(sigma) + 1 is kept with probability
    exp(-(|Y| - variance/t)^2 / 2 variance) = exp(-(|Y| t - variance)^2 / (2 variance t^2)).
    """
    t = math.isqrt(variance) + 1
    out, left = torch.empty(n, dtype=torch.int64), torch.arange(n)
    while left.numel():
        y = discrete_laplace(left.numel(), t, noise)
        if int(y.abs().max()) > 100 * t:
            raise ClientFailed("discrete-gaussian: a draw left the range of its integers")
        keep = coin((y.abs() * t - variance).square(), torch.full_like(y, 2 * variance * t * t), noise)
        out[left[keep]] = y[keep]
        left = left[~keep]
    return out


def discrete_laplace(n: int, t: int, noise: Noise) -> Tensor:
    """(n,) exact draws of P(k) ~ exp(-|k| / t) (algorithm 2)."""
    out, left = torch.empty(n, dtype=torch.int64), torch.arange(n)
    while left.numel():
        u = noise.below(torch.full_like(left, t))
        keep = coin(u, torch.full_like(u, t), noise)
        u, where = u[keep], left[keep]
        v, running = torch.zeros_like(u), torch.arange(u.numel())
        while running.numel():  # how often exp(-1) comes up before it does not
            running = running[coin(torch.ones_like(running), torch.ones_like(running), noise)]
            v[running] += 1
        x, minus = u + t * v, noise.below(torch.full_like(u, 2)) == 1
        good = ~(minus & (x == 0))  # zero must not come from both sides
        out[where[good]] = torch.where(minus, -x, x)[good]
        done = torch.zeros(left.numel(), dtype=torch.bool)
        done[keep.nonzero().squeeze(1)[good]] = True
        left = left[~done]
    return out


def coin(a: Tensor, b: Tensor, noise: Noise) -> Tensor:
    """Bernoulli(exp(-a / b)), exactly, for integers a >= 0 and b > 0 (algorithm 1)."""
    whole, rest = a // b, a % b
    heads = _short(rest, b, noise)
    left = (heads & (whole > 0)).nonzero().squeeze(1)
    while left.numel():
        one = torch.ones_like(left)
        fell = ~_short(one, one, noise)
        heads[left[fell]] = False
        whole[left] -= 1
        left = left[~fell]
        left = left[whole[left] > 0]
    return heads


def _short(a: Tensor, b: Tensor, noise: Noise) -> Tensor:
    """Bernoulli(exp(-a / b)) for a <= b: the number of k in a row that a / (b k) comes up is even."""
    k, left = torch.ones_like(a), torch.arange(a.numel())
    while left.numel():
        left = left[noise.below(b[left] * k[left]) < a[left]]
        k[left] += 1
    return k % 2 == 1


def _blank(x: Tensor, layout: Layout | None) -> Tensor:
    return layout.blank(x) if layout is not None else x
