"""The quadratic fixture: a federation whose fixed points are known in closed form.

f_i(x) = a_i/2 (x - b_i)^2. With a = (1, 10), b = (0, 1), local rate 0.05 and 10 full-gradient steps, FedAvg converges
to sum(w_i b_i)/sum(w_i), w_i = 1 - (1 - 0.05 a_i)^10, which is 0.713442; the optimum, which SCAFFOLD reaches, is
10/11 = 0.909091.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedfm.cards.registry import knob, method
from fedfm.core.context import Terms
from fedfm.core.protocols import Scores, Task
from fedfm.data.source import Parties, Shard
from fedfm.data.splits import Source
from fedfm.tasks.bound import BoundModule, Objective
from fedfm.vectors.cut import share


@method("quadratic", slot="task", section="VII")
@dataclass(frozen=True)
class Quadratic(Task):
    """Minimise the mean of a/2 ||x - b||^2 over rows {a, b}: x has `dim` values, cut by width."""

    dim: int = knob(1, "values of x", low=1, high=100000000)

    def open(self, data: Any, device: str = "cpu") -> BoundModule:
        return BoundModule(_Point(self.dim), _Objective(self.dim), axes={"x": ("width",)}, device=device)


class _Point(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.x = nn.Parameter(torch.zeros(dim))


class _Objective(Objective):
    primary = "loss"
    higher_is_better = False

    def __init__(self, dim: int):
        self.dim = dim

    def encode(self, rows: Shard) -> Tensor:
        return torch.tensor([[r["a"], r["b"]] for r in rows.rows]).reshape(-1, 2)

    def batch(self, encoded: Tensor, index: Tensor, device: torch.device) -> Tensor:
        return encoded[index].to(device)

    def losses(self, module: nn.Module, batch: Tensor) -> Tensor:
        a, b = batch[:, :1], batch[:, 1:]
        return (a / 2 * (module.get_parameter("x") - b) ** 2).sum(1)

    def score(self, module: nn.Module, encoded: Tensor, device: torch.device) -> Scores:
        n = len(encoded)
        return {"loss": (float(self.loss(module, encoded.to(device))) * n if n else 0.0, n)}

    def narrow(self, terms: Terms) -> nn.Module:
        return _Point(share(terms.width, self.dim))

    def save(self, module: nn.Module, folder: str) -> None:
        from fedfm.tasks.state import write_state

        made = f"from fedfm.tasks.quadratic import _Point\n\nnet = _Point({self.dim})"
        write_state(dict(module.named_parameters()), folder, made, takes="")


@method("quadratics", slot="data", section="VII")
@dataclass(frozen=True)
class Quadratics(Source):
    """One row {a, b} a party; the default is the two-party fixture."""

    a: tuple[float, ...] = knob((1.0, 10.0), "curvature of each party")
    b: tuple[float, ...] = knob((0.0, 1.0), "optimum of each party")
    rows: int = knob(1, "copies of its row that a party holds", low=1)

    def read(self, seed: int, columns: Any) -> Parties:
        rows = [{"a": float(a), "b": float(b)} for a, b in zip(self.a, self.b, strict=True)]
        shards = tuple(Shard(f"party-{i}", (row,) * self.rows) for i, row in enumerate(rows))
        return Parties(shards, (Shard("", tuple(rows)),))
