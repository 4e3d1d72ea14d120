"""Servers that keep a sum beside their parties' own, and messages of unlike units: what they must not be joined with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedfm import check
from fedfm.core.combine import ByPath
from fedfm.efficiency.communication.coarse.natural import Natural
from fedfm.efficiency.communication.coarse.sign import Sign
from fedfm.efficiency.communication.codec.error_feedback import ErrorFeedback
from fedfm.efficiency.communication.codec.quantise import Quantise
from fedfm.efficiency.communication.codec.randk import RandK
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.training.arrivals.fedbuff import FedBuff
from fedfm.efficiency.training.drift.feddyn import FedDyn
from fedfm.efficiency.training.drift.fednova import FedNova
from fedfm.efficiency.training.drift.mime import MimeLite
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.efficiency.training.scaffold import Scaffold
from fedfm.laws.homes import Played, play, quadratics
from fedfm.trust.robustness.rule.krum import Krum
from fedfm.trust.robustness.rule.median import CoordinateMedian
from fedfm.trust.robustness.rule.trimmed_mean import TrimmedMean

SGD = Local(optimizer="sgd", lr=0.1, steps=4)
OTHER_MEANS: dict[str, Any] = {
    "a public divisor": Mean("equal", denominator=4.0),
    "factors": Mean("equal", factors={"party-0": 3.0}),
    "discounts": FedBuff(),
    "old ones left out": FedBuff(power=0.0, max_staleness=0),
    "median": CoordinateMedian(),
    "trimmed": TrimmedMean(0.25),
    "some chosen": Krum(f=1, m=2),
}


@pytest.mark.parametrize("client", [Scaffold(local=SGD), FedDyn(local=SGD)], ids=["scaffold", "feddyn"])
@pytest.mark.parametrize("aggregate", OTHER_MEANS.values(), ids=OTHER_MEANS)
def test_a_sum_that_parties_keep_too_is_of_the_plain_mean(client: Any, aggregate: Any) -> None:
    assert "aggregate" in {p.where for p in check(quadratics(client=client, aggregate=aggregate))}
    assert not {p.where for p in check(quadratics(client=client, aggregate=Mean()))}
    assert not {p.where for p in check(quadratics(client=client, aggregate=Mean("equal")))}
    assert "aggregate" not in {
        p.where for p in check(quadratics(client=client, aggregate=FedBuff(power=0.0)))
    }


@pytest.mark.parametrize(
    "aggregate", [Mean("equal", denominator=4.0), FedBuff()], ids=["divisor", "discounts"]
)
def test_a_scale_that_would_count_twice_is_refused(aggregate: Any) -> None:
    (found,) = check(quadratics(client=FedNova(local=SGD), aggregate=aggregate))
    assert found.where == "aggregate" and "another length" in found.what


PARTED = {"delta/*": Sign(), "dc/*": Sign()}


@pytest.mark.parametrize("client", [Scaffold(local=SGD), MimeLite(local=SGD)], ids=["scaffold", "mimelite"])
@pytest.mark.parametrize("code", [Sign(), TopK(0.5), Quantise(8)], ids=repr)
def test_one_code_for_unlike_units_is_refused(client: Any, code: Any) -> None:
    (found,) = check(quadratics(client=client, uplink=code))
    assert found.where == "uplink.0" and "unlike units" in found.why
    one, two = client.units
    for rules in (
        {f"{one}/*": code, f"{two}/*": code},
        {f"{two}/*": None, "*": code},
        {f"{one}/*": code, "*": None},
    ):
        assert check(quadratics(client=client, uplink=ByPath(rules))) == []
    for rules in (
        {"*": code},
        {"*bias": code, f"{one}/*": code, f"{two}/*": code},
        {f"{one}/a*": code, "*": code},
    ):
        assert len(check(quadratics(client=client, uplink=ByPath(rules)))) == 1


def test_each_unit_by_its_own_code_gives_the_step_of_that_code(tmp_path: Path) -> None:
    def moved(folder: str, **slots: Any) -> Played:
        return play(quadratics(rounds=1, **slots), tmp_path / folder)

    alone = moved("alone", client=SGD, uplink=Sign())
    parted = moved("parted", client=Scaffold(local=SGD), uplink=ByPath(PARTED))
    assert parted.model.tolist() == pytest.approx(alone.model.tolist(), rel=1e-5)


@pytest.mark.parametrize("code", [RandK(0.5), Natural(), ErrorFeedback(RandK(0.5, unbiased=False))], ids=repr)
def test_a_code_of_each_value_alone_takes_unlike_units(code: Any) -> None:
    assert check(quadratics(client=Scaffold(local=SGD), uplink=code)) == []
