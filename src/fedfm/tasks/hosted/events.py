"""Callbacks between rounds: they hear of one training, and what they hold in plain values goes on with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from fedfm.core.protocols import State


class Until(TrainerCallback):
    """Ends a round at a step of the training; heard after all others, so that it knows a stop of theirs."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> Any:
        control.should_training_stop = control.should_training_stop or state.global_step >= self.step
        return control


@contextlib.contextmanager
def rounds(trainer: Any, step: int) -> Iterator[None]:
    """The training ends at `step` of it, and epochs begin and end where they do: a round that stops within one ends none."""
    handler, until = trainer.callback_handler, Until(step)
    begin, end = handler.on_epoch_begin, handler.on_epoch_end

    def on_epoch_begin(args: Any, state: Any, control: Any, **more: Any) -> Any:
        if _whole(state.epoch):
            return begin(args, state, control, **more)
        control.should_epoch_stop = False
        return control

    def on_epoch_end(args: Any, state: Any, control: Any, **more: Any) -> Any:
        mine = control.should_epoch_stop or state.global_step < step  # a callback's own wish
        return end(args, state, control, **more) if mine or _whole(state.epoch) else control

    handler.add_callback(until)
    handler.on_epoch_begin, handler.on_epoch_end = on_epoch_begin, on_epoch_end
    try:
        yield
    finally:
        del handler.on_epoch_begin, handler.on_epoch_end
        handler.remove_callback(until)


def _whole(epoch: float | None) -> bool:
    return epoch is None or float(epoch).is_integer()


def held(trainer: Any) -> list[State]:
    """What its callbacks hold in numbers, words, tensors, and lists and mappings of them, in their order."""
    return [
        {"of": type(c).__name__, "holds": {k: v for k, v in vars(c).items() if _plain(v)}}
        for c in trainer.callback_handler.callbacks
    ]


def hold(trainer: Any, states: list[State]) -> None:
    """Let its callbacks hold that again."""
    for callback, state in zip(trainer.callback_handler.callbacks, states, strict=True):
        vars(callback).update(state["holds"])


def _plain(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(map(_plain, value))
    if type(value) is dict:
        return all(type(k) in (str, int, float) and _plain(v) for k, v in value.items())
    return value is None or type(value) in (bool, int, float, str) or isinstance(value, Tensor)
