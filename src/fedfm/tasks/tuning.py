"""What a tuning is: which parameters of a base network are trained, and how the result is written and read.

A task loads the base, hands it to the tuning, and adds what is its own (a classification head, a loss).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from fedfm.core.errors import FedfmError, ModelError
from fedfm.models.identity import Base
from fedfm.tasks.export import to_whole


class Tuning:
    """A frozen spec in the slot "tuning"; overrides `apply` and `save`, and `reload` if it writes no whole model."""

    exact_merge: ClassVar[bool] = (
        False  # its result can be folded into the base, which then is the same function
    )

    def apply(self, base: Any) -> Any:
        """Mark what is trained and freeze the rest; returns the network to call, which may wrap `base`."""
        raise NotImplementedError

    def axes(self, module: nn.Module) -> dict[str, tuple[str, ...]]:
        """The terms that may cut a parameter's dimensions, by the parameter's name in `module`."""
        return {}

    def buffers(self, module: nn.Module) -> tuple[str, ...]:
        """Names in `module` that belong to the layout although nobody trains them."""
        return ()

    def prepends(self) -> int:
        """Virtual tokens before every text: they take positions, and the network gives a feature for each."""
        return 0

    def at_rank(self, rank: int) -> Tuning:
        """The same tuning with its first `rank` directions only."""
        raise FedfmError(f"the tuning '{self.name}' has no rank to cut; use lora")

    def save(self, network: Any, base: Base, folder: Path) -> None:
        """Write what was trained of the network; `base` is what a reader must load it over."""
        raise NotImplementedError

    def reload(self, base: Any, folder: Path) -> Any:
        """The network that `save` wrote, over the base: itself where the whole network was written."""
        return base

    def merged(self, network: Any) -> Any:
        """A network of the base's own architecture with the result folded in, as others would export it."""
        return network

    def like(self, folder: Path) -> Tuning:
        """This tuning with the settings of the one that was saved in `folder`. Raises ModelError."""
        raise ModelError(
            f"task.start={folder}: holds an adapter, and the tuning '{self.name}' goes on from a whole model\n"
            "    why: it writes no adapter\n    fix: add the adapter to its base, and name the result as task.model, without "
            f"task.start: {to_whole(folder)}"
        )

    def resume(self, network: Any, folder: Path) -> None:
        """Take the trained tensors of the folder that `like` read. Raises ModelError."""

    # ---- a warm start -----------------------------------------------------------------------------------------
    def moved(
        self, network: Any, start: Mapping[str, Tensor], end: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """By how much each parameter of the base has moved, by its name there, when the trained tensors went from `start`
        to `end` (by their names in `network`). Here what is trained are parameters of the base. Raises ModelError."""
        return {n: t - start[n] for n, t in end.items()}

    def begin(
        self, network: Any, start: Mapping[str, Tensor], before: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Trained tensors with which the network does what the base does once it has moved by `before`, as well as they
        can; those left out stay at `start`. Raises ModelError where the tuning cannot say it."""
        if missing := sorted(before.keys() - start.keys()):
            raise ModelError(
                f"the tuning '{self.name}' does not train {', '.join(missing[:3])}\n    why: the stage before has "
                "moved it, and that would be lost\n    fix: full, lora, or what the stage before trains"
            )
        return {n: start[n] + u for n, u in before.items()}

    @property
    def name(self) -> str:
        return str(getattr(self, "method_name", type(self).__name__))
