"""One round of secure aggregation played by hand: with drop-outs, and with lies on either side."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed
from fedfm.core.message import Message, nothing, pack, unpack
from fedfm.core.protocols import Say
from fedfm.trust.privacy.secure.secagg import SecAgg

PHASES = ("keys", "shares", "upload", "unmask")
Tamper = Callable[[str, str, Message], Message]


@dataclass
class Round:
    """What a driven round left behind."""

    total: Tensor | None = None
    host: dict[str, Any] = field(default_factory=dict)
    states: dict[str, dict[str, Any]] = field(default_factory=dict)
    uploads: dict[str, Tensor] = field(default_factory=dict)
    heard: dict[str, dict[str, Message]] = field(default_factory=dict)  # phase -> party -> message
    failed: dict[str, str] = field(default_factory=dict)


def drive(
    wire: SecAgg,
    vectors: Mapping[str, Tensor],
    drops: Mapping[str, str] | None = None,
    ctx: Ctx | None = None,
    replies: Tamper = lambda phase, to, m: m,
    sent: Tamper = lambda phase, by, m: m,
) -> Round:
    """Play the conversations with a barrier at each phase; a party leaves just before its phase in `drops`."""
    ctx, drops = ctx or Ctx(0, round=3), drops or {}
    out, host = Round(), wire.host(ctx)

    def session(i: str) -> Generator[Say, Message, None]:
        mine = ctx.at(client=i)
        state = yield from wire.join({"kept": torch.ones(1)}, mine)
        y, side, state = wire.encode(vectors[i], state, mine)
        out.states[i] = state
        out.uploads[i] = y
        reply = yield Say("upload", Message(y, side=side))
        yield from wire.leave(state, reply, mine)

    talks = {i: session(i) for i in vectors}
    answers: dict[str, Message | None] = dict.fromkeys(vectors)
    for phase in PHASES:
        said = {}
        for i in list(answers):
            if drops.get(i) == phase:
                continue
            try:
                word = talks[i].send(answers[i])
                assert word.phase == phase
                said[i] = sent(phase, i, unpack(pack(replace(word.message, sender=i))))
            except ClientFailed as e:
                out.failed[i] = str(e)
        out.heard[phase] = said
        if not said:
            break
        given_back, host = wire.serve(host, phase, said, ctx)
        answers = {i: replies(phase, i, unpack(pack(given_back.get(i, nothing())))) for i in said}
    out.host = host
    arrived = out.heard.get("upload", {})
    if arrived:
        x = torch.stack([m.x for m in arrived.values()]).sum(0)
        before = x.clone()
        out.total = wire.decode_sum(x, host, ctx)
        assert torch.equal(x, before)
    return out


def vectors_of(n: int, d: int, seed: int = 0, scale: float = 1.0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {f"party-{i}": torch.randn(d, generator=g) * scale for i in range(n)}


def oracle(wire: SecAgg, vectors: Mapping[str, Tensor], ids: Any) -> Tensor:
    """The fixed-point sum in Python integers. An fp32 value times 2^bits is exact in fp64; `round` is half-even too."""
    columns = zip(*(vectors[i].tolist() for i in ids), strict=True)
    return torch.tensor(
        [sum(round(v * 2**wire.bits) for v in column) / 2**wire.bits for column in columns],
        dtype=torch.float64,
    ).float()
