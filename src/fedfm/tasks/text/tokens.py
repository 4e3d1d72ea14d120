"""What the text tasks share: one network per tuning over one frozen base, and the folder of a tuned model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from fedfm.core.context import Terms
from fedfm.core.errors import FedfmError
from fedfm.tasks.bound import BoundModule, Objective
from fedfm.tasks.export import write_task
from fedfm.tasks.network import longest, share


class TextObjective(Objective):
    """An objective over a module that `build` makes from the task's spec (a tuning may be cut in rank)."""

    def __init__(
        self,
        task: Any,
        tokenizer: Any,
        build: Callable[[Any], nn.Module],
        labels: tuple[str, ...] | None = None,
    ):
        self.task, self.tokenizer, self.build, self.labels = task, tokenizer, build, labels
        self.whole: nn.Module | None = (
            None  # the task's own module, whose frozen parameters its sub-models share
        )

    def bind(self, device: str) -> BoundModule:
        """Build the task's module and bind it, in training mode (the caller's seeded context governs dropout)."""
        self.whole = self.build(self.task).train()
        tuning = self.task.tuning
        return BoundModule(
            self.whole, self, axes=tuning.axes(self.whole), buffers=tuning.buffers(self.whole), device=device
        )

    def narrow(self, terms: Terms) -> nn.Module:
        """The module of a tuning of smaller rank. Raises FedfmError for a width below 1."""
        if terms.width < 1.0:
            raise FedfmError("a text task can be cut in rank, not in width; leave width at 1 and set rank")
        tuning = self.task.tuning if terms.rank is None else self.task.tuning.at_rank(terms.rank)
        module = self.build(replace(self.task, tuning=tuning)).train()
        assert self.whole is not None
        share(module, self.whole, own=tuning.buffers(module))
        return module

    def save(self, module: Any, folder: str) -> None:
        """Write the tuned model: a PEFT adapter, or the whole network, in the format of its own ecosystem."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        self.task.tuning.save(self.network(module), self.task.model, place)
        if (place / "config.json").exists():
            self.tokenizer.save_pretrained(place)
        write_task(self.task, self.labels, place)

    @functools.cached_property
    def limit(self) -> int:
        """The most tokens of one example."""
        return longest(self.network(self.whole), self.tokenizer, self.task.max_tokens)

    def network(self, module: Any) -> Any:
        """The part of the module that the tuning made."""
        return module
