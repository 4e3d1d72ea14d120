"""Callbacks between rounds: they hear of one training, and what they hold in plain values goes on with it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from fedfm.core.protocols import State
from fedfm.tasks.hosted import streams
from fedfm.tasks.hosted.host import lent


class Until(TrainerCallback):
    """Ends a round at a step of the training; heard after all others, so that it knows a stop of theirs."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> Any:
        control.should_training_stop = control.should_training_stop or state.global_step >= self.step
        return control


@contextlib.contextmanager
def rounds(trainer: Any, step: int, began: State) -> Iterator[State]:
    """The training ends at `step` of it, and epochs begin and end where they do: a round that stops within one ends none.

    `began`: where the generators stood when the epoch began that the last round stopped in, for its order is drawn anew
    from there; what is given is the same of the epoch that this round stops in.
    """
    handler, until, now = trainer.callback_handler, Until(step), dict(began)
    begin, end = handler.on_epoch_begin, handler.on_epoch_end

    def on_epoch_begin(args: Any, state: Any, control: Any, **more: Any) -> Any:
        if _whole(state.epoch):
            control = begin(args, state, control, **more)
            now.update(streams.standing())
            return control
        streams.put(now)
        _pin(handler.train_dataloader, int(state.epoch))
        control.should_epoch_stop = False
        return control

    def on_epoch_end(args: Any, state: Any, control: Any, **more: Any) -> Any:
        _unpin(handler.train_dataloader)
        mine = control.should_epoch_stop or state.global_step < step  # a callback's own wish
        return end(args, state, control, **more) if mine or _whole(state.epoch) else control

    handler.add_callback(until)
    try:
        with lent(handler, on_epoch_begin=on_epoch_begin, on_epoch_end=on_epoch_end):
            yield now
    finally:
        handler.remove_callback(until)


def _pin(loader: Any, epoch: int) -> None:
    """Let the order stay that of this epoch: what skips the batches that are done counts epochs anew in some releases."""
    for sampler in _samplers(loader):
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
            vars(sampler)["set_epoch"] = lambda epoch: None


def _unpin(loader: Any) -> None:
    for sampler in _samplers(loader):
        vars(sampler).pop("set_epoch", None)


def _samplers(loader: Any) -> Iterator[Any]:
    """What draws the order, inside whatever makes batches of it."""
    while (loader := getattr(loader, "batch_sampler", None)) is not None:
        if (sampler := getattr(loader, "sampler", None)) is not None:
            yield sampler


def _whole(epoch: float | None) -> bool:
    return epoch is None or float(epoch).is_integer()


def held(trainer: Any) -> list[State]:
    """What its callbacks hold in numbers, words, tensors, and lists and mappings of them, in their order."""
    return [
        {"of": type(c).__name__, "holds": {k: v for k, v in vars(c).items() if _plain(v)}}
        for c in trainer.callback_handler.callbacks
    ]


def hold(trainer: Any, states: list[State]) -> None:
    """Let its callbacks hold that again, and nothing else of the sort."""
    for callback, state in zip(trainer.callback_handler.callbacks, states, strict=True):
        for name in [k for k, v in vars(callback).items() if _plain(v)]:
            del vars(callback)[name]
        vars(callback).update(copy.deepcopy(state["holds"]))


def _plain(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(map(_plain, value))
    if type(value) is dict:
        return all(type(k) in (str, int, float) and _plain(v) for k, v in value.items())
    return value is None or type(value) in (bool, int, float, str) or isinstance(value, Tensor)
