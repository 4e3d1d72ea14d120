"""A method that its class leaves unwritten is named wherever it is missed: in a run, in a law, on a few real rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fedfm
from fedfm import laws
from fedfm.core.errors import ConfigError, FedfmError, words_of
from fedfm.core.protocols import Aggregator, Client, Server, Task
from fedfm.laws.homes import quadratics
from fedfm.tasks.bound import BoundModule, Objective


@dataclass(frozen=True)
class NoWork(Client):
    pass


@dataclass(frozen=True)
class NoCombine(Aggregator):
    form = "all"


@dataclass(frozen=True)
class NoStep(Server):
    pass


class NoLosses(Objective):
    def encode(self, rows: Any) -> Any:
        return torch.tensor([[r["a"], r["b"]] for r in rows.rows])

    def batch(self, encoded: Any, index: Any, device: Any) -> Any:
        return encoded[index]


@dataclass(frozen=True)
class OwnTask(Task):
    def open(self, data: Any, device: str = "cpu") -> BoundModule:
        return BoundModule(nn.Linear(2, 1), NoLosses(), device=device)


@pytest.mark.parametrize(
    ("slots", "says"),
    [
        ({"client": NoWork()}, r"NoWork does not define work\(\)"),
        ({"aggregate": NoCombine()}, r"NoCombine does not define combine\(\)"),
        ({"server": NoStep()}, r"NoStep does not define \w+\(\)"),
        ({"task": OwnTask()}, r"NoLosses does not define losses\(\)"),
    ],
    ids=["client", "aggregate", "server", "objective"],
)
def test_a_run_names_what_is_not_written(slots: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(FedfmError, match=says) as e:
        fedfm.run(quadratics(**slots), out=tmp_path / "run")
    assert isinstance(e.value, ConfigError) == ("task" in slots)


def test_so_do_the_laws() -> None:
    said = [law.broken(NoWork()) for law in laws.laws_of(NoWork())]
    assert any("NoWork does not define work()" in why for why in said)


def test_words_that_somebody_wrote_stay() -> None:
    assert words_of(NotImplementedError("not on this device")) == "NotImplementedError: not on this device"
    assert words_of(ValueError()) == "ValueError: "
