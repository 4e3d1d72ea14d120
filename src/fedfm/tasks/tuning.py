"""What a tuning is: which parameters of a base network are trained, and how the result is written.

A task loads the base, hands it to the tuning, and adds what is its own (a classification head, a loss).
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from fedfm.core.errors import FedfmError


class Tuning:
    """A frozen spec in the slot "tuning"; overrides `apply` and `save`."""

    def apply(self, base: nn.Module) -> nn.Module:
        """Mark what is trained and freeze the rest; returns the network to call, which may wrap `base`."""
        raise NotImplementedError

    def axes(self, module: nn.Module) -> dict[str, tuple[str, ...]]:
        """The terms that may cut a parameter's dimensions, by the parameter's name in `module`."""
        return {}

    def buffers(self, module: nn.Module) -> tuple[str, ...]:
        """Names in `module` that belong to the layout although nobody trains them."""
        return ()

    def at_rank(self, rank: int) -> Tuning:
        """The same tuning with its first `rank` directions only."""
        name = getattr(self, "method_name", type(self).__name__)
        raise FedfmError(f"the tuning '{name}' has no rank to cut; use lora")

    def save(self, network: nn.Module, base: str, folder: Path) -> None:
        """Write what was trained of the network; `base` is what a reader must load it over."""
        raise NotImplementedError
