"""Random federations of everything that is registered, each run in several ways; see `trial`."""

from __future__ import annotations

from pathlib import Path

import pytest

from effort import today
from fedfm.checks.rules import check
from fedfm.core.errors import FedfmError
from fedfm.core.federation import Federation
from fedfm.laws.soak.drawing import DRAWN, drawn, fits
from soak.found import known
from soak.promises import is_calm
from soak.trial import FACTORS, IMAGES, MIXED, POINTS, Way, complaints, refused

FEW, MANY, AGAIN = 40, 5000, 8
NAMES = sorted({name for slot in DRAWN for name in fits(slot)})


def combination(seed: int, k: int) -> tuple[Federation, Way]:
    """The k-th federation of a seed, and how it is tried; each method of the registry takes its turn."""
    number, must = seed * 10_000 + k, NAMES[(seed + k) % len(NAMES)]
    homes = (POINTS, IMAGES, FACTORS) if k % 5 != 4 else (IMAGES, FACTORS, POINTS)
    fed, many = None, 0.85 if k % 7 == 3 else 0.45
    for again in range(AGAIN):  # what cannot act there is tried elsewhere
        home = (*homes, MIXED)[again % 4]
        try:
            fed = drawn(number + again * 10**13, home, must=must, wild=k % 4 != 0, crowd=many)
        except FedfmError:  # nothing with it passes check there
            continue
        if not refused(fed):
            break
    assert fed is not None, f"{must} goes with nothing"
    return fed, Way(2 * (k % 3 == 1), (number % 37 + 2) * (k % 5 == 2), twin=k % 3 == 0)


def tried(seed: int, k: int, folder: Path) -> None:
    fed, way = combination(seed, k)
    assert check(fed) == []
    calm = is_calm(fed) and fed.task == POINTS.task
    try:
        found = complaints(fed, folder, way, calm)
    except Exception as e:
        e.add_note(f"seed {seed}, combination {k}: {fed!r}, {way}")
        if not known(str(e)):
            raise
        pytest.xfail(str(e))
    new = found if not any(map(known, found)) else []  # what is known has consequences
    assert not new, "\n".join([f"seed {seed}, combination {k}: {fed!r}, {way}", *new])


@pytest.mark.parametrize("k", range(FEW))
def test_a_random_federation_runs(k: int, tmp_path: Path) -> None:
    tried(today(), k, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("k", range(MANY))
def test_thousands_of_them(k: int, tmp_path: Path) -> None:
    tried(today() + 1, k, tmp_path)
