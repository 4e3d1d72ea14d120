"""Codecs: laws (lengths to the byte, unbiasedness, contraction, telescoping, exact round trips) against closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedfm.core.combine import Pipe
from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed, MessageRefused
from fedfm.core.protocols import Wire
from fedfm.efficiency.communication.codec import bits, rans, topk
from fedfm.efficiency.communication.codec.entropy import Entropy
from fedfm.efficiency.communication.codec.error_feedback import ErrorFeedback
from fedfm.efficiency.communication.codec.qsgd import QSGD
from fedfm.efficiency.communication.codec.quantise import Quantise
from fedfm.efficiency.communication.codec.randk import RandK
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.vectors.layout import Layout


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


@pytest.mark.parametrize("s", [1, 2, 3, 4, 7, 8, 10, 127, 128, 255, 32767])
@pytest.mark.parametrize("d", [1, 7, 1000])
def test_qsgd_bytes(s: int, d: int) -> None:
    y, side, _ = QSGD(s).encode(normal(d), {}, ctx(d))
    assert nbytes(y, side) == -(-(32 + d * (1 + math.ceil(math.log2(s + 1)))) // 8)
    y, side, _ = QSGD(s, bucket=3).encode(normal(d), {}, ctx(d))
    assert nbytes(y, side) == 4 * -(-d // 3) + -(-d * (1 + math.ceil(math.log2(s + 1))) // 8)


@pytest.mark.parametrize("s", [1, 4, 16])
def test_qsgd_variance(s: int) -> None:
    """E||Q - x||^2 = (||x||/s)^2 sum_i f_i (1 - f_i), f_i the fraction of |x_i| s/||x|| above a level (a Bernoulli each)."""
    d = 1000
    x = normal(d, 11)
    r = x.double().abs() * s / x.double().norm()
    f = r - r.floor()
    exact = float((x.double().norm() / s).square() * (f * (1 - f)).sum())
    seen = np.mean(
        [float((there_and_back(QSGD(s), x, ctx(d, round=k)) - x).double().square().sum()) for k in range(200)]
    )
    assert seen == pytest.approx(exact, rel=0.05)
    assert exact <= min(d / s**2, math.sqrt(d) / s) * float(x.double().square().sum())


def test_qsgd_levels_and_buckets() -> None:
    x = torch.tensor([3.0, -4.0, 0.0, 0.0, 0.0, -2.0])
    out = there_and_back(QSGD(1), x, ctx(6))
    norm = float(x.norm())
    assert all(min(abs(v - c) for c in (-norm, 0.0, norm)) < 1e-6 for v in out.tolist())  # ternary
    assert torch.equal(there_and_back(QSGD(5, bucket=2), x, ctx(6))[2:4], torch.zeros(2))
    assert there_and_back(QSGD(5, bucket=1), x, ctx(6)).tolist() == pytest.approx(
        x.tolist()
    )  # |x|/||x|| is 1: exact
    assert torch.allclose(
        there_and_back(QSGD(32767), normal(500), ctx(500)), normal(500), atol=2e-3
    )  # s -> inf
    with pytest.raises(ClientFailed, match="fp32"):
        QSGD(4).encode(torch.full((100,), 3e38), {}, ctx(100))
    assert torch.equal(
        there_and_back(QSGD(3), x, ctx(6, client="a")), there_and_back(QSGD(3), x, ctx(6, client="a"))
    )


@pytest.mark.parametrize("b", [1, 4, 16])
def test_quantise(b: int) -> None:
    x = normal(300)
    y, side, _ = Quantise(b).encode(x, {}, ctx(300))
    out = Quantise(b).decode(y, side, {}, ctx(300))[0]
    step = float(x.max() - x.min()) / (2**b - 1)
    assert nbytes(y, side) == 8 + -(-300 * b // 8)
    assert float((out - x).abs().max()) <= step * (1 + 1e-4)
    constant = torch.full((5,), 2.5)
    assert torch.equal(there_and_back(Quantise(b), constant, ctx(5)), constant)


# ---- entropy ------------------------------------------------------------------------------------------------------
TYPES = [
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


@given(st.sampled_from(TYPES), st.integers(0, 600), st.integers(0, 3), st.integers(0, 2**31))
@settings(max_examples=120, deadline=None)
def test_entropy_restores_every_bit(dtype: torch.dtype, n: int, spread: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x = (torch.randn(n, generator=g) * 10**spread / 10).to(dtype)
    out = there_and_back(Entropy(), x, ctx())
    assert out.dtype == dtype and out.shape == x.shape and torch.equal(out, x)
    assert torch.equal(torch.signbit(out), torch.signbit(x)) if dtype.is_floating_point else True


@pytest.mark.parametrize(
    "p",
    [
        (0.5, 0.5),
        (0.9, 0.05, 0.05),
        (0.97, 0.03),
        tuple(1 / 256 for _ in range(256)),
        tuple(np.diff(np.linspace(0, 1, 41) ** 3)),
    ],
    ids=lambda p: f"{len(p)} symbols, {p[0]:.2g}",
)
def test_entropy_rate(p: tuple[float, ...]) -> None:
    """Within 1 % of n H(empirical)/8, the frequency table and the lengths counted as the header."""
    n = 200_000
    rng = np.random.default_rng(0)
    symbols = rng.choice(len(p), n, p=np.asarray(p) / sum(p)).astype(np.uint8)
    freq = np.bincount(symbols) / n
    entropy = -sum(f * math.log2(f) for f in freq if f)
    y, _, _ = Entropy().encode(torch.from_numpy(symbols), {}, ctx())
    header = 18 + 36 + 2 * len(p)
    assert y.numel() <= entropy * n / 8 * 1.01 + header
    assert torch.equal(Entropy().decode(y, {}, {}, ctx())[0], torch.from_numpy(symbols))


def test_rans_alone() -> None:
    rng = np.random.default_rng(1)
    for data in (
        np.zeros(1, np.uint8),
        np.full(70_000, 200, np.uint8),
        rng.integers(0, 256, 5000).astype(np.uint8),
        (rng.random(100_003) < 0.01).astype(np.uint8),
        np.arange(256, dtype=np.uint8),
    ):
        model = rans.Model(data)
        stream = rans.encode(data, model)
        assert np.array_equal(rans.decode(stream, data.size), data)
        assert len(stream) <= model.size * 1.02 + 8  # the estimate that decides whether to run it at all
        for broken in (stream[:-2], stream[:20], b"", stream + b"\0\0"):
            with pytest.raises(ValueError):
                rans.decode(broken, data.size)


def test_entropy_never_expands_much_and_earns_where_it_can() -> None:
    g = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (100_000,), generator=g).to(torch.uint8)
    assert Entropy().encode(noise, {}, ctx())[0].numel() < 1.01 * noise.numel()
    x = normal(100_000)
    assert Entropy().encode(x, {}, ctx())[0].numel() < 0.9 * 4 * x.numel()  # exponents of a Gaussian
    assert Entropy().encode(torch.zeros(100_000), {}, ctx())[0].numel() < 200
    # Behind a coarse quantiser the codes are nearly all zero: far below the 2 bits of the packed form.
    wire = Pipe(QSGD(1), Entropy())
    y, side, _ = wire.encode(x, {}, ctx(x.numel()))
    assert nbytes(y, side) < 0.1 * x.numel() * 2 / 8
    assert torch.equal(
        wire.decode(y, side, {}, ctx(x.numel()))[0], there_and_back(QSGD(1), x, ctx(x.numel()).within(0))
    )


def test_entropy_takes_no_memory_for_a_lie() -> None:
    y, _, _ = Entropy().encode(torch.zeros(4096, dtype=torch.uint8), {}, ctx(64))
    huge = y.clone()
    huge[1:9] = torch.tensor([0, 0, 0, 0, 0, 0, 0, 1], dtype=torch.uint8)  # 2^56 elements
    with pytest.raises(MessageRefused, match="claims"):
        Entropy().decode(huge, {}, {}, ctx(64))
    with pytest.raises(MessageRefused, match="claims"):
        QSGD(3).decode(
            torch.zeros(9, dtype=torch.uint8),
            {"norm": torch.ones(1), "length": torch.tensor([2**50])},
            {},
            ctx(64),
        )


def bomb(n: int, lanes: int = 1) -> bytes:
    """A whole rANS stream of `n` zeros that nobody would write: one symbol costs no bits, so nothing but `n` is long."""
    table = np.zeros(256, bool)
    table[0] = True
    head = np.packbits(table, bitorder="little").tobytes() + np.array([0xFFFF], "<u2").tobytes()
    return head + np.array([lanes], "<u4").tobytes() + np.full(lanes, rans.LEAST, "<u4").tobytes()


def test_work_is_bounded_by_what_was_agreed() -> None:
    """417 bytes once decoded for 89 seconds: one lane, and a step for each byte that they claimed."""
    small = rans.STEPS
    assert not rans.decode(bomb(small), small).any()
    n = 1 << 22
    with pytest.raises(ValueError, match="256 lanes at least"):
        rans.decode(bomb(n), n)
    assert rans.fewest(1 << 40) == rans.MOST_LANES and rans.Model(np.zeros(n, np.uint8)).lanes >= rans.fewest(
        n
    )
    planes = 4
    body = bomb(n, lanes=256)
    data = bytearray(
        b"\0" + n.to_bytes(8, "little") + planes * (b"\2" + len(body).to_bytes(8, "little") + body)
    )
    for layout in (ctx(1000), ctx(1000).at(layout=None)):  # 4 kB came, 16 MB are claimed
        with pytest.raises(MessageRefused, match="claims"):
            Entropy().decode(torch.frombuffer(data, dtype=torch.uint8), {}, {}, layout)


@pytest.mark.parametrize("wire", [TopK(count=3), TopK(0.01), RandK(0.01), QSGD(1), Quantise(1)], ids=repr)
def test_a_conversation_claims_no_more_than_it_pays(wire: Wire) -> None:
    """Where no layout says the length, the message's own word for it is bounded by its bytes."""
    there = ctx(0).at(layout=None)
    y, side, _ = wire.encode(normal(500), {}, there)
    assert wire.decode(y, side, {}, there)[0].shape == (500,)
    with pytest.raises(MessageRefused):
        wire.decode(y, side | {"length": torch.tensor([1 << 33])}, {}, there)


def test_what_compresses_too_well_is_sent_as_it_is() -> None:
    """In a conversation an honest plane of zeros looks like a bomb: it travels raw, and is believed."""
    there, zeros = ctx(0).at(layout=None), torch.zeros(3_000_000)
    y, side, _ = Entropy().encode(zeros, {}, there)
    assert y.numel() > zeros.nbytes and torch.equal(Entropy().decode(y, side, {}, there)[0], zeros)
    assert Entropy().encode(zeros, {}, ctx(zeros.numel()))[0].numel() < 20_000


# ---- stacks -------------------------------------------------------------------------------------------------------
def test_stack_of_three() -> None:
    """Top-k, then the kept values to 4 bits, then no redundancy: the quantiser sees values only, never indices."""
    x, c = normal(4096), ctx(4096)
    wire = Pipe(ErrorFeedback(TopK(0.01)), QSGD(7), Entropy())
    y, side, _ = wire.encode(x, {}, c)
    out = wire.decode(y, side, {}, c)[0]
    kept = there_and_back(TopK(0.01), x, c)
    assert bool((out[kept == 0] == 0).all()) and float((out - kept).norm()) < float(kept.norm())
    # 41 values: 41 12-bit indices, 4 bytes of norm, 8 of length, 21 of codes and at most 18 of headers.
    assert nbytes(y, side) <= -(-41 * 12 // 8) + 4 + 8 + 21 + 18


def test_places_that_stand_twice_or_do_not_ascend_are_refused() -> None:
    for places in ([3, 3, 5], [5, 3, 4]):
        with pytest.raises(MessageRefused, match="ascend"):
            topk.unpacked(bits.pack(torch.tensor(places), 10), 3, 1000)
    assert topk.unpacked(bits.pack(torch.tensor([3, 4, 999]), 10), 3, 1000).tolist() == [3, 4, 999]
