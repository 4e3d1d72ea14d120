"""Megabytes of updates a second through each registered codec, on a 4 MB update, one thread.

The rate counts the update's fp32 bytes, not the bytes on the wire. Stages that need a conversation are measured by
`secagg`.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from fedfm.bench import machine
from fedfm.cards.registry import load, methods
from fedfm.core.context import Ctx
from fedfm.core.message import Message, pack
from fedfm.core.protocols import Wire
from fedfm.vectors.layout import Layout

COMBINATORS = {"pipe": (), "by-path": ({"*": Wire()},)}  # what their defaults leave empty


def measure(quick: bool = False, *, size: int = 1_000_000, repeats: int = 5) -> dict[str, Any]:
    """`wires`: by name, encode and decode in MB/s (CPU seconds, medians) and bytes sent; `skipped`: by name, why."""
    if quick:
        size, repeats = min(size, 100_000), 1
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        wires, skipped = {}, {}
        for card in methods().values():
            if "wire" not in card.slots:
                continue
            wire = load(card.name)(*COMBINATORS.get(card.name, ()))
            if wire.phases:
                skipped[card.name] = "it needs a conversation"
            else:
                wires[card.name] = _rates(wire, size, repeats)
        return {"wires": wires, "skipped": skipped, "update_bytes": 4 * size, "threads": 1}
    finally:
        torch.set_num_threads(threads)


def _rates(wire: Wire, size: int, repeats: int) -> dict[str, Any]:
    layout = Layout.of({"x": (size,)})
    x = torch.zeros(layout.size)
    x[:size] = torch.randn(size, generator=torch.Generator().manual_seed(0)) * 1e-3
    ctx = Ctx(0, 1, client="party-0", layout=layout)
    state: dict[str, Any] = {}
    memory: dict[str, Any] = {}
    encode, decode, sent = [], [], 0
    for k in range(repeats + 1):  # the first is a warm-up, and fills what a stage remembers
        begun = time.process_time()
        y, side, state = wire.encode(x, state, ctx.at(round=k))
        middle = time.process_time()
        _, memory = wire.decode(y, side, memory, ctx.at(round=k))
        end = time.process_time()
        if k:
            encode.append(middle - begun)
            decode.append(end - middle)
            sent = len(pack(Message(y, side=side)))
    return {
        "encode_mb_s": _rate(size, encode),
        "decode_mb_s": _rate(size, decode),
        "sent_bytes": sent,
        "encode_seconds": machine.spread(encode, 6),
        "decode_seconds": machine.spread(decode, 6),
    }


def _rate(size: int, seconds: list[float]) -> float:
    return round(4 * size / max(statistics.median(seconds), 1e-9) / 1e6, 1)
