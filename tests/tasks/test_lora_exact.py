"""FedEx-LoRA: the adapted weight of the aggregate is the weighted mean of the parties' adapted weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedfm.core.context import Ctx
from fedfm.core.errors import ConfigError, RoundFailed
from fedfm.core.fold import Fold
from fedfm.core.message import Message
from fedfm.efficiency.training.lora_exact import FedExLoRA, pairs
from fedfm.vectors.layout import Layout

HEADS = {
    "net.q.": (6, 5, 2),
    "net.v.": (3, 3, 3),
}  # out, in, r; the second has d = r: shapes do not tell A from B
LAYOUT = Layout.of(
    {
        h + end: shape
        for h, (out, inner, r) in HEADS.items()
        for end, shape in (
            ("lora_A.default.weight", (r, inner)),
            ("lora_B.default.weight", (out, r)),
            ("lora_R", (out, inner)),
        )
    }
    | {"head.bias": (4,)},
    buffers=[h + "lora_R" for h in HEADS],
)
CTX = Ctx(0, layout=LAYOUT)
MASS = (1.0, 3.0, 2.0)


def parties(same_a: bool = False) -> list[Message]:
    g, out = torch.Generator().manual_seed(1), []
    common = {e.name: torch.randn(e.shape, generator=g) for e in LAYOUT.entries}
    for i, mass in enumerate(MASS):
        mine = {
            e.name: common[e.name]
            if not e.trainable or (same_a and "lora_A" in e.name)
            else torch.randn(e.shape, generator=g)
            for e in LAYOUT.entries
        }
        out.append(Message(LAYOUT.pack(mine), "weights", mass=mass, sender=f"p{i}"))
    return out


def aggregate(ms: list[Message], kind: str = "float") -> Tensor:
    fold, rule = Fold(kind), FedExLoRA()
    for m in ms:
        fold.add(rule.lift(m, CTX), m.sender)
    return rule.finish(fold.total(), fold.mass, len(ms), {}, CTX)[0]


def factors(x: Tensor, head: str) -> tuple[Tensor, Tensor, Tensor]:
    v = {k: t.double() for k, t in LAYOUT.views(x).items()}
    return v[head + "lora_A.default.weight"], v[head + "lora_B.default.weight"], v[head + "lora_R"]


@pytest.mark.parametrize("kind", ["float", "fixed"])
def test_exact(kind: str) -> None:
    ms, p = parties(), [m / sum(MASS) for m in MASS]
    out = aggregate(ms, kind)
    for head in HEADS:
        a, b, r = factors(out, head)
        each = [factors(m.x, head) for m in ms]
        old = each[0][2]
        assert torch.allclose(
            r + b @ a, old + sum(w * bi @ ai for w, (ai, bi, _) in zip(p, each, strict=True)), atol=2e-6
        )
        assert torch.allclose(a, sum(w * ai for w, (ai, _, _) in zip(p, each, strict=True)), atol=1e-6)
        # What plain averaging of the factors would have lost: sum_{i<j} p_i p_j (B_i - B_j)(A_i - A_j).
        lost = sum(
            p[i] * p[j] * (each[i][1] - each[j][1]) @ (each[i][0] - each[j][0])
            for i in range(3)
            for j in range(i + 1, 3)
        )
        assert torch.allclose(r - old, lost, atol=2e-6) and float(lost.norm()) > 0.1
    bias = sum(w * LAYOUT.views(m.x)["head.bias"] for w, m in zip(p, ms, strict=True))
    assert torch.allclose(LAYOUT.views(out)["head.bias"], bias, atol=1e-6)
    used = torch.zeros(LAYOUT.size)
    for view in LAYOUT.views(used).values():
        view.fill_(1.0)
    assert not bool(out[used == 0].any())  # padding stays zero


def test_nothing_is_lost_when_the_a_coincide_or_one_party_comes() -> None:
    for ms in (parties(same_a=True), parties()[:1]):
        out = aggregate(ms)
        for head in HEADS:
            assert torch.allclose(factors(out, head)[2], factors(ms[0].x, head)[2], atol=2e-6)


def test_two_rounds_accumulate() -> None:
    """The residual of the first round is the base of the second."""
    ms = parties()
    first = aggregate(ms)
    v = LAYOUT.views(first)
    second = []
    for m in ms:
        x = LAYOUT.pack({**LAYOUT.views(m.x), **{h + "lora_R": v[h + "lora_R"] for h in HEADS}})
        second.append(replace(m, x=x))
    out, p = aggregate(second), [m / sum(MASS) for m in MASS]
    for head in HEADS:
        a, b, r = factors(out, head)
        exact = factors(first, head)[2] + sum(
            w * factors(m.x, head)[1] @ factors(m.x, head)[0] for w, m in zip(p, ms, strict=True)
        )
        assert torch.allclose(r + b @ a, exact, atol=4e-6)


def test_laws_and_refusals() -> None:
    ms, rule = parties(), FedExLoRA()
    before = ms[0].x.clone()
    lift, share = rule.lift(ms[0], CTX), rule.share(ms[0], CTX)
    assert torch.equal(ms[0].x, before) and torch.equal(lift.x, share.x)
    assert lift.x.numel() == rule.lifted(LAYOUT) and (lift.alpha, lift.mass) == (1.0, 1.0)
    scaled = aggregate([replace(m, mass=7 * m.mass) for m in ms])
    assert torch.allclose(scaled, aggregate(ms), atol=2e-6) and torch.allclose(
        aggregate(ms[::-1]), aggregate(ms), atol=2e-6
    )
    with pytest.raises(ConfigError, match="client.send=weights"):
        rule.lift(replace(ms[0], kind="delta"), CTX)
    with pytest.raises(RoundFailed):
        aggregate([replace(m, mass=0.0) for m in ms])
    with pytest.raises(ConfigError, match="net.q.lora_R"):
        pairs(Layout.of({"net.q.lora_A.default.weight": (1, 2), "net.q.lora_B.default.weight": (2, 1)}))
    with pytest.raises(ConfigError, match="no LoRA"):
        pairs(Layout.of({"w": (2,)}))
