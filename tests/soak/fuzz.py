"""Messages changed by somebody who knows how they are built: their bytes, their headers, their tensors, their facts."""

from __future__ import annotations

import copy
import json
import math
import random
from dataclasses import replace
from typing import Any

import torch

from fedfm.cards.registry import load
from fedfm.core.context import Ctx
from fedfm.core.message import DTYPES, NAMED, Message, pack
from fedfm.core.protocols import Wire
from fedfm.laws import examples
from fedfm.laws.compare import normal
from fedfm.laws.soak.drawing import fits
from fedfm.laws.wires import ctx

D = 300  # values of the vectors that the codes are of
ODD: tuple[Any, ...] = (
    *(0, 1, -1, 2**31, 2**63, 2**64, 10**30, 1.5, -0.0, 1e308, True, False, None),
    *("", "x", "party-0", "é", "\x00", "NaN", [], {}, [[]], {"a": {"b": []}}, [0] * 300, "a" * 5000),
)


def codecs() -> list[Wire]:
    """Every registered code that speaks without a conversation, in all its variants."""
    found = [spec for name in fits("uplink") for spec in examples(load(name))]
    return [w for w in found if not w.opaque and not w.phases]


def coded(wire: Wire, seed: int) -> tuple[Message, Ctx]:
    """What an honest party would send, and where it is decoded."""
    there = ctx(D, round=seed % 7)
    x, side, _ = wire.encode(normal(D, seed), {}, there)
    return Message(x, "delta", 4.0, "party-1", seed % 7, side, {"loss": 0.5}), there


def bytes_of(m: Message, dice: random.Random) -> bytes:
    """The packed message with one to three changes: in its bytes, or in the sense of its header."""
    raw = pack(m)
    n = int.from_bytes(raw[:8], "little")
    text, body = raw[8 : 8 + n].decode(), raw[8 + n :]
    for _ in range(dice.randint(1, 3)):
        match dice.randrange(6):
            case 0:  # bits
                data = bytearray(_joined(text, body))
                for _ in range(dice.randint(1, 8)):
                    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
                return bytes(data)
            case 1:  # its length
                data = bytearray(_joined(text, body))
                at, k = dice.randrange(len(data)), dice.randint(1, 40)
                data[at : at + k * dice.randrange(2)] = dice.randbytes(k * dice.randrange(2))
                return bytes(data)
            case 2:  # words of the header, wherever they stand
                word, other = (
                    dice.choice(('"F32"', '"U8"', "0", "1", "[", "}", ":", "side/")),
                    str(dice.choice(ODD)),
                )
                text = text.replace(word, other, 1)
            case 3:
                body = (
                    body + dice.randbytes(dice.randint(1, 64))
                    if dice.random() < 0.5
                    else body[: len(body) // 2]
                )
            case _:
                text = _header(text, dice)
    return _joined(text, body)


def _joined(text: str, body: bytes) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return len(data).to_bytes(8, "little") + data + body


def _header(text: str, dice: random.Random) -> str:
    try:
        head = json.loads(text)
        name = dice.choice(sorted(head))
        if name == "__metadata__":
            meta = json.loads(head[name]["message"])
            meta[dice.choice([*meta, "more"])] = dice.choice((*ODD, math.nan, math.inf, "\ud800"))
            head[name]["message"] = json.dumps(meta)
        else:
            spec = head[name]
            match dice.randrange(6):
                case 0:
                    spec["dtype"] = dice.choice((*NAMED, *ODD))
                case 1:
                    spec["shape"] = dice.choice(
                        ([], [0], [1] * 20, [2**32, 2**32], [-1], [dice.randrange(2000)], *ODD)
                    )
                case 2:
                    spec["data_offsets"] = [
                        dice.randrange(-8, 3000),
                        dice.choice((0, 8, 2**40, dice.randrange(3000))),
                    ]
                case 3:
                    head[dice.choice(("x", "side/0/index", "side/length", "y", "side/"))] = copy.deepcopy(
                        spec
                    )
                case 4:
                    spec[dice.choice(("dtype", "shape", "more"))] = dice.choice(ODD)
                case _:
                    del head[name]
        return json.dumps(head)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return text


def message_of(m: Message, dice: random.Random) -> Message:
    """A message whose bytes are whole and whose sense is not: other values, shapes, types, sides, facts, weights."""
    for _ in range(dice.randint(1, 2)):
        match dice.randrange(6):
            case 0:
                m = replace(m, x=_tensor(m.x, dice))
            case 1 if m.side:
                name = dice.choice(sorted(m.side))
                m = replace(m, side={**m.side, name: _tensor(m.side[name], dice)})
            case 2:
                names = [*m.side, "length", "0/length", "0/index", "target", "x"]
                m = replace(
                    m,
                    side={
                        **m.side,
                        dice.choice(names): torch.tensor(dice.choice(([2**40], [-1], [], [7, 7]))),
                    },
                )
            case 3:
                m = replace(m, side=dict(list(m.side.items())[1:]))
            case 4:
                info = {k: v for k, v in m.info.items() if dice.random() < 0.7}
                m = replace(
                    m, info={**info, dice.choice([*m.info, "shape", "masses", "facts"]): dice.choice(ODD)}
                )
            case _:
                odd = dice.choice((math.nan, math.inf, -1.0, 0.0, 1e300, 2.0**62))
                m = replace(
                    m,
                    mass=odd,
                    kind=dice.choice((m.kind, "weights", "")),
                    version=-(10**20),
                    sender="party-0",
                )
    return m


def _tensor(t: torch.Tensor, dice: random.Random) -> torch.Tensor:
    match dice.randrange(7):
        case 0:
            return t.reshape(-1)[: dice.randrange(t.numel() + 1)].clone()
        case 1:
            return torch.cat([t.reshape(-1)] * 2)
        case 2:
            return t.to(dice.choice(list(DTYPES)))
        case 3:
            return t.reshape(1, *t.shape) if dice.random() < 0.5 else t.reshape(-1)
        case 4 if t.is_floating_point():
            most = torch.finfo(t.dtype).max
            return torch.full_like(t, dice.choice((math.nan, math.inf, -most, most, 0.0)))
        case 5:
            return t.reshape(-1)[torch.randperm(t.numel())].reshape(t.shape)
        case _:
            raw = torch.randint(
                0,
                256,
                (max(1, t.nbytes),),
                dtype=torch.uint8,
                generator=torch.Generator().manual_seed(dice.randrange(2**31)),
            )
            return raw if t.dtype == torch.bool or raw.numel() % t.dtype.itemsize else raw.view(t.dtype)
