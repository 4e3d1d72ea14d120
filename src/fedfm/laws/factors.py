"""A task whose model is a product of two factors, named as LoRA's are: for methods that treat the two apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedfm.core.protocols import Scores, Task
from fedfm.tasks.bound import BoundModule, Objective


@dataclass(frozen=True)
class Factored(Task):
    """Minimise the mean of a/2 ||B A 1 - b||^2 over rows {a, b}: A (2, 3) begins random, B (3, 2) at zero."""

    def open(self, data: Any, device: str = "cpu") -> BoundModule:
        return BoundModule(_Product(), _Fit(), device=device)


class _Product(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.lora_A, self.lora_B = (
            nn.Parameter(torch.randn(2, 3, generator=g)),
            nn.Parameter(torch.zeros(3, 2)),
        )

    def forward(self) -> Tensor:
        return (self.lora_B @ self.lora_A).sum(1)


class _Fit(Objective):
    primary = "loss"
    higher_is_better = False

    def encode(self, rows: Any) -> Tensor:
        return torch.tensor([[r["a"], r["b"]] for r in rows.rows]).reshape(-1, 2)

    def batch(self, encoded: Tensor, index: Tensor, device: torch.device) -> Tensor:
        return encoded[index].to(device)

    def loss(self, module: nn.Module, batch: Tensor) -> Tensor:
        found: Tensor = (batch[:, :1] / 2 * (module() - batch[:, 1:]) ** 2).sum(1).mean()
        return found

    def score(self, module: nn.Module, encoded: Tensor, device: torch.device) -> Scores:
        n = len(encoded)
        return {"loss": (float(self.loss(module, encoded.to(device))) * n if n else 0.0, n)}
