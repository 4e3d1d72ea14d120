"""A federation without training: parties that send a vector and do no work, so that only the loop is measured."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedfm.core.context import Ctx
from fedfm.core.message import Message
from fedfm.core.protocols import Bound, Client, Scores, State, Task
from fedfm.data.source import Parties, Shard
from fedfm.tasks.bound import BoundModule, Objective


@dataclass(frozen=True)
class Vector(Task):
    """A model that is one vector of `size` values, without an objective."""

    size: int = 250_000

    def open(self, data: Any, device: str = "cpu") -> BoundModule:
        return BoundModule(_Values(self.size), _Nothing(), device=device)


@dataclass(frozen=True)
class Crowd:
    """`parties` parties with one empty row each."""

    parties: int = 1000

    def open(self, seed: int) -> Parties:
        return Parties(tuple(Shard(f"party-{i}", ({},)) for i in range(self.parties)), (Shard("", ({},)),))


@dataclass(frozen=True)
class Idle(Client):
    """Sends a fresh vector at once; the party `slow` sleeps first."""

    slow: str = ""
    sleep_s: float = 0.0

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> tuple[Message, State]:
        if ctx.client == self.slow:
            time.sleep(self.sleep_s)
        return Message(torch.full_like(brief.x, 1e-3)), state


class _Values(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.x = nn.Parameter(torch.zeros(size))


class _Nothing(Objective):
    primary = "loss"
    higher_is_better = False

    def batch(self, encoded: Any, index: Tensor, device: torch.device) -> Any:
        return index

    def losses(self, module: nn.Module, batch: Any) -> Tensor:
        return module.get_parameter("x").sum() * torch.zeros(len(batch))

    def score(self, module: nn.Module, encoded: Any, device: torch.device) -> Scores:
        return {"loss": (0.0, 1)}

    def loss(self, module: Any, batch: Any) -> Tensor:
        out: Tensor = module.x.sum() * 0.0
        return out
