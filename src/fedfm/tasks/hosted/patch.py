"""`fedfm.patch`: a federation of trainers, in one call; in a script, the line that lets its trainer take part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fedfm.cards.registry import load
from fedfm.core.errors import ConfigError, Problem
from fedfm.core.federation import Federation
from fedfm.tasks.hosted import script
from fedfm.tasks.hosted.host import is_trainer
from fedfm.tasks.hosted.loop import OwnLoop
from fedfm.tasks.hosted.rows import Trainers
from fedfm.tasks.hosted.task import Hosted


def patch(
    trainer: Any,
    parties: int | Sequence[str] = (),
    *,
    steps: int | None = None,
    epochs: float | None = None,
    keep_optimizer: bool = True,
    **slots: Any,
) -> Any:
    """A `Federation` of trainers, or, given a trainer, that trainer.

    With a function `make(party)`, or the path of a script: the federation of these `parties` (names, or how many), to run
    with `fedfm.run`; `steps` or `epochs` a round, other keywords fill slots. With a `transformers.Trainer` (TRL's too), in a
    script: where the script is run for a party, its `trainer.train()` is the party's part of the federation; run by
    itself, the script trains as ever. Raises ConfigError for anything else.
    """
    if is_trainer(trainer):
        return _taken(trainer)
    if not callable(trainer) and not isinstance(trainer, str):
        raise ConfigError(
            [
                Problem(
                    "patch",
                    f"{type(trainer).__name__} is no trainer and makes none",
                    "a transformers.Trainer is patched, or a function of a party's name that makes one",
                    "fedfm.patch(make, parties=3), or in a script fedfm.patch(trainer)",
                )
            ]
        )
    if not parties:
        raise ConfigError(
            [
                Problem(
                    "patch",
                    "nobody takes part",
                    "a trainer is made for each party, by its name",
                    "fedfm.patch(make, parties=('clinic-a', 'clinic-b')), or parties=3",
                )
            ]
        )
    names = [f"party-{k}" for k in range(parties)] if isinstance(parties, int) else parties
    made = {
        "task": Hosted(),
        "data": Trainers(trainer, tuple(names)),
        "client": OwnLoop(steps, epochs, keep_optimizer),
        "evaluate": load("held-out")(parts=1),
    }
    return Federation(**made | slots)


def _taken(trainer: Any) -> Any:
    """Let its `train` be the party's part, where the script is run for one."""
    run = script.now.get()
    if run is not None:
        run.trainers.append(trainer)
        leave: Callable[..., Any] = run.leave
        trainer.train = lambda *args, **named: leave(trainer)
    return trainer
