"""A plan beyond what a guarantee can say is refused with a fix that is not refused when it is followed."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fedfm import ClipNoise, LocalGaussian
from fedfm.core.federation import Federation
from fedfm.data.digits import Digits
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.running.feasible import affordable
from fedfm.tasks.quadratic import Quadratic


def told(wire: Any) -> list[str]:
    fed = Federation(
        task=Quadratic(),
        data=Digits(),
        client=Local(lr=0.1, steps=1),
        aggregate=Mean(weights="equal"),
        uplink=wire,
    )
    return [p.fix for p in affordable(fed, {f"c{k}": 10 for k in range(6)})]


@pytest.mark.parametrize("wire", [ClipNoise, LocalGaussian])
def test_an_epsilon_that_was_asked_for_is_told_with_the_noise_in_its_place(wire: Any) -> None:
    (fix,) = told(wire(epsilon=100.0, delta=1e-3))
    noise = re.search(r"noise_multiplier=([\d.]+) no_guarantee=true", fix)
    assert noise and "epsilon=20 or less" in fix and "or give epsilon" not in fix
    assert not told(wire(epsilon=20.0, delta=1e-3))
    assert not told(wire(noise_multiplier=float(noise[1]), no_guarantee=True, delta=1e-3))


def test_noise_that_was_asked_for_is_told_in_noise() -> None:
    (fix,) = told(ClipNoise(noise_multiplier=0.1, delta=1e-3))
    assert "more noise (or epsilon=20 in place of noise_multiplier)" in fix
    assert not told(ClipNoise(noise_multiplier=0.1, delta=1e-3, no_guarantee=True))


def test_a_budget_gives_way_too() -> None:
    (fix,) = told(ClipNoise(epsilon=100.0, budget=100.0, delta=1e-3))
    assert "in place of epsilon and budget" in fix
