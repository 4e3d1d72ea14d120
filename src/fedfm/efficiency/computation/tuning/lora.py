"""LoRA: low-rank updates beside frozen linear layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedfm.cards.registry import knob, method
from fedfm.core.errors import ModelError
from fedfm.efficiency.computation.tuning.peft import ADAPTER, Peft, write
from fedfm.efficiency.computation.tuning.targets import ALL, targets
from fedfm.models.identity import Base
from fedfm.tasks.export import to_whole

_A, _B = f"lora_A.{ADAPTER}.weight", f"lora_B.{ADAPTER}.weight"


@method(
    "lora",
    slot="tuning",
    section="IV.B",
    survey=(63,),
    paper="Hu et al., LoRA: low-rank adaptation of large language models, ICLR 2022",
    atlas=("lora",),
)
@dataclass(frozen=True)
class LoRA(Peft):
    """Add (alpha / r) B A to chosen linear layers: A (r, in) random and the same for everybody, B (out, r) zero.

    Parameters keep PEFT's names, `...lora_A.default.weight` and `...lora_B.default.weight`. With `residual`, a
    frozen `...lora_R` (out, in) beside them joins the layout, and the layer adds (alpha / r) (B A + R): the room
    that exact averaging of the products needs.
    """

    r: int = knob(8, "rank of the update", low=1, high=65536)
    alpha: float = knob(16.0, "the update is scaled by alpha / r", above=0.0)
    dropout: float = knob(0.0, "dropout before A in training", low=0.0, high=1.0)
    targets: tuple[str, ...] | str | None = knob(
        None, "names of linear layers, or all-linear; null: the query and value projections"
    )
    train: str = knob("both", "B: A stays as it was drawn, and is never sent", choices=("both", "B"))
    residual: bool = knob(False, "a frozen dense residual beside each pair, for exact averaging")

    exact_merge = True
    settings = {"r": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "targets": "target_modules"}
    free = frozenset({"dropout"})

    def config(self, base: Any) -> Any:
        from peft import LoraConfig

        return LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # the library divides by r: any number will do
            lora_dropout=self.dropout,
            target_modules=list(targets(base, self.targets)),
        )

    def apply(self, base: Any) -> Any:
        network = super().apply(base)
        for _, layer in adapted(network):
            layer.lora_A[ADAPTER].weight.requires_grad_(self.train == "both")
            if self.residual:
                shape = layer.lora_B[ADAPTER].weight.shape[0], layer.lora_A[ADAPTER].weight.shape[1]
                layer.register_parameter("lora_R", nn.Parameter(torch.zeros(shape), requires_grad=False))
                layer.register_forward_hook(_add_residual)
        return network

    def like(self, folder: Path) -> LoRA:
        """Written as all-linear it stays so: which layers these are, the network says. Raises ModelError."""
        found = super().like(folder)
        if isinstance(found.targets, str) and found.targets != ALL:
            raise ModelError(
                f"task.start={folder}: the adapter's targets are a pattern: {found.targets}\n    why: task.tuning={self.name} "
                f"adapts linear layers by the last part of their names\n    fix: {to_whole(folder)}"
            )
        return dataclasses.replace(found, targets=self.targets) if self._all() else found

    def _says(self, field: str, saved: Any) -> bool:
        if field != "targets":
            return super()._says(field, saved)
        one = isinstance(self.targets, str)
        return self._all() or super()._says(field, saved) or one and saved == (self.targets,)

    def _all(self) -> bool:
        return self.targets is not None and ALL in (
            [self.targets] if isinstance(self.targets, str) else self.targets
        )

    def axes(self, module: nn.Module) -> dict[str, tuple[str, ...]]:
        cuts = {f"lora_A.{ADAPTER}.weight": ("rank", ""), f"lora_B.{ADAPTER}.weight": ("", "rank")}
        return {
            n: axes for n, _ in module.named_parameters() for end, axes in cuts.items() if n.endswith(end)
        }

    def buffers(self, module: nn.Module) -> tuple[str, ...]:
        return tuple(n for n, _ in module.named_parameters() if n.endswith(".lora_R"))

    def at_rank(self, rank: int) -> LoRA:
        """The first `rank` directions at the same scale alpha / r."""
        rank = min(rank, self.r)
        return dataclasses.replace(self, r=rank, alpha=self.alpha * rank / self.r)

    def save(self, network: Any, base: Base, folder: Path) -> None:
        """A plain PEFT adapter. A residual is folded in, by a rank of at most r + rank(R), exact to rounding."""
        pairs = {name: _pair(layer) for name, layer in adapted(network)}
        rank, scale = max(a.shape[0] for a, _ in pairs.values()), self.alpha / self.r
        tensors = {}
        for name, (a, b) in pairs.items():  # layers of a smaller rank get zero directions: one rank for all
            tensors[f"{name}.lora_A.weight"] = functional.pad(a, (0, 0, 0, rank - a.shape[0])).contiguous()
            tensors[f"{name}.lora_B.weight"] = functional.pad(b, (0, rank - b.shape[1])).contiguous()
        write(network, tensors, base, folder, r=rank, lora_alpha=scale * rank)

    # ---- a warm start -----------------------------------------------------------------------------------------
    def moved(
        self, network: Any, start: Mapping[str, Tensor], end: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """(alpha / r) (B A + R) of each adapted layer (out, in)."""
        found = {}
        for name, layer in adapted(network):
            b, a = end[f"{name}.{_B}"], end.get(f"{name}.{_A}", layer.lora_A[ADAPTER].weight.detach().cpu())
            update = b.double() @ a.double()
            if self.residual:
                update += end[f"{name}.lora_R"].double()
            found[f"{inner(name)}.weight"] = (update * (self.alpha / self.r)).float()
        return found

    def begin(
        self, network: Any, start: Mapping[str, Tensor], before: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The best rank-r factors of each layer's movement U: U s^-1 = P S Q^T, B = P S^1/2, A = S^1/2 Q^T, s = alpha / r.

        Directions that U does not have keep their random A and B = 0, so that they can still learn. With `residual`
        the rest of U goes there, and nothing is lost.
        """
        if self.train == "B" or not self.alpha:
            raise ModelError(
                "the tuning 'lora' with train=B or alpha=0 cannot go on from a base that has moved\n    why: A stays as "
                "it was drawn\n    fix: train=both, alpha above 0"
            )
        found, scale = dict[str, Tensor](), self.alpha / self.r
        for name, _ in adapted(network):
            if (update := before.get(f"{inner(name)}.weight")) is None:
                continue
            a, b = start[f"{name}.{_A}"].clone(), start[f"{name}.{_B}"].clone()
            p, s, q = torch.linalg.svd(update.double() / scale, full_matrices=False)
            there = s[: self.r] > s[0] * max(update.shape) * torch.finfo(torch.float32).eps
            k, root = int(there.sum()), s.sqrt()
            a[:k], b[:, :k] = (root[:k, None] * q[:k]).float(), (p[:, :k] * root[:k]).float()
            found |= {f"{name}.{_A}": a, f"{name}.{_B}": b}
            if self.residual:
                found[f"{name}.lora_R"] = (update.double() / scale - b.double() @ a.double()).float()
        return found

    def merged(self, network: Any) -> Any:
        for _, layer in adapted(network):
            if hasattr(layer, "lora_R"):
                layer.base_layer.weight.data += layer.scaling[ADAPTER] * layer.lora_R.data
        return network.merge_and_unload()


def inner(name: str) -> str:
    """A layer's name in the base network, from its name in the PEFT model."""
    return name.removeprefix("base_model.model.")


def adapted(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers with an A and a B, by name."""
    for name, layer in network.named_modules():
        if ADAPTER in getattr(layer, "lora_A", {}):
            yield name, layer


def _add_residual(layer: Any, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
    if layer.disable_adapters or layer.merged:
        return out
    r: Tensor = layer.lora_R
    scale: float = layer.scaling[ADAPTER]
    return out + (functional.linear(args[0].to(r.dtype), r) * scale).to(out.dtype)


def _pair(layer: Any) -> tuple[Tensor, Tensor]:
    """A and B, with the residual folded in: the factors of B A + R."""
    a, b = (part[ADAPTER].weight.detach().cpu() for part in (layer.lora_A, layer.lora_B))
    if not hasattr(layer, "lora_R") or not bool(layer.lora_R.any()):
        return a, b
    u, s, v = torch.linalg.svd(
        b.double() @ a.double() + layer.lora_R.detach().cpu().double(), full_matrices=False
    )
    kept = max(1, int((s > s[0] * max(u.shape[0], v.shape[1]) * torch.finfo(torch.float32).eps).sum()))
    root = s[:kept].sqrt()
    return (root[:, None] * v[:kept]).float(), (u[:, :kept] * root).float()
