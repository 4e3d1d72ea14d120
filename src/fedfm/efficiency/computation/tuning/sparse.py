"""Sparse tuning: a few entries of chosen weight matrices, the same for everybody, are trained and sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.efficiency.computation.tuning.lora import inner
from fedfm.efficiency.computation.tuning.peft import ADAPTER, Peft
from fedfm.efficiency.computation.tuning.targets import targets


@method(
    "sparse",
    slot="tuning",
    section="IV.B",
    survey=(44,),
    paper="Bhardwaj et al., Sparse High Rank Adapters (SHiRA), NeurIPS 2024; as the first stage of Babakniya et al., "
    "SLoRA: federated parameter efficient fine-tuning of language models, 2023",
    departs="SLoRA names a density; here it follows from r, as many values as LoRA of rank r has",
)
@dataclass(frozen=True)
class Sparse(Peft):
    """W = W0 + M o U: the mask M is random, drawn once from `mask_seed`; only U's entries under it are trained and sent.

    r (in + out) entries a layer, as LoRA of rank r has: in a layer of 384 x 384, r = 2 is 1 % of it. No index travels.
    """

    r: int = knob(2, "r (in + out) entries of a layer are trained", low=1, high=65536)
    targets: tuple[str, ...] | str | None = knob(
        None, "names of linear layers, or all-linear; null: the query and value projections"
    )
    mask_seed: int = knob(0, "of the masks, the same at every party", low=0)

    exact_merge = True
    settings = {"r": "r", "mask_seed": "random_seed", "targets": "target_modules"}
    peft_type = "SHIRA"

    def config(self, base: Any) -> Any:
        from peft import ShiraConfig

        return ShiraConfig(
            r=self.r, random_seed=self.mask_seed, target_modules=list(targets(base, self.targets))
        )

    def apply(self, base: Any) -> Any:
        torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]  # as it is: nobody is warned
        return super().apply(base)

    def moved(
        self, network: Any, start: Mapping[str, Tensor], end: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """M o U of each adapted layer (out, in)."""
        found = {}
        for name, layer in network.named_modules():
            if ADAPTER in getattr(layer, "shira_weight", {}):
                update = torch.zeros(layer.out_features, layer.in_features)
                rows, columns = layer.shira_indices[ADAPTER].long().cpu()
                update[rows, columns] = end[f"{name}.shira_weight.{ADAPTER}"]
                found[f"{inner(name)}.weight"] = update
        return found
