"""One driver for all tests that run a federation: on an engine, in a folder, to the end."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from effort import drawn
from fedfm.cards import registry
from fedfm.core.federation import Federation
from fedfm.core.loop import Run
from fedfm.engines.inprocess import InProcess
from fedfm.engines.processes import Processes
from fedfm.laws.homes import Played, play

torch.set_num_threads(1)  # bits depend on it; a worker has one thread too

Drive = Callable[..., Played]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a `sampled(n)` test one example in n runs at a commit; the others are slow tests."""
    for item in items:
        mark = item.get_closest_marker("sampled")
        if mark is not None and not drawn(item.nodeid, *mark.args):
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def own_methods() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    before = set(registry._live)
    yield
    for key in set(registry._live) - before:
        if not registry._live[key].card.module.startswith("fedfm."):
            registry.forget(*key)


@pytest.fixture
def drive(tmp_path: Path) -> Drive:
    """`drive(fed, workers=0, ...)`: run it in a fresh folder, in this process or in so many workers."""
    count = iter(range(1000))

    def run(
        fed: Federation,
        workers: int | None = None,
        folder: Path | None = None,
        resume: bool = False,
        around: Callable[[Run], None] = lambda run: None,
        **slots: Any,
    ) -> Played:
        if workers is not None:
            slots["engine"] = Processes(workers) if workers else InProcess()
        return play(
            replace(fed, **slots), folder or tmp_path / f"run-{next(count)}", resume=resume, around=around
        )

    return run


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of one of the federations of tests/recorded.py, run when it is first asked for."""
    from recorded import play as record

    @functools.cache
    def folder(name: str) -> Path:
        return record(name, tmp_path_factory.mktemp("recorded") / name.replace(", ", "-"))

    return folder
