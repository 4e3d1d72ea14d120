"""A task of its own for each party: other networks, tunings and tokenizers, over the same rows and classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from fedfm.cards.registry import knob, method
from fedfm.core.context import Terms
from fedfm.core.errors import FedfmError, ModelError, Problem
from fedfm.core.protocols import Bound, Task
from fedfm.core.schema import Column
from fedfm.direction import unsaid
from fedfm.tasks.bound import Objective, evaluating
from fedfm.vectors.layout import Layout
from fedfm.vectors.patterns import first

PROBED = 4  # rows of the probe


@method("task-by-client", slot="task", section="IV.A")
@dataclass(frozen=True)
class TaskByClient(Task):
    """Other tasks for other parties: `{"party-0": ImageClassification((8, 16)), "*": ImageClassification()}`.

    The first pattern that matches a party's name holds. All have the same classes and the same primary score; what
    they have in common is what their models say, so a layout of theirs is one row's class scores. Needs a client
    that sends those (fedmd).
    """

    rules: Mapping[str, Task] = knob(factory=dict, doc="pattern of parties -> task", names=("parties", ""))

    whole = False

    def __post_init__(self) -> None:
        if any(not t.whole for t in self.rules.values()):
            raise ValueError(
                "a task of task-by-client is for one architecture: write all patterns in one list of rules"
            )

    @property
    def columns(self) -> tuple[Column, ...]:  # type: ignore[override]
        found: dict[str, Column] = {}
        for column in (c for task in self.rules.values() for c in task.columns):
            found.setdefault(column.name, column)
        return tuple(found.values())

    def of(self, party: str) -> str:
        """The pattern that holds for a party."""
        return first(self.rules, party, "task-by-client")

    def open(self, data: Any, device: str = "cpu") -> PartyBounds:
        """Raises ModelError where the models do not say the same kind of thing."""
        if not self.rules:
            raise ModelError("task-by-client: no party has a task\n    fix: rules={'party-0': ..., '*': ...}")
        return PartyBounds(self, {name: task.open(data, device) for name, task in self.rules.items()})

    def each(self, bound: Any, ids: Sequence[str]) -> dict[str, tuple[Task, Bound, tuple[str, ...]]]:
        of = {i: self.of(i) for i in ids}
        return {
            name: (task, bound.bounds[name], tuple(i for i in ids if of[i] == name))
            for name, task in self.rules.items()
        }

    def probe(self, bound: Any, rows: Any) -> list[Problem]:
        return [
            replace(p, where=f"task.rules.{name}")
            for name, task in self.rules.items()
            for p in (*_wide(bound.bounds[name], rows, bound.classes), *task.probe(bound.bounds[name], rows))
        ]


def _wide(bound: Bound, rows: Any, classes: int) -> Iterator[Problem]:
    """Does a model give as many class scores as there are classes?"""
    encoded = bound.encode(replace(rows, rows=rows.rows[:PROBED]))
    with evaluating(bound.module):
        width = tuple(
            bound.objective.logits(bound.module, bound.batch(encoded, torch.arange(len(encoded)))).shape
        )
    if width != (len(encoded), classes):
        yield Problem(
            "task",
            f"its model gives {width[-1] if width else 'no'} class scores a row, and there are {classes} classes",
            "the mean over parties is of scores of the same classes",
            "an output layer of that width",
        )


class PartyBounds(Bound):
    """The bounds of all architectures. Its own vector is the class scores of one row, which all have in common."""

    def __init__(self, task: TaskByClient, bounds: Mapping[str, Bound]):
        self.task, self.bounds = task, dict(bounds)
        objectives = [b.objective for b in self.bounds.values()]
        for what in ("classes", "primary", "higher_is_better"):
            if len(found := {str(getattr(o, what)) for o in objectives}) > 1:
                raise ModelError(
                    f"task-by-client: the tasks differ in their {what} ({', '.join(sorted(found))})\n"
                    "    why: parties average class scores, and are scored alike\n    fix: tasks over the same classes"
                )
        self.classes = int(objectives[0].classes)
        if not self.classes:
            raise ModelError(
                "task-by-client: these tasks have no classes\n    why: parties learn from each other's class scores\n"
                "    fix: tasks that classify (sequence-classification, image-classification, Torch under cross-entropy)"
            )
        one = next(iter(self.bounds.values()))
        self.layout = Layout.of({"scores": (self.classes,)})
        self.init = torch.zeros(self.layout.size)
        self.params, self.grads, self.device = self.init.clone(), self.init.clone(), one.device
        self.total = sum(b.total for b in self.bounds.values())
        self.objective = _Common(objectives[0])
        self.module = nn.ModuleList([b.module for b in self.bounds.values()])

    def at(self, client: str, terms: Terms) -> Bound:
        return self.bounds[self.task.of(client)].at(client, terms)

    def _none(self, *given: Any, **more: Any) -> Any:
        raise FedfmError(
            "parties have architectures of their own: there is no one model; ask `at(party, terms)`"
        )

    def encode(self, rows: Any) -> Any:
        """Of no rows: what a party's rows look like (`feasible` asks that)."""
        return self._none() if len(rows) else next(iter(self.bounds.values())).encode(rows)

    load = read = batch = loss = losses = gradient = score = risk = part = _none


class _Common(Objective):
    """What the objectives of all architectures have in common."""

    def __init__(self, one: Any):
        self.primary, self.higher_is_better, self.classes = one.primary, one.higher_is_better, one.classes
        self.directed = not unsaid(one)
