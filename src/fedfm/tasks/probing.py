"""Probes: what a task needs of its model is tried on a handful of real rows, before any work."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from fedfm.core.errors import FedfmError, Problem
from fedfm.core.protocols import Bound, Task

ROWS = 4  # of each party that is looked at
PARTIES = 8


def open_task(task: Task, data: Any, device: str = "cpu") -> Bound:
    """The opened task, with torch's global generator and thread count as they were."""
    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[]):
            return task.open(data, device)
    finally:
        torch.set_num_threads(threads)


def probe(task: Task, bound: Bound, parties: Any) -> list[Problem]:
    """Everything that is wrong with the opened task on a few rows of some parties; [] when nothing is.

    The model's parameters and modes, and torch's generators, are afterwards what they were.
    """
    some = _sample(parties, parties.ids)
    if not len(some):
        return []
    each = task.each(bound, parties.ids)
    before = {name: own.read() for name, (_, own, _) in each.items()}
    modes = [(m, m.training) for m in bound.module.modules()]
    try:
        with torch.random.fork_rng(devices=[]):
            problems = [p for _, own, ids in each.values() for p in _steady(own, _sample(parties, ids))]
            problems += task.probe(bound, some)
    except FedfmError as e:
        text = str(e).split("\n")
        found = {
            key: next((t.strip()[5:] for t in text if t.strip().startswith(f"{key}: ")), "")
            for key in ("why", "fix")
        }
        problems = [
            Problem(
                "task", text[0], found["why"] or "a few real rows were tried", found["fix"] or "see above"
            )
        ]
    finally:
        for name, (_, own, _) in each.items():
            own.load(before[name])
        for module, training in modes:
            module.training = training
    return problems


def _sample(parties: Any, ids: Sequence[str]) -> Any:
    """A few rows of some of these parties, as one shard."""
    shards = [parties.train(i) for i in itertools.islice(ids, PARTIES)]
    rows = tuple(row for shard in shards for row in shard.rows[:ROWS])
    return replace(shards[0], rows=rows) if shards else ()


def _steady(bound: Bound, rows: Any) -> Iterator[Problem]:
    """A step leaves nothing behind but its gradient: the loss at the same parameters is the same bits."""
    encoded = bound.encode(rows) if len(rows) else ()
    if not len(encoded):
        return
    start = bound.read()
    batch = bound.batch(encoded, torch.arange(len(encoded)))

    def risk() -> float:
        bound.load(start)
        return bound.risk(encoded)[0]

    first = risk()
    bound.module.train()
    bound.gradient(batch)
    if (second := risk()) != first and first == first:
        yield Problem(
            "task",
            "the model keeps something from one step to the next that its parameter vector does not hold",
            f"at the same parameters the loss was {first:g} before a step and {second:g} after it",
            "keep it in a buffer, and declare that: BoundModule(..., buffers=(...))",
        )
