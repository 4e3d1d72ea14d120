"""Everything that the soak has found stays a test: mended ones pass, open ones fail until they are mended."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedfm.checks.rules import check
from fedfm.core.federation import replace
from soak.found import MENDED, OPEN, Found
from soak.trial import POINTS, Way, complaints


def meet(found: Found, folder: Path) -> None:
    """It is refused before it runs, or it runs and nothing is wrong."""
    try:
        fed = replace(POINTS, **(found.slots() if callable(found.slots) else found.slots))
    except ValueError:
        return  # a spec says itself that it cannot be
    if not check(fed):
        assert complaints(fed, folder, Way(workers=2, stop=9, twin=True)) == []


@pytest.mark.parametrize(
    "found",
    [pytest.param(f, id=n, marks=pytest.mark.xfail(strict=True, reason=f.why)) for n, f in OPEN.items()],
)
def test_open(found: Found, tmp_path: Path) -> None:
    meet(found, tmp_path)


@pytest.mark.parametrize("found", [pytest.param(f, id=n) for n, f in MENDED.items()])
def test_mended(found: Found, tmp_path: Path) -> None:
    meet(found, tmp_path)
