"""A delta that is no small number: told from 1 / parties on, refused where the claim holds without any noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedfm.core.errors import ConfigError
from fedfm.core.federation import Federation
from fedfm.efficiency.training.mean import Mean
from fedfm.efficiency.training.servers import Apply
from fedfm.incentives.selection.poisson import Poisson
from fedfm.laws.homes import quadratics
from fedfm.running.entry import probe, run
from fedfm.running.feasible import affordable, loose
from fedfm.trust.privacy.mechanism.discrete_gaussian import DiscreteGaussian
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian


def central(delta: float, **knobs: Any) -> Federation:
    noise = ClipNoise(1.0, delta=delta, **({"noise_multiplier": 1.0} | knobs))
    slots = {"select": Poisson(0.3), "server": Apply(), "aggregate": Mean("equal", denominator=1.5)}
    return quadratics(uplink=noise, **slots)


def sizes(parties: int) -> dict[str, int]:
    return {f"party-{k}": 4 for k in range(parties)}


@pytest.mark.parametrize("delta", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("mechanism", [ClipNoise, LocalGaussian, DiscreteGaussian])
def test_a_guarantee_that_fails_for_one_in_ten_is_refused(mechanism: Any, delta: float) -> None:
    fed = quadratics(
        uplink=mechanism(noise_multiplier=4.0, delta=delta), aggregate=Mean("equal", denominator=5.0)
    )
    (problem,) = affordable(fed, sizes(5))
    assert problem.where == "uplink" and f"delta {delta:g}" in problem.what and "delta=0.001" in problem.fix


def test_an_epsilon_of_zero_that_delta_alone_gives_is_refused() -> None:
    fed = central(0.05, noise_multiplier=100.0)
    (problem,) = affordable(fed, sizes(40))
    assert (
        "epsilon 0.00 at delta 0.05 of 40 parties" in problem.what and "with no noise at all" in problem.why
    )
    assert not affordable(
        fed, sizes(5)
    )  # of five parties it is below 1 / parties: noise that large is honest


def test_from_one_in_all_parties_on_it_is_told(tmp_path: Path) -> None:
    assert loose(central(0.05), 20) and not loose(central(0.05), 19) and not loose(central(1e-5), 1000)
    assert not loose(central(0.5, no_guarantee=True), 20) and not loose(quadratics(), 20)
    assert "delta=0.0001 or less" in loose(central(0.05), 100)


def test_check_run_and_record_say_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedfm.running.feasible.MOST_DELTA", 1.0)  # five parties: 1 / 5 is above the limit
    fed = central(0.25, noise_multiplier=0.5)
    assert any("delta 0.25 is not below 1 / 5 parties" in r for r in probe(fed).remarks)
    assert "is not below 1/5" in probe(fed).privacy
    found = run(fed, out=tmp_path / "run", baselines="none", engine="inprocess")
    assert "is not below 1/5" in found.summary["privacy"]["sentence"]
    assert "is not below 1/5" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_such_a_run_does_not_begin(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no guarantee"):
        run(central(0.5), out=tmp_path / "run")
    run(central(0.5, no_guarantee=True), out=tmp_path / "open", baselines="none", engine="inprocess")
