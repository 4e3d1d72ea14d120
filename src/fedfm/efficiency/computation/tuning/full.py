"""Full fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fedfm.cards.registry import method
from fedfm.models.identity import Base
from fedfm.tasks.tuning import Tuning


@method(
    "full",
    slot="tuning",
    section="IV.B",
    survey=(43,),
    paper="Zhang et al., FedPETuning: when federated learning meets the parameter-efficient tuning methods of "
    "pre-trained language models, 2023",
    also=("full-finetuning", "all"),
)
@dataclass(frozen=True)
class Full(Tuning):
    """Train every parameter; the model is written whole, in Hugging Face layout."""

    exact_merge = True

    def apply(self, base: nn.Module) -> nn.Module:
        return base.requires_grad_(True)

    def save(self, network: Any, base: Base, folder: Path) -> None:
        write_whole(network, folder)


def write_whole(network: Any, folder: Path) -> None:
    """`save_pretrained` of a network whose tensors are views on one buffer (tied ones stay tied)."""
    copies: dict[int, Any] = {}
    state = {
        name: copies.setdefault(t.data_ptr(), t.detach().to("cpu", copy=True))
        for name, t in network.state_dict().items()
    }
    network.save_pretrained(folder, state_dict=state)
    for file in folder.glob("*.safetensors"):
        file.chmod((folder / "config.json").stat().st_mode)  # their writer makes them private
