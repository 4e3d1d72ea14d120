"""What secure aggregation cannot carry is told as what it is: a weight of rows, a weight of 1, or too many parties."""

from __future__ import annotations

from typing import Any

import pytest

from fedfm.core.federation import Federation
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.running.feasible import feasible
from fedfm.tasks.quadratic import Quadratic, Quadratics
from fedfm.trust.privacy.secure.secagg import SecAgg

ROWS = {"a": 3, "b": 110, "c": 7, "d": 5, "e": 9}
CAPPED: Any = Mean(cap=20)


def told(aggregate: Any, **range_: Any) -> list[Any]:
    data = Quadratics(a=(1.0,) * 5, b=(1.0,) * 5)
    fed = Federation(Quadratic(), data, aggregate=aggregate, client=Local(), uplink=SecAgg(**range_))
    return [p for p in feasible(fed, ROWS) if p.where == "uplink"]


@pytest.mark.parametrize(
    ("aggregate", "range_", "what", "why"),
    [
        (Mean(), {"range_bound": 0.5}, "the weight of b, which holds 110 rows", "values up to 0.5"),
        (Mean(weights="equal"), {"range_bound": 0.5}, "the weight 1 of a party", "values up to 0.5"),
        (CAPPED, {"range_bound": 0.5}, "the weight 1 of a party", "values up to 0.5"),
        (Mean(), {"bits": 41}, "the sum of 5 parties", "up to 1.04858e+06 of 3 parties"),
        (Mean(weights="equal"), {"bits": 41}, "the sum of 5 parties", "up to 1.04858e+06 of 3 parties"),
    ],
)
def test_what_does_not_fit_is_called_by_its_name(aggregate: Any, range_: Any, what: str, why: str) -> None:
    (found,) = told(aggregate, **range_)
    assert what in found.what and f"{why};" in found.why
    mended = dict(s.removeprefix("uplink.").split("=") for s in found.fix.split())
    assert told(aggregate, range_bound=float(mended["range_bound"]), bits=int(mended["bits"])) == []
