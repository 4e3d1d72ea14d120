"""What the text tasks share: a tokenizer, and how many of its tokens a network takes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from fedfm.core.errors import ModelError
from fedfm.tasks.networked import Networked
from fedfm.tasks.ragged import Ragged
from fedfm.tasks.text import limits


class TextObjective(Networked):
    """An objective whose module reads the tokens of texts."""

    def __init__(
        self,
        task: Any,
        tokenizer: Any,
        build: Callable[[Any], nn.Module],
        labels: tuple[str, ...] | None = None,
    ):
        super().__init__(task, build, labels)
        self.tokenizer = tokenizer

    def fits(self, network: Any) -> None:
        limits.same_vocabulary(self.task.model, network, self.tokenizer)
        if self.limit < 2:
            raise ModelError(
                f"{self.task.model}: no text fits\n    why: {limits.positions(network)} positions, "
                f"{self.task.tuning.prepends()} of them for virtual tokens\n    fix: fewer virtual tokens"
            )

    def beside(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)

    @functools.cached_property
    def limit(self) -> int:
        """The most tokens of one example."""
        network, virtual = self.network(self.whole), int(self.task.tuning.prepends())
        wanted: int = self.task.max_tokens
        return min(limits.longest(network, self.tokenizer, wanted), limits.positions(network) - virtual)

    @functools.cached_property
    def room(self) -> str:
        """What sets `limit`, in words: the task, or the model, which then takes fewer tokens than the task says."""
        wanted: int = self.task.max_tokens
        if self.limit >= wanted:
            return f"task.max_tokens ({wanted})"
        beside = f" beside {n} virtual ones" if (n := int(self.task.tuning.prepends())) else ""
        return f"the {self.limit} tokens that the model takes{beside} (task.max_tokens is {wanted})"

    def within(self, tokens: Ragged) -> Ragged:
        """The same tokens. Raises ModelError when one has no row in the network's embedding."""
        have = limits.rows(self.network(self.whole))
        if tokens.tokens.numel() and (top := int(tokens.tokens.max())) >= have:
            said = f"a text holds {self.tokenizer.convert_ids_to_tokens(top)!r}, which is number {top}"
            raise ModelError(limits.too_many(self.task.model, len(self.tokenizer), have, said))
        return tokens
