"""A script that makes a trainer and trains it, run for a party: up to its `trainer.train()`, with the trainer taken there."""

from __future__ import annotations

import contextvars
import hashlib
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedfm.core.errors import ModelError
from fedfm.files import path as meant


class Taken(BaseException):
    """Leaves a script at the line that trains: no `except Exception` of it holds this up."""


@dataclass
class Run:
    """For whom a script is run, and what it has patched so far."""

    party: str
    trainers: list[Any] = field(default_factory=list)

    def leave(self, trainer: Any) -> None:
        """What `train()` of its trainer does here."""
        del vars(trainer)["train"]
        raise Taken


now: contextvars.ContextVar[Run | None] = contextvars.ContextVar("script of a party", default=None)


def party() -> str:
    """Whose script this is, in a federation; "" where it runs by itself."""
    found = now.get()
    return "" if found is None else found.party


def sha256(script: str) -> str:
    """Of a script's content."""
    return hashlib.sha256(meant(script).read_bytes()).hexdigest()


def scripted(script: str) -> Callable[[str], Any]:
    """The function of a party's name that runs a script and gives its trainer."""

    def make(name: str) -> Any:
        return _made(meant(script), name)

    return make


def _made(path: Path, name: str) -> Any:
    if not path.is_file():
        raise ModelError(
            f"data.make: there is no script {path}\n    why: it is run for {name}, up to its trainer.train()\n"
            "    fix: the path of a .py file that calls fedfm.patch(trainer)"
        )
    run, argv, root = Run(name), sys.argv, str(path.resolve().parent)
    token = now.set(run)
    sys.argv, sys.path[:] = [str(path)], [root, *sys.path]
    try:
        runpy.run_path(str(path), run_name="__main__")
    except Taken:
        pass
    except SystemExit as e:
        if not run.trainers:
            raise ModelError(
                f"{path} has ended by itself ({e}) and patched no trainer\n    why: the trainer of {name} is taken from it\n"
                "    fix: fedfm.patch(trainer) before trainer.train(); options have defaults, as it is run without any"
            ) from e
    finally:
        now.reset(token)
        sys.argv = argv
        sys.path.remove(root)
    if len(run.trainers) != 1:
        raise ModelError(
            f"{path} patches {len(run.trainers)} trainers\n    why: one trainer is one party's\n"
            "    fix: fedfm.patch(trainer), once, before trainer.train()"
        )
    vars(run.trainers[0]).pop("train", None)  # a script that never came to it
    return run.trainers[0]
