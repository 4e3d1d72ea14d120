"""What a trainer is between two rounds, as tensors and plain values: moments, schedule, position, generators, callbacks.

It goes back in where `Trainer.train(resume_from_checkpoint=...)` reads a checkpoint: nothing is written but the trainer's
own record (trainer_state.json), in a folder that lives for one call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from fedfm.core.errors import ClientFailed
from fedfm.core.protocols import State
from fedfm.core.state import leaves
from fedfm.tasks.hosted import events, streams
from fedfm.tasks.hosted.host import CLOCKED, Host, lent

RECORD = "trainer_state.json"
STRANGE = ("optimizer", "scheduler", "callbacks")  # parts whose mappings are another library's


def kept(host: Host, moments: bool, epoch: State) -> State:
    """The state after a round. `moments`: those of the optimiser too; without, the rates of its groups alone. `epoch`:
    where the generators stood when the epoch began that it stopped in."""
    trainer = host.trainer
    optimizer = trainer.optimizer.state_dict()
    state = {
        "optimizer": optimizer if moments else {**optimizer, "state": {}},
        "scheduler": trainer.lr_scheduler.state_dict(),
        "record": _record(trainer.state),
        "callbacks": events.held(trainer),
        "streams": streams.standing(),
        "epoch": epoch,
    }
    for part in ("optimizer", "scheduler"):
        if odd := [v for v in leaves(state[part]) if not isinstance(v, Tensor | str | int | float | None)]:
            raise ClientFailed(
                f"the {part} of {host.party} keeps {type(odd[0]).__name__}, which is no tensor, number or text, and would be "
                "lost between rounds: take another, or client=local with an optimiser of its own"
            )
    return {k: _packed(v) if k in STRANGE else v for k, v in state.items()}


def _record(state: Any) -> str:
    """The trainer's record as its checkpoint has it, without what a clock said."""
    plain = dataclasses.asdict(state)
    plain["log_history"] = [
        entry
        for line in plain["log_history"]
        if set(entry := {k: v for k, v in line.items() if not k.endswith(CLOCKED)})
        - {"epoch", "step", "total_flos"}
        and "train_loss" not in entry  # of one call; the federation's is in its own records
    ]
    return json.dumps(plain, sort_keys=True)


@contextlib.contextmanager
def resuming(host: Host, state: State) -> Iterator[str | None]:
    """Where `train` is to resume from: nowhere in the first round, else a folder that stands for a checkpoint."""
    if not state:
        events.hold(host.trainer, host.callbacks)
        yield None
        return
    trainer, state = host.trainer, {k: _unpacked(v) if k in STRANGE else v for k, v in state.items()}

    def optimizer_and_scheduler(*args: Any, **more: Any) -> None:
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.lr_scheduler.load_state_dict(state["scheduler"])

    in_place = {
        "_load_from_checkpoint": lambda *args, **more: None,  # the model is the one that was sent
        "_load_optimizer_and_scheduler": optimizer_and_scheduler,
        "_load_rng_state": lambda *args, **more: streams.put(state["streams"]),
        "_load_callback_state": lambda *args, **more: None,
    }
    events.hold(trainer, state["callbacks"])
    with tempfile.TemporaryDirectory(prefix="fedfm-") as folder:
        Path(folder, RECORD).write_text(state["record"], encoding="utf-8")
        with lent(trainer, **in_place):
            yield folder


def _packed(node: Any) -> Any:
    """With mappings as pairs, for their keys may be numbers or begin with `_`; a copy, as an optimiser steps in place."""
    if isinstance(node, dict):
        return {"pairs": [[k, _packed(v)] for k, v in node.items()]}
    if isinstance(node, tuple):
        return {"tuple": [_packed(v) for v in node]}
    if isinstance(node, list):
        return [_packed(v) for v in node]
    return node.detach().to("cpu", copy=True) if isinstance(node, Tensor) else node


def _unpacked(node: Any) -> Any:
    """The inverse of `_packed`; a copy too."""
    if isinstance(node, dict) and "tuple" in node:
        return tuple(_unpacked(v) for v in node["tuple"])
    if isinstance(node, dict):
        return {k: _unpacked(v) for k, v in node["pairs"]}
    if isinstance(node, list):
        return [_unpacked(v) for v in node]
    return node.clone() if isinstance(node, Tensor) else node
