"""What an aggregator of one's own gives is looked at before a server steps by it, and the aggregator is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import fedfm
from fedfm.core.errors import MethodFault, RunFailed
from fedfm.core.federation import Federation
from fedfm.core.protocols import Aggregator, Lift
from fedfm.efficiency.training.local import Local
from fedfm.tasks.quadratic import Quadratic, Quadratics


@dataclass(frozen=True)
class Sums(Aggregator):
    """A mean whose end is somebody else's idea."""

    end: Any = None

    def lift(self, m: Any, ctx: Any) -> Lift:
        return Lift(m.x, m.mass, m.mass)

    def finish(self, x: Any, mass: Any, count: int, state: Any, ctx: Any) -> Any:
        return self.end(x / float(mass), state)


@dataclass(frozen=True)
class Lists(Aggregator):
    """The same, of all messages."""

    end: Any = None
    form = "all"

    def combine(self, messages: Any, state: Any, ctx: Any) -> Any:
        return self.end(torch.stack([m.x for m in messages]).mean(0), state)


ODD: dict[str, tuple[Callable[..., Any], str]] = {
    "numpy": (lambda x, s: (x.numpy(), s), "gives ndarray and dict, not a tensor"),
    "None": (lambda x, s: (None, s), "gives NoneType and dict, not a tensor"),
    "scalar": (lambda x, s: (x.sum(), s), r"gives a tensor \(\) and dict"),
    "rows": (lambda x, s: (x[None], s), r"gives a tensor \(1, \d+\) and dict"),
    "no state": (lambda x, s: (x, None), "and NoneType, not a tensor"),
    "alone": (lambda x, s: x, "aggregate"),
    "short": (lambda x, s: (x[:1], s), "values where the model has 16"),
}


@pytest.mark.parametrize("base", [Sums, Lists])
@pytest.mark.parametrize("name", ODD)
def test_what_is_no_vector_ends_the_run_with_the_aggregators_name(
    name: str, base: Any, tmp_path: Path
) -> None:
    end, told = ODD[name]
    with pytest.raises(MethodFault, match=f"(?s)aggregate.*{told}" if told != "aggregate" else told):
        fedfm.run(quadratics(base(end)), out=tmp_path / "run", engine="inprocess")


def test_a_division_by_nothing_is_told_as_one_possibility(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="or are divided by 0"):
        fedfm.run(quadratics(Sums(lambda x, s: (x / 0.0, s))), out=tmp_path / "run", engine="inprocess")


def test_one_that_is_right_runs(tmp_path: Path) -> None:
    for at, base in enumerate((Sums, Lists)):
        result = fedfm.run(quadratics(base(lambda x, s: (x, s))), out=tmp_path / str(at), engine="inprocess")
        assert result.status == "finished"


def quadratics(aggregate: Any) -> Federation:
    data = Quadratics(a=(1.0, 2.0), b=(3.0, 4.0))
    return Federation(
        Quadratic(dim=3), data, client=Local(lr=0.02, steps=2, batch=0), aggregate=aggregate, rounds=1
    )
