"""The client whose local work is the trainer's own loop: its optimiser, schedule, collator and callbacks."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed, FedfmError
from fedfm.core.message import Message
from fedfm.core.protocols import Bound, Client, State
from fedfm.tasks.hosted import streams
from fedfm.tasks.hosted.host import Host, lent
from fedfm.tasks.hosted.rows import Picked

NO_TRAINER = "the task has no trainer, whose loop it would run; task=hosted with data=trainers (fedfm.patch makes both), or client=local"


@method("own-loop", slot="client", section="IV.A", also=("trainer-loop", "hf-trainer-loop"))
@dataclass(frozen=True)
class OwnLoop(Client):
    """Local steps by the party's own trainer (`Trainer.train`); gives the difference, weighed by its training rows.

    The rounds of a party are one training: the optimiser's moments, the schedule's position, the place in the epoch, the
    generators and what callbacks hold go on from round to round, and one party alone over R rounds of k steps takes the
    steps of one `train()` of R * k. A round has `steps` or `epochs`; without either, the trainer's own plan (`max_steps`,
    else `num_train_epochs`) is divided by the rounds. The schedule is made for the horizon. A step is an optimiser's, of
    per_device_train_batch_size * gradient_accumulation_steps rows. No checkpoint is written; a callback that stops the
    training ends that round's work alone.
    """

    steps: int | None = knob(None, "optimiser steps a round", low=0)
    epochs: float | None = knob(None, "passes over the party's rows a round", low=0.0)
    keep_optimizer: bool = knob(True, "go on with the moments of the party's last round")
    draws: str = knob(
        "trainer",
        "where order and dropout come from: what the script seeds, as in its own train(); or the run's seed and the "
        "party's name",
        choices=("trainer", "run"),
    )

    hosted: ClassVar[bool] = True  # it runs a trainer, and works with no other task

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("steps and epochs are two ways to say one thing: set one, the other to null")

    @property
    def remembers(self) -> bool:  # type: ignore[override]
        return True

    def feasible(self, parties: int, bound: Bound) -> str:
        if not isinstance(getattr(bound.objective, "host", None), Host):
            return NO_TRAINER
        return super().feasible(parties, bound)

    def steps_for(self, rows: int) -> int:
        return self.steps or 0

    def alone(self) -> Client:
        return _Whole(**{f.name: getattr(self, f.name) for f in fields(self)})

    def course(self, host: Host, done: int, rounds: int, ctx: Ctx) -> tuple[int, int]:
        """The step of its training at which this round ends, and that for which the schedule is made."""
        horizon = max(1, ctx.horizon)
        if self.steps is None and self.epochs is None:
            plan = host.plan()
            whole = plan + max(0, rounds + 1 - horizon) * math.ceil(plan / horizon)  # an extended run goes on
            end = min(whole, math.ceil(plan * (rounds + 1) / horizon)) if rounds < horizon else whole
        else:
            a_round = self.steps
            if a_round is None:
                assert self.epochs is not None
                a_round = max(1, round(self.epochs * host.a_pass())) * (self.epochs > 0)
            plan, end = horizon * a_round, done + a_round
        return (done + ctx.terms.steps if ctx.terms.steps is not None else end), plan

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> tuple[Message, State]:
        host = getattr(bound.objective, "host", None)
        if not isinstance(host, Host) or not isinstance(data, Picked):
            raise FedfmError(NO_TRAINER)
        with lent(
            host.trainer, train_dataset=data.whole()
        ):  # its own, but for rows that were held out, or the server's
            return self._work(brief, data, state, ctx, bound, host)

    def _work(
        self, brief: Message, data: Picked, state: State, ctx: Ctx, bound: Bound, host: Host
    ) -> tuple[Message, State]:
        before = dict(state)
        done, rounds = before.pop("step", 0), before.pop("rounds", 0)
        end, plan = self.course(host, done, rounds, ctx)
        bound.load(brief.x)
        facts, kept = dict[str, float](), before
        if end > done:
            with streams.aside():
                streams.put(self._begins(host, before, ctx))
                facts, kept, done = self._train(host, before, end, plan, bound)
        x = bound.read() - brief.x
        info: dict[str, Any] = {"facts": facts}
        return Message(x, "delta", mass=float(len(data)), info=info), {
            **kept,
            "step": done,
            "rounds": rounds + 1,
        }

    def _begins(self, host: Host, before: State, ctx: Ctx) -> State:
        """Where the generators stand when the round begins."""
        if before:
            return dict(before["streams"])
        if self.draws == "trainer":
            return host.begins
        with streams.aside(int(torch.randint(2**31, (1,), generator=ctx.rng("trainer")))):
            return streams.standing()

    def _train(
        self, host: Host, before: State, end: int, plan: int, bound: Bound
    ) -> tuple[dict[str, float], State, int]:
        from fedfm.tasks.hosted import events
        from fedfm.tasks.hosted.kept import kept, resuming

        trainer = host.trainer
        _alive(trainer)
        host.fresh()
        with (
            planned(trainer, max(plan, end), plan),
            stepping(trainer, bound) as losses,
            resuming(host, before) as folder,
            events.rounds(trainer, end, before.get("epoch", {})) as epoch,
        ):
            try:
                trainer.train(resume_from_checkpoint=folder)
            finally:
                trainer.is_in_train = False
        each = [float(v) for v in losses.values()]
        if wrong := [k for k, v in enumerate(each) if not math.isfinite(v)]:
            raise ClientFailed(
                f"the loss of {host.party} is {each[wrong[0]]} at local step {wrong[0]}; lower its learning_rate or look at "
                "its data"
            )
        facts = {"loss_first": each[0], "loss_last": each[-1], "steps": float(len(each))} if each else {}
        return facts, kept(host, self.keep_optimizer, epoch), int(trainer.state.global_step)


@dataclass(frozen=True)
class _Whole(OwnLoop):
    """The baseline: the whole training in one piece."""

    def feasible(self, parties: int, bound: Bound) -> str:
        return ""  # what it is the baseline of says it

    def course(self, host: Host, done: int, rounds: int, ctx: Ctx) -> tuple[int, int]:
        end, plan = super().course(host, done, rounds, ctx)
        return (end, end) if ctx.terms.steps is not None else (plan, plan)


def _alive(trainer: Any) -> None:
    if trainer.args.dataloader_num_workers and multiprocessing.current_process().daemon:
        raise ClientFailed(
            "TrainingArguments.dataloader_num_workers: a worker of engine=processes cannot start processes of its own: set it "
            "to 0, or engine=inprocess"
        )


@contextlib.contextmanager
def planned(trainer: Any, bound: int, schedule: int) -> Iterator[None]:
    """The trainer's loop may take `bound` steps, its schedule is made for `schedule`; no checkpoint is written."""
    args, make = trainer.args, trainer.create_scheduler
    kept = {name: getattr(args, name) for name in ("max_steps", "save_strategy")}

    def create_scheduler(num_training_steps: int, *more: Any, **named: Any) -> Any:
        return make(schedule, *more, **named)

    args.max_steps, args.save_strategy = bound, type(args.save_strategy)("no")
    try:
        with lent(trainer, create_scheduler=create_scheduler):
            yield
    finally:
        for name, value in kept.items():
            setattr(args, name, value)


@contextlib.contextmanager
def stepping(trainer: Any, bound: Bound) -> Iterator[dict[int, torch.Tensor]]:
    """The loss of each step by its number, as the trainer computed it; afterwards gradients lie where they did."""
    step, losses = trainer.training_step, dict[int, torch.Tensor]()
    params = {p: p.grad for p in bound.module.parameters() if p.requires_grad}
    look_up = getattr(bound, "between", lambda: None)

    def training_step(*args: Any, **named: Any) -> torch.Tensor:
        look_up()
        loss: torch.Tensor = step(*args, **named)
        at = trainer.state.global_step
        losses[at] = losses[at] + loss.detach() if at in losses else loss.detach().clone()
        return loss

    try:
        with lent(trainer, training_step=training_step):
            yield losses
    finally:
        for p, grad in params.items():
            p.grad = grad
