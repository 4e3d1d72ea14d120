"""Rounds under secure aggregation, parties that do no work: seconds of keys, shares, masks, sum and unmasking.

All parties and the server share one process, so a round's seconds are those of n parties one after the other; a
party's own are about an n-th of them.
"""

from __future__ import annotations

import sys
from typing import Any

from fedfm.bench import machine
from fedfm.bench.bed.arena import ENDLESS, NEVER, opened
from fedfm.bench.bed.idle import Crowd, Idle, Vector
from fedfm.core.federation import Federation, replace
from fedfm.engines.inprocess import InProcess
from fedfm.trust.privacy.secure.secagg import SecAgg


def measure(
    quick: bool = False, *, parties: tuple[int, ...] = (10, 30), size: int = 10_000, repeats: int = 3
) -> dict[str, Any]:
    """`rounds`: by number of parties, seconds a round with and without the protection, and bytes a round."""
    if quick:
        parties, repeats = parties[:1], 1
    found = {}
    for n in parties:
        print(f"  {n} parties", file=sys.stderr, flush=True)
        fed = Federation(
            Vector(size),
            Crowd(n),
            client=Idle(),
            engine=InProcess(),
            evaluate=NEVER,
            rounds=ENDLESS,
            device="cpu",
        )
        found[str(n)] = {
            "secagg": _rounds(replace(fed, uplink=SecAgg()), repeats),
            "plain": _rounds(fed, repeats),
        }
    return {"rounds": found, "values": size}


def _rounds(fed: Federation, repeats: int) -> dict[str, Any]:
    with opened(fed) as arena:
        arena.lap()  # a warm-up
        laps = [arena.lap() for _ in range(repeats)]
    if failed := [lap.record["failed"] for lap in laps if lap.record["failed"]]:
        raise RuntimeError(f"secagg: the round failed: {failed[0]}")
    return {
        "seconds": machine.spread(lap.wall for lap in laps),
        "cpu": machine.spread(lap.cpu for lap in laps),
        "bytes": laps[-1].record["bytes"],
    }
