"""Head-only tuning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfm.cards.registry import method
from fedfm.core.errors import ModelError
from fedfm.efficiency.computation.tuning.full import write_whole
from fedfm.models.identity import Base
from fedfm.tasks.tuning import Tuning


@method(
    "head",
    slot="tuning",
    section="IV.B",
    survey=(42,),
    paper="Sun et al., Conquering the communication constraints to enable large pre-trained models in federated "
    "learning, 2022",
    also=("linear-probe", "last-layer"),
)
@dataclass(frozen=True)
class Head(Tuning):
    """Train the head alone: a classifier's linear layer, or a language model's output layer."""

    exact_merge = True

    def apply(self, base: Any) -> Any:
        """Raises ModelError for a language model whose output layer is its input embedding."""
        base.requires_grad_(False)
        output = base.get_output_embeddings()
        if output is not None:
            if output.weight is base.get_input_embeddings().weight:
                raise ModelError(
                    f"{type(base).__name__} has no head of its own: its output layer is tied to its input "
                    "embedding\n    fix: use the tuning lora or full"
                )
            output.requires_grad_(True)
        return base

    def save(self, network: Any, base: Base, folder: Path) -> None:
        if network.get_output_embeddings() is not None:
            write_whole(network, folder)
