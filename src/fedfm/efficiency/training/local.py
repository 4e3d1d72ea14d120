"""Local training, the client of FedAvg; other local objectives are a correction of its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed
from fedfm.core.message import Message
from fedfm.core.protocols import Bound, Client, State
from fedfm.core.registry import knob, method

Correction = Callable[[Tensor, Tensor], None]  # (parameters, gradients): change the gradients in place


@method(
    "local",
    slot="client",
    section="IV.A",
    survey=(25,),
    paper="McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017",
    atlas=("fedavg",),
)
@dataclass(frozen=True)
class Local(Client):
    """Local steps of SGD or AdamW from the global model; gives the difference (ClientUpdate of FedAvg).

    theta_i = theta - lr * sum_k g_i(theta_k) over `steps` batches; x = theta_i - theta, mass = number of local examples.
    The optimiser is fresh every round. One full-batch step (`steps=1, batch=0, optimizer=sgd`) is FedSGD.
    """

    lr: float = knob(0.01, "learning rate", low=0.0)
    steps: int = knob(8, "batches a round; 0 to use `epochs`", low=0)
    epochs: float = knob(1.0, "passes over the local data, when steps is 0", low=0.0)
    batch: int = knob(8, "examples a step; 0: all", low=0)
    optimizer: str = knob("sgd", "local optimiser", choices=("sgd", "adamw"))
    momentum: float = knob(0.0, "of sgd", low=0.0, high=1.0)
    weight_decay: float = knob(0.0, "decoupled for adamw, L2 for sgd", low=0.0)
    clip_grad: float = knob(0.0, "largest gradient norm of a step; 0: no limit", low=0.0)
    send: str = knob("delta", "what the message holds", choices=("delta", "weights"))

    @property
    def makes(self) -> str:
        return self.send

    @property
    def per_step(self) -> int:
        return self.batch

    def steps_for(self, rows: int) -> int:
        per_pass = -(-rows // min(rows, self.batch or rows)) if rows else 0
        return self.steps or max(1, round(self.epochs * per_pass)) * (self.epochs > 0)

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> tuple[Message, State]:
        first, last, _ = descend(self, brief.x, data, ctx, bound)
        return outcome(self, brief.x, data, bound, first, last), state


def plain_sgd(local: Local, who: str) -> None:
    """Raises ValueError unless `local` takes plain SGD steps, which is all that `who` can honour."""
    if local.optimizer != "sgd" or local.momentum or local.weight_decay or local.clip_grad:
        raise ValueError(f"{who} takes plain SGD steps: set optimizer=sgd, momentum=weight_decay=clip_grad=0")


def outcome(local: Local, start: Tensor, data: Any, bound: Bound, first: float, last: float) -> Message:
    """The message of a client that trained `bound` from `start`."""
    x = bound.read()
    if local.send == "delta":
        x -= start
    return Message(
        x, local.send, mass=float(len(data)), info={"facts": {"loss_first": first, "loss_last": last}}
    )


def descend(
    local: Local, start: Tensor, data: Any, ctx: Ctx, bound: Bound, correct: Correction | None = None
) -> tuple[float, float, int]:
    """Load `start` and take the local steps; returns first and last loss and the number of steps."""
    bound.load(start)
    bound.module.train()
    flat = torch.nn.Parameter(bound.params)
    flat.grad = bound.grads
    optimizer: torch.optim.Optimizer
    if local.optimizer == "adamw":
        optimizer = torch.optim.AdamW([flat], lr=local.lr, weight_decay=local.weight_decay)
    else:
        optimizer = torch.optim.SGD(
            [flat], lr=local.lr, momentum=local.momentum, weight_decay=local.weight_decay
        )
    first = last = 0.0
    done = 0
    for index in batches(len(data), local, ctx):
        loss = bound.gradient(bound.batch(data, index))
        if loss != loss or loss in (float("inf"), float("-inf")):
            raise ClientFailed(
                f"the loss of {ctx.client} is {loss} at local step {done}; lower client.lr or look at its data"
            )
        if correct is not None:
            correct(bound.params, bound.grads)
        if local.clip_grad:
            bound.grads.mul_(min(1.0, local.clip_grad / (float(bound.grads.norm()) + 1e-12)))
        optimizer.step()
        first, last, done = (loss if done == 0 else first), loss, done + 1
    return first, last, done


def batches(n: int, local: Local, ctx: Ctx) -> Iterator[Tensor]:
    """Indices of the local steps: shuffled passes over the data; a batch never spans two passes."""
    size = min(n, ctx.terms.batch or local.batch or n)
    if n == 0:
        return
    per_pass = -(-n // size)
    steps = ctx.terms.steps or local.steps_for(n)
    rng, order = ctx.rng("batches"), torch.arange(n)
    for k in range(steps):
        if k % per_pass == 0 and size < n:
            order = torch.randperm(n, generator=rng)
        at = k % per_pass * size
        yield order[at : at + size]
