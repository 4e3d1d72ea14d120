"""Local training, the client of FedAvg; other local objectives are a correction of its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed, FedfmError
from fedfm.core.message import Message
from fedfm.core.protocols import Bound, Client, State
from fedfm.efficiency.training.schedule import Constant, Schedule

MOST = 1e38  # of a product of settings
Correction = Callable[[Tensor, Tensor], None]  # (weights, gradients): change the gradients in place


@method(
    "local",
    slot="client",
    section="IV.A",
    survey=(25,),
    paper="McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017",
    atlas=("fedavg",),
    also=("sgd", "adam", "adamw", "fedavg"),
)
@dataclass(frozen=True)
class Local(Client):
    """Local steps of SGD or AdamW from the global model; gives the difference (ClientUpdate of FedAvg).

    theta_i = theta - lr * sum_k g_i(theta_k) over `steps` batches; x = theta_i - theta, mass = number of local examples.
    Batches are drawn without replacement within a pass, the last of a pass may be smaller, and none spans two passes.
    `epochs` become max(1, round(epochs * batches of a pass)) steps. One full-batch step (`steps=1, batch=0,
    optimizer=sgd`) is FedSGD. sgd is PyTorch's: m = momentum m + g, theta -= lr m (no dampening, no Nesterov), and
    weight decay joins g; adamw has betas 0.9 and 0.999, eps 1e-8, bias correction, and decay lr * weight_decay * theta
    beside the step. The optimiser is fresh every round unless `keep_optimizer`. Running statistics and other buffers
    are what the module makes of them: no step, decay, clipping or correction touches them.
    A tensor that no gradient reaches has gradient 0 here: weight decay and moments still move it, as they do not in torch.
    """

    lr: float = knob(0.01, "learning rate", low=0.0)
    steps: int | None = knob(8, "batches a round, whatever a party holds", low=0, alternative="length")
    epochs: float | None = knob(
        None, "passes over the local data a round, instead of `steps`", low=0.0, alternative="length"
    )
    batch: int = knob(8, "examples a step; 0: all that the party holds", low=0)
    optimizer: str = knob("sgd", "local optimiser", choices=("sgd", "adamw"))
    momentum: float = knob(0.0, "of sgd", low=0.0, below=1.0)
    weight_decay: float = knob(0.0, "decoupled for adamw, L2 for sgd", low=0.0)
    clip_grad: float = knob(0.0, "largest gradient norm of a step; 0: no limit", low=0.0)
    schedule: Schedule = knob(factory=Constant, doc="how the rate changes over the run")
    drop_last: bool = knob(False, "skip the smaller batch at the end of a pass (batch norm needs two rows)")
    micro_batch: int = knob(
        0,
        "examples that go through the network at once; gradients are summed to those of `batch`; 0: `batch`",
        low=0,
    )
    keep_optimizer: bool = knob(False, "go on with the moments of the party's last round")
    send: str = knob("delta", "what the message holds", choices=("delta", "weights"))

    def __post_init__(self) -> None:
        if self.momentum >= 1.0:
            raise ValueError("momentum must be below 1: at 1 no gradient is ever forgotten")
        if self.optimizer != "sgd" and self.momentum:
            raise ValueError(f"momentum is sgd's, {self.optimizer} has its own: set momentum=0")
        if self.keep_optimizer and self.optimizer == "sgd" and not self.momentum:
            raise ValueError("sgd without momentum has nothing to keep: set keep_optimizer=false")
        both = (self.lr, self.weight_decay)  # as text they are a problem of their own
        if all(isinstance(v, int | float) for v in both) and math.prod(both) > MOST:
            raise ValueError(
                f"lr * weight_decay is beyond {MOST:g}, which float32 cannot hold: lower one of the two"
            )
        if self.drop_last and not self.batch:
            raise ValueError("with batch=0 there is one batch, which drop_last cannot drop: set a batch")

    @property
    def makes(self) -> str:
        return self.send

    @property
    def remembers(self) -> bool:  # type: ignore[override]
        return self.keep_optimizer

    def feasible(self, parties: int, bound: Bound) -> str:
        if self.micro_batch and (name := _normalised(bound)):
            return (
                f"{name} normalises each piece of micro_batch={self.micro_batch} rows by itself, which is another step than "
                "that of a batch; set client.micro_batch=0, or take torch.nn.GroupNorm(1, CHANNELS) or a LayerNorm"
            )
        return super().feasible(parties, bound)

    @property
    def per_step(self) -> int:
        return self.batch

    def steps_for(self, rows: int) -> int:
        return self.steps_of(rows, self.batch)

    def steps_of(self, rows: int, batch: int) -> int:
        """Local steps of a round with so many examples, in batches of so many (0: all)."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, round(self.epochs * self.passed(rows, batch))) * (self.epochs > 0) if rows else 0

    def passed(self, rows: int, batch: int) -> int:
        """Batches of one pass; a party with fewer examples than a batch has one batch."""
        size = min(rows, batch or rows)
        return rows // size if self.drop_last else -(-rows // size)

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> tuple[Message, State]:
        done = descend(self, brief.x, data, ctx, bound, state=state)
        return outcome(self, brief.x, data, bound, done), done.state


@dataclass(frozen=True)
class Done:
    """What the local steps were: first and last loss, their number, the sum of their rates, the state to keep."""

    first: float
    last: float
    steps: int
    rates: float
    state: State


def plain_sgd(local: Local, who: str, *, itself: bool = False) -> None:
    """Raises ValueError unless `local` takes plain SGD steps, which is all that `who` can honour.

    `itself`: it takes the steps with code of its own, which knows one rate and whole batches.
    """
    if itself and (local.schedule != Constant() or local.micro_batch):
        raise ValueError(
            f"{who} takes its steps itself: set schedule=constant without warm-up, micro_batch=0"
        )
    if local.optimizer != "sgd" or local.momentum or local.weight_decay or local.clip_grad:
        raise ValueError(f"{who} takes plain SGD steps: set optimizer=sgd, momentum=weight_decay=clip_grad=0")


def outcome(local: Local, start: Tensor, data: Any, bound: Bound, done: Done) -> Message:
    """The message of a client that trained `bound` from `start`."""
    x = bound.read()
    if local.send == "delta":
        x -= start
    return Message(
        x,
        local.send,
        mass=float(len(data)),
        info={"facts": {"loss_first": done.first, "loss_last": done.last}},
    )


def descend(
    local: Local,
    start: Tensor,
    data: Any,
    ctx: Ctx,
    bound: Bound,
    correct: Correction | None = None,
    *,
    state: State | None = None,
    gradient: Callable[[Tensor], float] | None = None,
) -> Done:
    """Load `start` and take the local steps, with weights alone.

    `correct` changes each gradient; `gradient` (indices of a batch -> loss, filling `bound.grads`) takes the place of
    the plain one. A session of more steps than a round's (a baseline trains for the whole run) passes through the
    rounds' rates. Raises ClientFailed when a loss is not finite or the kept moments have another size.
    """
    bound.load(start)
    bound.module.train()
    flat = torch.nn.Parameter(weights(bound.params, bound))
    flat.grad = weights(bound.grads, bound)
    optimizer: torch.optim.Optimizer
    if local.optimizer == "adamw":
        optimizer = torch.optim.AdamW([flat], lr=local.lr, weight_decay=local.weight_decay)
    else:
        optimizer = torch.optim.SGD(
            [flat], lr=local.lr, momentum=local.momentum, weight_decay=local.weight_decay
        )
    state = state or {}
    if local.keep_optimizer and "optimizer" in state:
        optimizer.state[flat] = _moved(state["optimizer"], flat, ctx)
    first = last = rates = 0.0
    done, a_round = 0, local.steps_of(len(data), ctx.terms.batch or local.batch)
    if ctx.horizon and ctx.terms.steps:
        a_round = max(a_round, -(-ctx.terms.steps // ctx.horizon))
    for index in batches(len(data), local, ctx):
        loss = (gradient or loss_and_gradient(local, data, bound))(index)
        if loss != loss or loss in (float("inf"), float("-inf")):
            raise ClientFailed(
                f"the loss of {ctx.client} is {loss} at local step {done}; lower client.lr or look at its data"
            )
        if correct is not None:
            correct(flat.data, flat.grad)
        if local.clip_grad:
            flat.grad.mul_(min(1.0, local.clip_grad / (float(flat.grad.norm()) + 1e-12)))
        rate = local.schedule.rate(local.lr, ctx, done // a_round if a_round else 0)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        first, last, done, rates = (loss if done == 0 else first), loss, done + 1, rates + rate
    if local.keep_optimizer and optimizer.state[flat]:
        kept = {k: v.detach().to("cpu", copy=True) for k, v in optimizer.state[flat].items() if v is not None}
        state = state | {"optimizer": kept}
    return Done(first, last, done, rates, state)


def weights(x: Tensor, bound: Bound) -> Tensor:
    """The weights of a vector of `bound`, as a view: what is stepped lies in front, buffers behind."""
    w = bound.layout.weights(x)
    if w.data_ptr() != x.data_ptr():
        raise FedfmError("a bound task lays its buffers behind all of its weights; this one mixes them")
    return w


def _moved(kept: State, flat: Tensor, ctx: Ctx) -> State:
    """The moments of the last round, where the weights are."""
    if any(t.dim() and t.shape != flat.shape for t in kept.values()):
        raise ClientFailed(
            f"{ctx.client} kept moments of another size than the model of this round: with sub-models that change "
            "set client.keep_optimizer=false"
        )
    return {k: v.to(flat.device, copy=True) if v.dim() else v.clone() for k, v in kept.items()}


def _normalised(bound: Bound) -> str:
    """The first layer that normalises by the rows of a batch, frozen statistics aside; "" where there is none."""
    held = {e.name for e in bound.layout.entries}
    modules = bound.module.named_modules() if isinstance(bound.module, torch.nn.Module) else ()
    return next(
        (
            name or type(m).__name__
            for name, m in modules
            if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)
            and (not m.track_running_stats or f"{name}.num_batches_tracked".lstrip(".") in held)
        ),
        "",
    )


def loss_and_gradient(local: Local, data: Any, bound: Bound) -> Callable[[Tensor], float]:
    """Loss and gradient of a batch, in pieces of `micro_batch`; a batch's loss is the mean over its examples (or weights)."""

    def whole(index: Tensor) -> float:
        return bound.gradient(bound.batch(data, index))

    def pieces(index: Tensor) -> float:
        if len(index) <= local.micro_batch:
            return whole(index)
        total, loss, split = torch.zeros_like(bound.grads), 0.0, torch.split(index, local.micro_batch)
        mass: Callable[[Any, int], float] = getattr(bound.objective, "mass", lambda _, rows: rows)
        masses = [mass(bound.batch(data, piece), len(piece)) for piece in split]
        for piece, m in zip(split, masses, strict=True):
            if m:  # a piece without weight has no mean
                loss += whole(piece) * m / sum(masses)
                total.add_(bound.grads, alpha=m / sum(masses))
        bound.grads.copy_(total)
        return loss if sum(masses) else whole(index)

    return pieces if local.micro_batch else whole


def batches(n: int, local: Local, ctx: Ctx) -> Iterator[Tensor]:
    """Indices of the local steps: shuffled passes over the data; a batch never spans two passes."""
    if n == 0:
        return
    batch = ctx.terms.batch or local.batch
    size, per_pass = min(n, batch or n), local.passed(n, batch)
    steps = local.steps_of(n, local.batch) if ctx.terms.steps is None else ctx.terms.steps
    rng, order = ctx.rng("batches"), torch.arange(n)
    for k in range(steps):
        if k % per_pass == 0 and size < n:
            order = torch.randperm(n, generator=rng)
        at = k % per_pass * size
        yield order[at : at + size]
