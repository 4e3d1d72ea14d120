"""Callbacks and trackers: what they are told, and what cannot be one is refused before the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fedfm
from fedfm.core.errors import ConfigError
from fedfm.core.federation import Federation
from fedfm.efficiency.training.local import Local
from fedfm.tasks.quadratic import Quadratic, Quadratics


def fed(**slots: Any) -> Federation:
    data = Quadratics(a=(1.0, 2.0, 5.0), b=(3.0, 1.0, -1.0))
    return Federation(Quadratic(dim=3), data, client=Local(lr=0.02, steps=2, batch=0), rounds=2, **slots)


class Listener:
    def __init__(self) -> None:
        self.rounds: list[int] = []

    def __call__(self, record: dict[str, Any]) -> None:
        self.rounds.append(record["round"])

    def log(self, round: int, metrics: dict[str, float]) -> None:
        self.rounds.append(round)

    def close(self) -> None:
        self.rounds.append(-1)


def test_an_object_listens(tmp_path: Path) -> None:
    heard, logged = Listener(), Listener()
    fedfm.run(fed(), out=tmp_path / "run", callbacks=heard, trackers=logged)
    assert heard.rounds == [0, 1, 2] and logged.rounds == [0, 1, 2, -1]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"callbacks": Listener}, "Listener is a class"),
        ({"callbacks": [print, Listener]}, "Listener is a class"),
        ({"trackers": [Listener]}, "Listener is a class"),
        ({"callbacks": lambda: None}, "cannot be called with one record"),
        ({"callbacks": lambda round, record: None}, "cannot be called with one record"),
        ({"callbacks": [3]}, "int cannot be called"),
        ({"trackers": [print]}, "is no tracker"),
    ],
)
def test_what_cannot_listen_is_refused_before_the_work(
    given: dict[str, Any], why: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=why):
        fedfm.run(fed(), out=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_an_empty_slot_of_a_stage_is_named(tmp_path: Path) -> None:
    stage: Any = fed(uplink=None)
    with pytest.raises(ConfigError, match=r"stages\.0\.uplink: None cannot stand here"):
        fedfm.run(fed(stages=(stage,)), out=tmp_path / "run")
