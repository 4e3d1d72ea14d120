"""What tasks on a pre-trained network share: one network per tuning over one frozen base, and the folder of a tuned model."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fedfm.core.context import Terms
from fedfm.core.errors import FedfmError
from fedfm.core.protocols import Scores
from fedfm.models.identity import Base, base
from fedfm.tasks.bound import BoundModule, Objective, members
from fedfm.tasks.export import write_task, write_weights
from fedfm.tasks.network import finite, guarded, share

HEAD = "head.safetensors"  # the head's file


class Networked(Objective):
    """An objective over a module that `build` makes from the task's spec (a tuning may be cut in rank)."""

    def __init__(self, task: Any, build: Callable[[Any], nn.Module], labels: tuple[str, ...] | None = None):
        self.task, self.build, self.labels = task, build, labels
        self.whole: nn.Module | None = (
            None  # the task's own module, whose frozen parameters its sub-models share
        )

    def bind(self, device: str) -> BoundModule:
        """Build the task's module and bind it, in training mode (the caller's seeded context governs dropout)."""
        self.whole = self.build(self.task).train()
        self.fits(self.network(self.whole))
        tuning = self.task.tuning
        return BoundModule(
            self.whole, self, axes=tuning.axes(self.whole), buffers=tuning.buffers(self.whole), device=device
        )

    def fits(self, network: Any) -> None:
        """Raise ModelError for a network that cannot take what the task would give it."""

    def narrow(self, terms: Terms) -> nn.Module:
        """The module of a tuning of smaller rank. Raises FedfmError for a width below 1."""
        if terms.width < 1.0:
            raise FedfmError("this task can be cut in rank, not in width; leave width at 1 and set rank")
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
            self.beside(place)
        write_task(self, place)

    @property
    def inputs(self) -> list[str]:
        """Of what sorts its rows were, for whoever asks the tuned model; [] where there is one sort, or none was seen."""
        return []

    def beside(self, folder: Path) -> None:
        """Write what a whole network needs besides its weights: a tokenizer, an image processor's settings."""

    def tuned(self, module: nn.Module) -> tuple[Any, Any, str]:
        network = self.network(module)
        name = next(n for n, m in module.named_modules() if m is network)
        return self.task.tuning, network, f"{name}." if name else ""

    @functools.cached_property
    def base(self) -> Base:
        """The identity of the base model."""
        return base(self.task.model)

    def network(self, module: Any) -> Any:
        """The part of the module that the tuning made."""
        return module


class Headed(Networked):
    """One whose module is an `encoder`, which the tuning made, and a linear `head`."""

    frozen = False  # the encoder: what it makes of a row is always the same

    def bind(self, device: str) -> BoundModule:
        bound = super().bind(device)
        encoder = self.network(bound.module)
        self.frozen = not self.task.dropout and not any(p.requires_grad for p in encoder.parameters())
        return bound

    def network(self, module: Any) -> Any:
        return module.encoder

    def save(self, module: Any, folder: str) -> None:
        """Write the encoder's part as the tuning does, the head as `head.safetensors`, and a README."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        head = {n: p.detach().to("cpu", copy=True) for n, p in module.head.state_dict().items()}
        write_weights(head, Path(folder) / HEAD)
        super().save(module, folder)


def read_head(head: nn.Linear, folder: Path) -> None:
    """Take the head that `Headed.save` wrote. Raises ModelError."""
    from safetensors.torch import load_file

    with guarded(str(folder), f"{HEAD} cannot be read"):
        head.load_state_dict(load_file(folder / HEAD))
    finite(f"{folder}/{HEAD}", head.named_parameters())


def graded(hits: Tensor, losses: Tensor, groups: Sequence[str | None]) -> Scores:
    """`accuracy`, `loss` and `accuracy/GROUP` of rows (n,): right or not, and their losses in nats; in any order the same."""
    if not len(hits):
        return {}
    scores: Scores = {
        "accuracy": (float(hits.sum()), len(hits)),
        "loss": (math.fsum(losses.tolist()), len(hits)),
    }
    for name, mine in members(groups):
        scores[f"accuracy/{name}"] = float(hits[mine].sum()), len(mine)
    return scores
