"""Runs that stop before their end: killed without warning, or interrupted by hand."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fedfm
from fedfm.core.federation import Federation


def killed(what: Any, folder: Path, after: int, **run: Any) -> None:
    """Run in a process of its own that dies, without a word, once round `after` is committed."""

    def die(record: dict[str, Any]) -> None:
        if record["round"] == after:
            os._exit(9)

    apart(lambda: fedfm.run(what, out=folder, callbacks=die, **run))


def killed_in(what: Any, folder: Path, module: Any, name: str, **run: Any) -> None:
    """Run in a process of its own that dies when it calls `module.name`."""

    def go() -> None:
        setattr(module, name, lambda *args, **kwargs: os._exit(9))
        fedfm.run(what, out=folder, **run)

    apart(go)


def interrupted(fed: Federation, folder: Path, after: int, **run: Any) -> str:
    """Ctrl-C after round `after`; returns what was said."""

    def stop(record: dict[str, Any]) -> None:
        if record["round"] == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as e:
        fedfm.run(fed, out=folder, callbacks=stop, **run)
    return " ".join(e.value.__notes__)


def apart(go: Callable[[], Any]) -> None:
    """Do it in a process of its own, which is to die of it."""

    def child() -> None:
        torch.set_num_threads(1)
        go()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(120)
    assert process.exitcode == 9, f"it was to die, and ended with {process.exitcode}"
