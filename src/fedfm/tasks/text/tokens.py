"""What the text tasks share: one network per tuning over one frozen base, and the folder of a tuned model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from fedfm.core.context import Terms
from fedfm.core.errors import FedfmError, ModelError
from fedfm.models.identity import Base, base
from fedfm.tasks import limits
from fedfm.tasks.bound import BoundModule, Objective
from fedfm.tasks.export import write_task
from fedfm.tasks.network import share
from fedfm.tasks.ragged import Ragged


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
        network = self.network(self.whole)
        limits.same_vocabulary(self.task.model, network, self.tokenizer)
        if self.limit < 2:
            raise ModelError(
                f"{self.task.model}: no text fits\n    why: {limits.positions(network)} positions, "
                f"{self.task.tuning.prepends()} of them for virtual tokens\n    fix: fewer virtual tokens"
            )
        tuning = self.task.tuning
        return BoundModule(
            self.whole, self, axes=tuning.axes(self.whole), buffers=tuning.buffers(self.whole), device=device
        )

    def narrow(self, terms: Terms) -> nn.Module:
        """The module of a tuning of smaller rank. Raises FedfmError for a width below 1."""
        if terms.width < 1.0:
            raise FedfmError("a text task can be cut in rank, not in width; leave width at 1 and set rank")
        tuning = self.task.tuning if terms.rank is None else self.task.tuning.at_rank(terms.rank)
        module = self.build(replace(self.task, tuning=tuning, start=None)).train()
        assert self.whole is not None
        share(module, self.whole, own=tuning.buffers(module))
        return module

    def save(self, module: Any, folder: str) -> None:
        """Write the tuned model: a PEFT adapter, or the whole network, in the format of its own ecosystem."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        self.task.tuning.save(self.network(module), self.base, place)
        if (place / "config.json").exists():
            self.tokenizer.save_pretrained(place)
        write_task(self.task, self.labels, self.base, place)

    def tuned(self, module: nn.Module) -> tuple[Any, Any, str]:
        network = self.network(module)
        name = next(n for n, m in module.named_modules() if m is network)
        return self.task.tuning, network, f"{name}." if name else ""

    @functools.cached_property
    def base(self) -> Base:
        """The identity of the base model."""
        return base(self.task.model)

    @functools.cached_property
    def limit(self) -> int:
        """The most tokens of one example."""
        network, virtual = self.network(self.whole), int(self.task.tuning.prepends())
        wanted: int = self.task.max_tokens
        return min(limits.longest(network, self.tokenizer, wanted), limits.positions(network) - virtual)

    def within(self, tokens: Ragged) -> Ragged:
        """The same tokens. Raises ModelError when one has no row in the network's embedding."""
        have = limits.rows(self.network(self.whole))
        if tokens.tokens.numel() and (top := int(tokens.tokens.max())) >= have:
            said = f"a text holds {self.tokenizer.convert_ids_to_tokens(top)!r}, which is number {top}"
            raise ModelError(limits.too_many(self.task.model, len(self.tokenizer), have, said))
        return tokens

    def network(self, module: Any) -> Any:
        """The part of the module that the tuning made."""
        return module
