"""A step leaves nothing behind but its gradient, and taken again it is the same step: tried before any work.

Whatever else it leaves is lost in another process, at a resume, and under a guarantee it leaves unnoticed in the model.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from fedfm.core.errors import Problem
from fedfm.core.protocols import Bound

SEED = 1
TEXTS = 2  # texts that a step is taken on, the shortest: what a network keeps it keeps of any, and long ones cost minutes


def unsteady(bound: Bound, rows: Any) -> Iterator[Problem]:
    """What a step on these rows leaves behind or draws from elsewhere; the parameters are not put back."""
    encoded = next((e for some in (_brief(rows), rows) if len(some) and len(e := bound.encode(some))), ())
    if not len(encoded):
        return
    start, still = bound.read(), _still(bound)

    def risk() -> float:
        bound.load(start)
        return bound.risk(encoded)[0]

    def step() -> float:
        bound.load(start)
        bound.module.train()
        batch = bound.batch(encoded, torch.arange(len(encoded)))  # anew: a module may write into it
        with torch.random.fork_rng(devices=_cuda(bound)):
            torch.manual_seed(SEED)
            return bound.gradient(batch)

    first, again = risk(), risk()
    if _differ(first, again):
        yield Problem(
            "task",
            "the model scores the same rows otherwise each time",
            f"at the same parameters their loss was {first:g} and {again:g}: it draws at random in evaluation, or keeps something "
            "from call to call (a state of its own, a count)",
            "draw only `if module.training`, with torch's own generator; begin each call with the same state",
        )
        return
    streams = _streams()
    one = step()
    if sick := _sick(bound, first):
        yield sick
        return
    if moved := [n for n, t in _still(bound).items() if not torch.equal(t, still[n])]:
        some = ", ".join(moved[:3]) + ", ..." * (len(moved) > 3)
        yield Problem(
            "task",
            f"a step changes frozen parameters ({some})",
            "they are in no message and under no guarantee: each process would have its own, and the saved model hold them",
            f"declare them: Torch(..., buffers={tuple(moved[:3])!r}), or of a BoundModule; or change nothing in forward",
        )
        return
    if drawn := [name for name, state in _streams().items() if state != streams[name]]:
        yield Problem(
            "task",
            f"a step draws from {drawn[0]}",
            "its stream is not seeded by the run: the same command would give another model each time",
            "draw with torch (torch.rand, torch.randn, torch.distributions), whose generator the run seeds",
        )
        return
    if _differ(first, second := risk()):
        yield Problem(
            "task",
            "the model keeps something from one step to the next that its parameter vector does not hold",
            f"at the same parameters the loss was {first:g} before a step and {second:g} after it",
            "keep it in a buffer that is saved (register_buffer(NAME, ..., persistent=True)), and declare that: Torch(..., "
            "buffers=(NAME,)), or of a BoundModule",
        )
        return
    if _differ(one, two := step(), 0.0 if not _cuda(bound) else 1e-3):
        yield Problem(
            "task",
            "the same step taken again is another step",
            f"at the same parameters and seed the loss was {one:g} and then {two:g}: the module or the loss draws from a "
            "generator of its own, or keeps something between steps, which worker processes and a resume do not have",
            "draw with torch's global generator; keep state in a declared buffer of the module: Torch(..., buffers=(...))",
        )


def _sick(bound: Bound, loss: float) -> Problem | None:
    """What is wrong with a loss, or with the gradient that was just computed, that is no number before any training."""
    grads = getattr(bound, "grads", None)  # a task's own bound may keep it where nobody sees it
    if math.isfinite(loss) and not (isinstance(grads, torch.Tensor) and not grads.isfinite().all()):
        return None
    sick = "loss" if not math.isfinite(loss) else "first gradient"
    return Problem(
        "task",
        f"the model's {sick} is no number, before any training",
        "real rows were shown to it as it is: its weights, or a value in these rows, cannot be computed with, and every party's "
        "first step would end in NaN, whatever its learning rate",
        "task.model=a checkpoint whose own loss is a number; or look at the largest values of the data, and at the loss",
    )


def _brief(rows: Any) -> Any:
    """The shortest of rows that are text; all rows of anything else."""
    texts = [sum(len(v) for v in r.values() if isinstance(v, str)) for r in rows.rows] if len(rows) else []
    if not sum(texts) or any(hasattr(v, "shape") for v in rows.rows[0].values()):
        return rows
    shortest = sorted(range(len(texts)), key=texts.__getitem__)[:TEXTS]
    return replace(rows, rows=tuple(rows.rows[i] for i in shortest))


def _still(bound: Bound) -> dict[str, torch.Tensor]:
    """A sum of each frozen parameter, which is in no vector: exact enough to see that it has been written to."""
    held = {e.name for e in bound.layout.entries}
    with torch.no_grad():
        return {
            n: torch.stack([p.sum(dtype=torch.float64), p.reshape(-1)[:1].double().sum()])
            for n, p in bound.module.named_parameters()
            if n not in held and not p.is_complex()
        }


def _streams() -> dict[str, Any]:
    """Where the global generators that are not torch's stand."""
    return {
        "numpy.random": [getattr(v, "tolist", lambda v=v: v)() for v in np.random.get_state()],
        "Python's random": random.getstate(),
    }


def _cuda(bound: Bound) -> list[Any]:
    device = getattr(bound, "device", torch.device("cpu"))
    return [device] if device.type == "cuda" else []


def _differ(one: float, other: float, rtol: float = 0.0) -> bool:
    """Are two losses unlike? One that is no number is somebody else's matter."""
    return one == one and other == other and abs(one - other) > rtol * abs(one)
