"""Every number that a method takes, at ends that nobody means: refused, failed or right, and always in words."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fedfm
from fedfm.cards.registry import load, methods
from fedfm.core.errors import FedfmError
from fedfm.laws.homes import slot_of, tries
from soak.test_soak import today

ENDS = (0, -1, 1, 1e308, math.nan, math.inf, 10**30, 1e-300, True, "x", None)
FEW = 60


def numbers(name: str) -> Iterator[tuple[str, str, str]]:
    """(method, slot, field) of each number among a method's settings, where a federation takes the method."""
    spec = load(name)()
    slot = slot_of(spec) if dataclasses.is_dataclass(spec) else ""
    if slot in ("", "engine", "data", "task"):
        return
    for f in dataclasses.fields(spec):
        value = getattr(spec, f.name)
        if isinstance(value, int | float | None) and not isinstance(value, bool):
            yield name, slot, f.name


def every() -> list[tuple[str, str, str]]:
    found = []
    for name in sorted(methods()):
        try:
            found += list(numbers(name))
        except (TypeError, ValueError, FedfmError):  # it cannot be made without settings
            continue
    return found


def tried(name: str, slot: str, field: str, end: Any, folder: Path) -> None:
    for fed in tries(load(name)()):
        if fedfm.check(fed):
            continue
        try:
            result = fedfm.run(
                dataclasses.replace(fed, rounds=2), settings={f"{slot}.{field}": end}, out=folder / "run"
            )
        except FedfmError as e:
            assert str(e)
            return
        assert math.isfinite(result.metric["federated"])
        return


DRAWN = random.Random(today()).sample([(*k, end) for k in every() for end in ENDS], FEW)


@pytest.mark.parametrize(("name", "slot", "field", "end"), DRAWN, ids=str)
def test_a_number_at_an_end(name: str, slot: str, field: str, end: Any, tmp_path: Path) -> None:
    tried(name, slot, field, end, tmp_path)


@pytest.mark.parametrize(
    ("name", "slot", "field", "end"),
    [
        ("local-gaussian", "uplink", "noise_multiplier", 1e308),
        ("local-gaussian", "uplink", "noise_multiplier", 1e-300),
        ("gaussian", "uplink", "noise_multiplier", 1e-300),
        ("secagg", "uplink", "range_bound", 1e308),
        ("proportional-share", "select", "budget", 1e308),
        ("budget-split", "reward", "budget", 1e308),
    ],
    ids=str,
)
def test_ends_that_were_tracebacks(name: str, slot: str, field: str, end: Any, tmp_path: Path) -> None:
    tried(name, slot, field, end, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(methods()))
def test_all_ends_of_a_method(name: str, tmp_path: Path) -> None:
    for k, (_, slot, field) in enumerate(t for t in every() if t[0] == name):
        for j, end in enumerate(ENDS):
            tried(name, slot, field, end, tmp_path / f"{k}-{j}")
