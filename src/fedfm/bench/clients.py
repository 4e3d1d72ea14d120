"""A thousand clients that do no work, 1 MB each: seconds a round, and what the server holds at once.

Memory is watched in rounds of their own, at every message that is released: messages that wait for their turn, and
the resident size over that before the round. With one slow client, first in the plan, all others would pile up
behind it if the engine's window did not hold them back.
"""

from __future__ import annotations

import sys
from typing import Any

from fedfm.bench import machine
from fedfm.bench.bed.arena import ENDLESS, NEVER, Arena, opened
from fedfm.bench.bed.idle import Crowd, Idle, Vector
from fedfm.core.federation import Federation
from fedfm.core.job import UPLOAD
from fedfm.engines.inprocess import InProcess
from fedfm.engines.processes import Processes

TARGETS = {"inprocess": 1.0, "processes": 2.5}  # seconds a round of 1,000


def measure(
    quick: bool = False,
    *,
    clients: int = 1000,
    size: int = 250_000,
    repeats: int = 5,
    sleep_s: float = 0.5,
    workers: int = 0,
) -> dict[str, Any]:
    """`inprocess`, `processes`: seconds a round (wall, CPU) and memory; `slow`: the same with one slow client."""
    if quick:
        clients, repeats = min(clients, 200), 1
    found: dict[str, Any] = {"slow": {}}
    for slow in (False, True):
        for name, engine in (("inprocess", InProcess()), ("processes", Processes(workers))):
            print(f"  {name}{', one slow client' if slow else ''}", file=sys.stderr, flush=True)
            fed = Federation(
                Vector(size),
                Crowd(clients),
                client=Idle("party-0", sleep_s) if slow else Idle(),
                engine=engine,
                evaluate=NEVER,
                rounds=ENDLESS,
                device="cpu",
            )
            with opened(fed) as arena:
                (found["slow"] if slow else found)[name] = _rounds(arena, 1 if slow else repeats)
    return {**found, "targets": TARGETS, "clients": clients, "update_bytes": size * 4, "slow_s": sleep_s}


def _rounds(arena: Arena, repeats: int) -> dict[str, Any]:
    arena.lap()  # a warm-up
    laps = [arena.lap() for _ in range(repeats)]
    return {
        "seconds": machine.spread(lap.wall for lap in laps),
        "cpu": machine.spread(lap.cpu for lap in laps),
        "work_wall": machine.spread(lap.record["cpu"]["work"] for lap in laps),
        **_watched(arena),
    }


def _watched(arena: Arena) -> dict[str, Any]:
    """A round in which everything that is held is counted whenever a session is released."""
    run, held = arena.run, 0
    pids: list[int | None] = [None, *machine.workers(run.engine)]
    before = [machine.resident(p) for p in pids]
    peak = list(before)

    def look(done: int, planned: int) -> None:
        nonlocal held
        heard = sum(said.phase == UPLOAD for said in getattr(run.engine, "_heard", ()))
        held = max(held, heard + sum(s.upload is not None for s in run.hub.live.values()))
        peak[:] = [max(a, machine.resident(p)) for a, p in zip(peak, pids, strict=True)]

    run.tick, tick = look, run.tick
    arena.lap()
    run.tick = tick
    growth = [a - b for a, b in zip(peak, before, strict=True)]
    return {
        "held": held,
        "window": run.engine.ahead,
        "growth_bytes": growth[0],
        "worker_growth_bytes": max(growth[1:], default=0),
        "workers": len(pids) - 1,
    }
