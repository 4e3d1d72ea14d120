"""Codes: NaN and broken bytes, shapes, unbiasedness, selection to the element, and what error feedback remembers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedfm.config.building import build
from fedfm.config.record import to_config
from fedfm.core.combine import Pipe
from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed, MessageRefused
from fedfm.core.message import Message, pack, unpack
from fedfm.core.protocols import Wire
from fedfm.efficiency.communication.coarse.natural import Natural
from fedfm.efficiency.communication.coarse.rotation import Rotation
from fedfm.efficiency.communication.coarse.sign import Sign
from fedfm.efficiency.communication.coarse.terngrad import TernGrad
from fedfm.efficiency.communication.codec import bits
from fedfm.efficiency.communication.codec.entropy import Entropy
from fedfm.efficiency.communication.codec.error_feedback import ErrorFeedback
from fedfm.efficiency.communication.codec.qsgd import QSGD
from fedfm.efficiency.communication.codec.quantise import Quantise
from fedfm.efficiency.communication.codec.randk import RandK
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.communication.lowrank.powersgd import PowerSGD
from fedfm.efficiency.communication.memory.dgc import DGC
from fedfm.efficiency.communication.memory.ef21 import EF21
from fedfm.vectors.layout import Layout

LOSSY: list[Wire] = [
    TopK(0.1),
    TopK(0.9),
    TopK(count=3),
    RandK(0.2),
    RandK(0.2, unbiased=False),
    QSGD(1),
    QSGD(4),
    QSGD(255, bucket=7),
    QSGD(5, packed=False),
    Quantise(1),
    Quantise(5),
    Quantise(16),
    ErrorFeedback(),
    ErrorFeedback(QSGD(15)),
    Pipe(TopK(0.3), QSGD(7), Entropy()),
    ErrorFeedback(Pipe(TopK(0.3), QSGD(7))),
    Sign(),
    TernGrad(),
    TernGrad(clip=2.5),
    Natural(),
    Rotation(),
    Pipe(Rotation(), Quantise(2)),
    EF21(),
    EF21(QSGD(15), rate=0.3),
    DGC(0.1),
    PowerSGD(),
]
ALL = [*LOSSY, Entropy()]


def ctx(size: int | None = None, client: str = "party-0", **kw: Any) -> Ctx:
    layout = Layout((), size) if size is not None else None  # codecs ask a layout for its size only
    return Ctx(7, client=client, layout=layout, **kw)


def normal(d: int, seed: int = 0) -> Tensor:
    return torch.randn(d, generator=torch.Generator().manual_seed(seed))


def nbytes(x: Tensor, side: dict[str, Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in (x, *side.values()))


def there_and_back(wire: Wire, x: Tensor, c: Ctx) -> Tensor:
    y, side, _ = wire.encode(x, {}, c)
    return wire.decode(y, side, {}, c)[0]


# ---- every codec --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("wire", ALL, ids=repr)
def test_not_finite_raises(wire: Wire) -> None:
    for bad in (math.nan, math.inf, -math.inf):
        x = normal(40)
        x[17] = bad
        with pytest.raises(ClientFailed, match="NaN or Inf"):
            wire.encode(x, {}, ctx())


@pytest.mark.parametrize("wire", ALL, ids=repr)
@pytest.mark.parametrize("d", [0, 1, 2, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_shapes_types_and_purity(wire: Wire, d: int, dtype: torch.dtype) -> None:
    """Empty, scalar and short vectors of every float type; the same call gives the same bytes; inputs untouched."""
    for told in (True, False):
        _one_shape(wire, normal(d).to(dtype), told)


def _one_shape(wire: Wire, x: Tensor, told: bool) -> None:
    d, dtype = x.numel(), x.dtype
    c = ctx(d if told else None)
    before = x.clone()
    y, side, state = wire.encode(x, {}, c)
    again, side2, _ = wire.encode(x, {}, c)
    assert torch.equal(y, again) and side.keys() == side2.keys() and torch.equal(x, before)
    m = unpack(pack(Message(y, side=side)))  # what travels is a message; decode sees what comes out of it
    out, _ = wire.decode(m.x, m.side, {}, c)
    assert out.shape == (d,) and out.dtype == (dtype if wire.lossless else torch.float32)
    if told and not isinstance(wire, Pipe) and wire != LOSSY[-1]:
        assert "length" not in side
    zero = there_and_back(wire, torch.zeros_like(x), c)
    assert not bool(zero.any())


@pytest.mark.parametrize("wire", ALL, ids=repr)
def test_broken_bytes_are_refused_not_crashed_on(wire: Wire) -> None:
    """Cut, lengthened and flipped payloads raise only what the server catches, or decode to something of the right shape."""
    c, g = ctx(64), torch.Generator().manual_seed(1)
    y, side, _ = wire.encode(normal(64), {}, c)
    parts = {"": y, **side}
    for name, part in parts.items():
        for broken in (
            part[:-1],
            torch.cat([part, part[-1:]]),
            part[:0],
            part.flip(0),
            part.reshape(1, -1),
            part.double(),
            torch.randint(0, 256, (max(1, nbytes(part, {})),), generator=g).to(torch.uint8),
        ):
            sent = parts | {name: broken}
            try:
                out, _ = wire.decode(sent[""], {k: v for k, v in sent.items() if k}, {}, c)
            except (MessageRefused, RuntimeError, KeyError, IndexError):
                continue
            assert out.dim() >= 1
    if side:
        with pytest.raises((MessageRefused, KeyError)):
            wire.decode(y, {}, {}, ctx())


@pytest.mark.parametrize("wire", [w for w in ALL if w.unbiased], ids=repr)
def test_unbiased(wire: Wire) -> None:
    """z-test on 2,000 draws: sum_i (mean_i - x_i)^2 / (var_i / n) is about chi-square; no coordinate beyond 5 sigma."""
    d, n = 24, 2000
    x = normal(d, 3)
    draws = torch.stack([there_and_back(wire, x, ctx(d, round=r)) for r in range(n)]).double()
    bias, sigma = draws.mean(0) - x, draws.std(0) / math.sqrt(n)
    assert bool((bias.abs() <= 5 * sigma + 1e-5).all())


# ---- packing ------------------------------------------------------------------------------------------------------
@given(st.integers(0, 32), st.integers(0, 70), st.integers(0, 2**31))
@settings(max_examples=120, deadline=None)
def test_bits_take_what_the_formula_says(b: int, n: int, seed: int) -> None:
    codes = torch.randint(0, 2**b, (n,), generator=torch.Generator().manual_seed(seed))
    packed = bits.pack(codes, b)
    assert packed.dtype == torch.uint8 and packed.numel() == -(-n * b // 8)
    assert torch.equal(bits.unpack(packed, n, b).long(), codes)
    with pytest.raises(MessageRefused):
        bits.unpack(torch.cat([packed, packed.new_zeros(1)]), n, b)


def test_bits_across_chunks() -> None:
    n = 8 * bits.CHUNK + 13
    for b in (1, 3, 11):
        codes = torch.randint(0, 2**b, (n,), generator=torch.Generator().manual_seed(b))
        assert torch.equal(bits.unpack(bits.pack(codes, b), n, b).long(), codes)


# ---- top-k, rand-k ------------------------------------------------------------------------------------------------
@given(
    st.integers(1, 300),
    st.floats(0.001, 1.0),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.integers(0, 9),
)
@settings(max_examples=80, deadline=None)
def test_topk_keeps_the_largest(d: int, fraction: float, dtype: torch.dtype, seed: int) -> None:
    # Rounded to halves there are many ties: the oracle sorts by (-|x|, index).
    x = (normal(d, seed) * 4).round().div(2).to(dtype)
    wire, k = TopK(fraction), max(1, math.ceil(fraction * d - 1e-9))
    y, side, _ = wire.encode(x, {}, ctx(d))
    best = sorted(sorted(range(d), key=lambda i: (-abs(float(x[i])), i))[:k])
    assert torch.equal(y, x[best]) and y.dtype == dtype
    expected = torch.zeros(d)
    expected[best] = x[best].float()
    out = wire.decode(y, side, {}, ctx(d))[0]
    assert torch.equal(out, expected)
    assert float((out - x.float()).square().sum()) <= (1 - k / d) * float(x.float().square().sum()) + 1e-4
    # k values, and the smaller of k ceil(log2 d) bits and d bits.
    index = min(k * math.ceil(math.log2(d)), d)
    assert nbytes(y, side) == k * x.element_size() + -(-index // 8)


def test_topk_counts() -> None:
    assert TopK(0.1).encode(normal(30), {}, ctx(30))[0].numel() == 3  # 0.1 * 30 is 3.0000000000000004
    assert TopK(1e-9).encode(normal(30), {}, ctx(30))[0].numel() == 1
    assert TopK(count=50).encode(normal(30), {}, ctx(30))[0].numel() == 30
    x = normal(500)
    assert torch.equal(there_and_back(TopK(1.0), x, ctx(500)), x)
    assert torch.equal(there_and_back(RandK(1.0), x, ctx(500)), x)


def test_randk_variance_linearity_and_no_index() -> None:
    d, k = 100, 10
    x = normal(d)
    # E||C(x) - x||^2 = (d/k - 1) ||x||^2 = 9 ||x||^2: each coordinate is kept with probability k/d and scaled by d/k.
    draws = [
        float((there_and_back(RandK(k / d), x, ctx(d, round=r)) - x).square().sum()) for r in range(3000)
    ]
    assert np.mean(draws) / float(x.square().sum()) == pytest.approx(9.0, rel=0.05)
    out = there_and_back(RandK(k / d, unbiased=False), x, ctx(d))
    kept = out != 0
    assert int(kept.sum()) == k and torch.equal(out[kept], x[kept])
    y, side, _ = RandK(k / d).encode(x, {}, ctx(d))
    assert nbytes(y, side) == 4 * k
    # The cohort shares the mask: decoding the sum of payloads gives the sum of decoded messages.
    wire, z = RandK(0.3), normal(d, 5)
    a, b = wire.encode(x, {}, ctx(d, client="a"))[0], wire.encode(z, {}, ctx(d, client="b"))[0]
    both = wire.decode(a, {}, {}, ctx(d, client="a"))[0] + wire.decode(b, {}, {}, ctx(d, client="b"))[0]
    assert torch.allclose(wire.decode(a + b, {}, {}, ctx(d, client=""))[0], both, atol=1e-5)
    assert not torch.equal(wire._mask(d, ctx(d, round=1)), wire._mask(d, ctx(d, round=2)))


# ---- error feedback -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "inner", [TopK(0.1), RandK(0.1, unbiased=False), Pipe(TopK(0.2), QSGD(15))], ids=repr
)
def test_error_feedback_telescopes(inner: Wire) -> None:
    """sum_t c_t + e_T = sum_t x_t: nothing is lost, only late."""
    wire, state, sent, given_ = ErrorFeedback(inner), {}, torch.zeros(80), torch.zeros(80)
    for r in range(40):
        x = normal(80, r)
        y, side, state = wire.encode(x, state, ctx(80, round=r))
        sent += wire.decode(y, side, {}, ctx(80, round=r))[0]
        given_ += x
    assert torch.allclose(sent + state["residual"], given_, atol=1e-4)


def test_error_feedback_residual() -> None:
    """Bounded for bounded updates: with contraction 1 - k/d = delta', ||e|| <= sqrt(delta')/(1 - sqrt(delta')) max||x||."""
    wire, state, d = ErrorFeedback(TopK(0.25)), {}, 40
    root = math.sqrt(1 - 0.25)
    for r in range(1000):
        x = normal(d, r)
        x /= x.norm()
        _, _, state = wire.encode(x, state, ctx(d, round=r))
        assert float(state["residual"].norm()) <= root / (1 - root) + 1e-4
    assert ErrorFeedback(TopK(1.0)).encode(normal(9), {}, ctx(9))[2] == {}  # nothing left out: nothing stored
    kept = {"residual": torch.ones(9)}
    y, _, after = ErrorFeedback(TopK(1.0)).encode(torch.zeros(9), kept, ctx(9))
    assert torch.equal(y, torch.ones(9)) and after == {} and torch.equal(kept["residual"], torch.ones(9))
    with pytest.raises(ClientFailed, match="one size"):
        wire.encode(normal(d + 1), state, ctx(d + 1))


@dataclass(frozen=True)
class Shifted(Wire):
    """A codec with memory at both ends: sends the top of x - h, and both add it to h."""

    def encode(self, x: Tensor, state: dict[str, Any], ctx: Ctx) -> Any:
        h = state.get("h", torch.zeros_like(x))
        y, side, _ = TopK(0.2).encode(x - h, {}, ctx)
        return y, side, {"h": h + TopK(0.2).decode(y, side, {}, ctx)[0]}

    def decode(self, x: Tensor, side: Any, state: dict[str, Any], ctx: Ctx) -> Any:
        step = TopK(0.2).decode(x, side, {}, ctx)[0]
        h = state.get("h", torch.zeros_like(step)) + step
        return h, {"h": h}


def test_error_feedback_over_a_codec_with_memory() -> None:
    wire, state, server, total, sent = ErrorFeedback(Shifted()), {}, {}, torch.zeros(50), torch.zeros(50)
    for r in range(30):
        x = normal(50, r)
        y, side, state = wire.encode(x, state, ctx(50, round=r))
        c, server = wire.decode(y, side, server, ctx(50, round=r))
        total, sent = total + x, sent + c
        assert torch.equal(state["mirror"]["h"], server["inner"]["h"])
    assert torch.allclose(sent + state["residual"], total, atol=1e-4)


def test_error_feedback_refuses_what_diverges_and_survives_a_config() -> None:
    with pytest.raises(ValueError, match="unbiased=false"):
        ErrorFeedback(RandK(0.1))
    with pytest.raises(ValueError, match="unbiased=false"):
        ErrorFeedback(Pipe(RandK(0.1), QSGD(3)))
    problems: list[Any] = []
    for wire in (ErrorFeedback(Pipe(TopK(0.1), QSGD(4))), ErrorFeedback(QSGD(3)), ErrorFeedback()):
        assert build(Wire, to_config(wire), "uplink", problems, "uplink") == wire and not problems


# ---- quantisers ---------------------------------------------------------------------------------------------------
