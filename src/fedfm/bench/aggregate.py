"""Ten updates of 64 MB to one vector, beside the least that could be done with them: `acc += x`, one thread.

`mean`: lift, fold and finish of the weighted mean; `checked`: the same with each message's validation;
`fixed`: the exact fold; `krum` and `median`: the robust rules, which need all messages at once. CPU seconds; the
ratio is taken within a repetition, in which all of them take turns.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from fedfm.bench import machine
from fedfm.bench.bed.idle import Crowd, Vector
from fedfm.core.context import Ctx
from fedfm.core.federation import Federation
from fedfm.core.fold import Fold, gather, settle, validate
from fedfm.core.message import Message
from fedfm.efficiency.training.mean import Mean
from fedfm.trust.robustness.rule.krum import Krum
from fedfm.trust.robustness.rule.median import CoordinateMedian
from fedfm.vectors.layout import Layout

TARGETS = {"mean": 2.0}  # times the plain sum


def measure(
    quick: bool = False, *, messages: int = 10, size: int = 16_000_000, repeats: int = 3
) -> dict[str, Any]:
    """`seconds` and `ratio` to the plain sum, by rule; `gigabytes_s` of the plain sum."""
    if quick:
        size, repeats = min(size, 1_000_000), 1
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure(messages, size, repeats)
    finally:
        torch.set_num_threads(threads)


def _measure(n: int, size: int, repeats: int) -> dict[str, Any]:
    fed = Federation(Vector(size), Crowd(n), aggregate=Mean())
    layout, rng = Layout.of({"x": (size,)}), torch.Generator().manual_seed(0)
    ctx = Ctx(0, layout=layout)
    kept = [
        Message(torch.empty(layout.size).normal_(generator=rng), mass=float(i + 1), sender=f"party-{i}")
        for i in range(n)
    ]
    acc = torch.zeros_like(kept[0].x)

    def plain() -> None:
        acc.zero_()
        for m in kept:
            acc.add_(m.x)

    def folded(kind: str = "float", checked: bool = False) -> None:
        slots = dataclasses.replace(fed, fold=kind)
        fold = Fold(kind)
        for m in kept:
            if checked:
                validate(m, m.x.numel())
            gather(slots, m, fold, ctx)
        settle(slots, fold, {}, {}, ctx, n)

    turns: dict[str, Callable[[], Any]] = {
        "plain": plain,
        "mean": folded,
        "checked": lambda: folded(checked=True),
        "fixed": lambda: folded("fixed"),
        "krum": lambda: Krum(f=1).combine(kept, {}, ctx),
        "median": lambda: CoordinateMedian().combine(kept, {}, ctx),
    }
    spent: dict[str, list[float]] = {name: [] for name in turns}
    for k in range(repeats + 1):  # the first is a warm-up
        for name, turn in turns.items():
            begun = time.process_time()
            turn()
            if k:
                spent[name].append(time.process_time() - begun)
        print(f"  {k}/{repeats}", file=sys.stderr, flush=True)
    ratio = {
        name: round(statistics.median(a / b for a, b in zip(values, spent["plain"], strict=True)), 3)
        for name, values in spent.items()
        if name != "plain"
    }
    traffic = 3 * 4 * size * n  # bytes: each addition reads two vectors and writes one
    return {
        "mean": ratio["mean"],
        "ratio": ratio,
        "seconds": {name: machine.spread(v) for name, v in spent.items()},
        "gigabytes_s": round(traffic / statistics.median(spent["plain"]) / 1e9, 2),
        "messages": n,
        "message_bytes": 4 * size,
        "threads": 1,
        "targets": TARGETS,
    }
