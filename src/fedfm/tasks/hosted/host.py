"""A trainer that takes part: what of it cannot, what its script left, and how it is made ready for a piece of work."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fedfm.core.errors import ConfigError, ModelError, Problem
from fedfm.core.protocols import State
from fedfm.tasks.hosted.streams import aside, standing

INSTALL = "pip install 'transformers>=4.56' 'accelerate>=1.0'"
CLOCKED = ("_runtime", "_per_second", "_time")  # endings of what a clock says, which is other each time
QUIET = ("ProgressCallback", "NotebookProgressCallback", "RichProgressCallback", "PrinterCallback")


def library() -> Any:
    """The module transformers. Raises ModelError, with the line that installs it."""
    try:
        import accelerate  # noqa: F401 - a Trainer is made of it
        import transformers
    except ImportError as e:
        raise ModelError(
            f"a trainer needs transformers and accelerate: {e}\n    why: its own loop does the local steps\n    fix: {INSTALL}"
        ) from e
    return transformers


def is_trainer(given: Any) -> bool:
    """Is it a Trainer of transformers, or one that derives from it (TRL's, sentence-transformers')?"""
    return any(
        c.__module__ == "transformers.trainer" and c.__name__ == "Trainer" for c in type(given).__mro__
    )


@contextlib.contextmanager
def lent(thing: Any, **attributes: Any) -> Iterator[None]:
    """With other attributes of its own for a while; one that somebody else has put there comes back."""
    own = vars(thing)
    before = {k: own[k] for k in attributes if k in own}
    own.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            own.pop(name, None)
        own.update(before)


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Without the progress bars of transformers."""
    from transformers.utils import logging

    bars: Any = logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


@dataclass(eq=False)
class Host:
    """A party's trainer, its rows, and where the generators stood when its script was done."""

    party: str
    trainer: Any
    begins: State = field(repr=False)
    callbacks: list[State] = field(repr=False)  # what they held then
    optimizer: State | None = field(default=None, repr=False)  # of one that the script made: as it was then
    scheduler: State | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.own = self.trainer.optimizer, self.trainer.lr_scheduler
        for name, part in zip(("optimizer", "scheduler"), self.own, strict=True):
            if part is not None:
                setattr(self, name, copy.deepcopy(part.state_dict()))

    @property
    def train(self) -> Any:
        """The rows that it trains on."""
        return self.trainer.train_dataset

    @property
    def tests(self) -> list[Any]:
        """Its `eval_dataset`, which may be several."""
        held = self.trainer.eval_dataset
        return [] if held is None else list(held.values()) if type(held) is dict else [held]

    def a_pass(self) -> int:
        """Optimiser steps of one pass over the training rows."""
        with aside():
            batches = len(self.trainer.get_train_dataloader())
        return max(1, -(-batches // int(self.trainer.args.gradient_accumulation_steps)))

    def plan(self) -> int:
        """Optimiser steps that the script asks for: `max_steps`, else `num_train_epochs` passes."""
        args = self.trainer.args
        return int(args.max_steps) if args.max_steps > 0 else math.ceil(args.num_train_epochs * self.a_pass())

    def fresh(self) -> None:
        """Optimiser and scheduler as the script left them: those that the trainer makes are made anew."""
        self.trainer.optimizer, self.trainer.lr_scheduler = self.own
        self.trainer.model_wrapped, self.trainer.current_flos = self.trainer.model, 0
        for part, was in ((self.own[0], self.optimizer), (self.own[1], self.scheduler)):
            if part is not None:
                part.load_state_dict(copy.deepcopy(was))

    @contextlib.contextmanager
    def unheard(self) -> Iterator[Any]:
        """The trainer, whose callbacks hear nothing of what is done with it, and whose records stay what they are."""
        from transformers import trainer_callback

        none: Any = trainer_callback.CallbackHandler
        trainer, drops = self.trainer, self.trainer.args.dataloader_drop_last
        kept = trainer.callback_handler, trainer.state, trainer.control
        trainer.callback_handler = none(
            [trainer_callback.DefaultFlowCallback()], trainer.model, None, None, None
        )
        trainer.state, trainer.control = copy.deepcopy(trainer.state), copy.copy(trainer.control)
        trainer.args.dataloader_drop_last = False  # it would leave test rows out as well
        try:
            yield trainer
        finally:
            trainer.args.dataloader_drop_last = drops
            trainer.callback_handler, trainer.state, trainer.control = kept


def host(party: str, trainer: Any) -> Host:
    """Take a trainer in. Raises ModelError for what is none, ConfigError with everything of it that cannot take part."""
    library()
    if not is_trainer(trainer):
        raise ModelError(
            f"the trainer of {party} is {type(trainer).__name__}\n    why: the loop of a transformers.Trainer is run (TRL's "
            "derive from it)\n    fix: return the trainer from the function that makes it, without calling train()"
        )
    if problems := list(_unfit(trainer)) or list(_astray(trainer)):
        raise ConfigError(problems)
    from fedfm.tasks.hosted import events

    begins = standing()
    handler = trainer.callback_handler
    handler.callbacks = [c for c in handler.callbacks if type(c).__name__ not in QUIET]
    return Host(party, trainer, begins, copy.deepcopy(events.held(trainer)))


def _unfit(trainer: Any) -> Iterator[Problem]:
    """What a round cannot be honest about."""
    args = trainer.args
    for name, why, fix in _SET:
        value = getattr(args, name, None)
        if value and value != "no":
            yield Problem(f"TrainingArguments.{name}", f"is {value!r}", why, fix)
    if getattr(args.parallel_mode, "value", "") != "not_parallel":
        yield Problem(
            "TrainingArguments",
            f"several processes or cards ({args.parallel_mode.value})",
            "a party's model is one vector in one process",
            "one card: CUDA_VISIBLE_DEVICES=0, without torchrun",
        )
    if trainer.model_init is not None:
        yield Problem(
            "Trainer.model_init",
            "makes a new model at each train()",
            "the model that was sent would be thrown away before the first step",
            "Trainer(model=init(), ...)",
        )
    if trainer.train_dataset is None or not hasattr(trainer.train_dataset, "__len__"):
        yield Problem(
            "Trainer.train_dataset",
            "is missing" if trainer.train_dataset is None else "has no length (a stream)",
            "an update is weighed by the number of rows, and a round goes on where the last one stopped",
            "a data set with a length: list(stream.take(10_000)), or datasets.Dataset.from_list",
        )


def _astray(trainer: Any) -> Iterator[Problem]:
    """Before release 5 a training that is resumed within a pass counts its accumulated batches from there."""
    release, every = library().__version__, trainer.args.gradient_accumulation_steps
    if int(release.split(".")[0]) >= 5 or every < 2:
        return
    with aside():
        batches = len(trainer.get_train_dataloader())
    if batches % every:
        yield Problem(
            "TrainingArguments.gradient_accumulation_steps",
            f"is {every}, and a pass has {batches} batches",
            f"transformers {release} takes no step on the last of them after a round that stopped within the pass",
            "transformers 5 or newer, or batches that divide",
        )


_SHARDS = "the model is cut into shards, and what travels is one vector of whole tensors"
_SET = (
    ("deepspeed", _SHARDS, "leave it out; adapters (peft) make a large model fit one card"),
    ("fsdp", _SHARDS, "leave it out; adapters (peft) make a large model fit one card"),
    (
        "load_best_model_at_end",
        "each round would end with an earlier model of its own, from a checkpoint",
        "False; evaluate.keep_best=true keeps the federation's best round",
    ),
    (
        "push_to_hub",
        "a party's own model would leave its site, beside the protection of what it sends",
        "False; push the model that the run leaves",
    ),
    (
        "fp16",
        "its loss scaler leaves steps out, each party others, and is in no state that is kept",
        "bf16=True, or float32",
    ),
    ("fp16_full_eval", "scoring would change the type of the weights that travel", "False"),
    ("bf16_full_eval", "scoring would change the type of the weights that travel", "False"),
    (
        "auto_find_batch_size",
        "a step that ran out of memory is begun anew with other batches, each party with others",
        "False, and a per_device_train_batch_size that fits",
    ),
)
