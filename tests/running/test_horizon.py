"""A run that is extended keeps its horizon: schedules and noise stay those of the run that it began as."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

import fedfm
from fedfm.config.record import digest, to_config
from fedfm.config.text import dump, load
from fedfm.core.errors import ConfigError, ResumeError
from fedfm.core.federation import Federation
from fedfm.efficiency.training.fedprox import FedProx
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.efficiency.training.personal.by_client import ByClient
from fedfm.efficiency.training.schedule import Constant, Cosine, Linear
from fedfm.efficiency.training.servers import Apply
from fedfm.laws.homes import quadratics
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian

FALLING = {
    "client": Local(lr=0.1, steps=2, schedule=Cosine(end=0.2)),
    "server": Apply(lr=0.5, schedule=Linear(end=0.5)),
}
PUBLIC = Mean("equal", denominator=5.0)
CALIBRATED = {"uplink": ClipNoise(epsilon=8.0), "aggregate": PUBLIC}


def digests(result: Any) -> tuple[str, str, str]:
    return tuple(result.summary[f"{what}_digest"] for what in ("model", "ledger", "config"))  # type: ignore[return-value]


@pytest.mark.parametrize("slots", [FALLING, FALLING | CALIBRATED], ids=["rates", "rates and noise"])
def test_an_extended_run_is_a_fresh_one_of_the_same_horizon(slots: dict[str, Any], tmp_path: Path) -> None:
    first = {"rounds": 2, "horizon": 4} if "uplink" in slots else {"rounds": 3}
    horizon = 4 if "uplink" in slots else 3
    fedfm.run(quadratics(**slots, **first), out=tmp_path / "run", baselines="none")
    longer = fedfm.resume(tmp_path / "run", rounds=4)
    fresh = fedfm.run(
        quadratics(**slots, rounds=4, horizon=horizon), out=tmp_path / "fresh", baselines="none"
    )
    assert digests(longer) == digests(fresh)
    assert load(tmp_path / "run" / "config.yaml")["horizon"] == horizon
    if horizon == 3:
        whole = fedfm.run(quadratics(**slots, rounds=4), out=tmp_path / "whole", baselines="none")
        assert digests(whole)[0] != digests(longer)[0]  # rates that fall over four rounds are others
        more = fedfm.resume(tmp_path / "run", rounds=6)  # extended twice
        fresh = fedfm.run(quadratics(**slots, rounds=6, horizon=3), out=tmp_path / "six", baselines="none")
        assert digests(more) == digests(fresh)


@pytest.mark.parametrize("stage", [ClipNoise(epsilon=8.0), LocalGaussian(epsilon=8.0)], ids=repr)
def test_noise_made_for_an_epsilon_is_not_stretched_beyond_its_horizon(stage: Any, tmp_path: Path) -> None:
    fed = quadratics(uplink=stage, aggregate=PUBLIC, rounds=2)
    fedfm.run(fed, out=tmp_path / "run", baselines="none")
    with pytest.raises(ConfigError, match="spends epsilon 8 in 2 rounds, and 3 are asked for"):
        fedfm.resume(tmp_path / "run", rounds=3)
    assert len(fedfm.resume(tmp_path / "run").history) == 3  # nothing was done: the run is as it was
    with pytest.raises(ConfigError, match="made for the horizon"):
        fedfm.run(quadratics(uplink=stage, aggregate=PUBLIC, rounds=3, horizon=2), out=tmp_path / "more")


def test_noise_that_was_named_goes_on_and_a_budget_that_is_spent_does_not(tmp_path: Path) -> None:
    named = quadratics(uplink=ClipNoise(noise_multiplier=3.0), aggregate=PUBLIC, rounds=2)
    fedfm.run(named, out=tmp_path / "run", baselines="none")
    spent = fedfm.resume(tmp_path / "run", rounds=7).summary["privacy"]["epsilon"]
    assert spent == pytest.approx(3.7868, abs=1e-3)
    stopped = quadratics(uplink=ClipNoise(noise_multiplier=3.0, budget=2.0), aggregate=PUBLIC, rounds=9)
    assert len(fedfm.run(stopped, out=tmp_path / "budget", baselines="none").history) < 9
    with pytest.raises(ResumeError, match="cannot be extended: one more round would spend epsilon"):
        fedfm.resume(tmp_path / "budget", rounds=20)


def test_the_horizon_is_what_a_run_is_of(tmp_path: Path) -> None:
    def of(**slots: Any) -> str:
        return digest(to_config(quadratics(rounds=4, **slots)))

    assert of() == of(horizon=4) != of(horizon=5)
    without = {k: v for k, v in to_config(quadratics(rounds=4)).items() if k != "horizon"}
    assert digest(without) == of()  # of a release that did not know it
    fedfm.run(quadratics(rounds=2, **FALLING), out=tmp_path / "run", baselines="none")
    path = tmp_path / "run" / "config.yaml"
    path.write_text(dump(load(path) | {"horizon": 9}))
    with pytest.raises(ResumeError, match="horizon: was 2, is 9"):
        fedfm.resume(tmp_path / "run", rounds=4)
    with pytest.raises(ConfigError, match="horizon"):
        fedfm.run(to_config(quadratics(rounds=2)) | {"horizon": 0}, out=tmp_path / "none")
    assert Federation.__dataclass_fields__["horizon"].default is None


@pytest.mark.parametrize(
    "slots,where",
    [
        ({"client": Local(schedule=Cosine())}, "client.schedule"),
        ({"client": FedProx(local=Local(schedule=Linear(warmup=1)))}, "client.local.schedule"),
        (
            {"client": ByClient({"party-0": Local(schedule=Cosine()), "*": Local()})},
            "client.rules.party-0.schedule",
        ),
        ({"server": Apply(schedule=Cosine())}, "server.schedule"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_rounds_whose_rate_is_zero_are_refused(slots: dict[str, Any], where: str, tmp_path: Path) -> None:
    fedfm.run(quadratics(rounds=2, **slots), out=tmp_path / "run", baselines="none")
    with pytest.raises(ConfigError, match="fallen to 0 after 2 rounds, and 3 are asked for") as e:
        fedfm.resume(tmp_path / "run", rounds=3)
    assert [p.where for p in e.value.problems] == [where]
    assert len(fedfm.resume(tmp_path / "run").history) == 3  # as it was


@pytest.mark.parametrize("schedule", [Cosine(warmup=2), Linear(warmup=3), Constant(warmup=2)], ids=repr)
@pytest.mark.parametrize("slot", ["client", "server"])
def test_a_warm_up_that_never_ends_is_refused(slot: str, schedule: Any, tmp_path: Path) -> None:
    """A run of two rounds; with a horizon that is longer the same rounds are its beginning."""
    slots = {"client": Local(schedule=schedule)} if slot == "client" else {"server": Apply(schedule=schedule)}
    with pytest.raises(ConfigError, match="never ends in a run of 2") as e:
        fedfm.run(quadratics(rounds=2, **slots), out=tmp_path / "run")
    assert [p.where for p in e.value.problems] == [f"{slot}.schedule"]
    whole = quadratics(rounds=2, horizon=schedule.warmup + 1, **slots)
    assert fedfm.run(whole, out=tmp_path / "run").status == "finished"


@pytest.mark.parametrize("finished", [True, False])
def test_a_federation_that_is_given_again_does_not_lengthen_its_run(finished: bool, tmp_path: Path) -> None:
    """`run(fed, rounds=2)` and `resume(dir, fed)`: the federation's own five rounds were trained, and their noise spent."""
    fed = quadratics(uplink=ClipNoise(noise_multiplier=3.0), aggregate=PUBLIC, rounds=5)

    def stops(record: dict[str, Any]) -> None:
        if record["round"] == 1 and not finished:
            raise RuntimeError("stopped")

    with contextlib.nullcontext() if finished else pytest.raises(RuntimeError):
        fedfm.run(fed, rounds=2, out=tmp_path / "run", baselines="none", callbacks=[stops])
    if finished:
        again = fedfm.resume(tmp_path / "run", fed)
    else:
        with pytest.warns(
            UserWarning, match="this run is of 2 rounds, the federation says 5: rounds=5 extends it"
        ):
            again = fedfm.resume(tmp_path / "run", fed)
    assert again.summary["rounds"] == 2 and len(again.summary["privacy"]["per_round"]) == 2
    assert fedfm.resume(tmp_path / "run", fed, rounds=4).summary["rounds"] == 4
