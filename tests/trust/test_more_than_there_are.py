"""An attack by more parties than there are is refused, and not carried out by all of them in silence."""

from __future__ import annotations

from typing import Any

import pytest

import fedfm
from fedfm.running.feasible import feasible


@pytest.mark.parametrize("kind", [fedfm.SignFlip, fedfm.LabelFlip])
def test_more_malicious_parties_than_parties_are_refused(kind: Any) -> None:
    def said(count: int) -> list[str]:
        fed = fedfm.replace(fedfm.recipe_of("fedavg-vision"), adversary=kind(count=count))
        return [str(p) for p in feasible(fed, {f"c{i}": 10 for i in range(10)}) if "asks for" in str(p)]

    (found,) = said(11)
    assert "asks for 11" in found and "adversary.count=10" in found and not said(10)
