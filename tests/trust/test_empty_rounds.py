"""Under a Poisson draw a round in which nobody took part releases noise alone, and is booked like every other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedfm.checks.rules import check
from fedfm.core.federation import Federation
from fedfm.efficiency.communication.submodel.heterofl import HeteroFL
from fedfm.efficiency.training.adaptive import FedAdam
from fedfm.efficiency.training.hierarchy import Edges
from fedfm.efficiency.training.mean import Mean
from fedfm.incentives.selection.poisson import Poisson
from fedfm.laws.homes import pictures, play, quadratics
from fedfm.pace import AllArrive, Quorum
from fedfm.tasks.quadratic import Quadratic
from fedfm.trust.privacy.accountant import cost, spent
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise

NOBODY = Poisson(rate=1e-9)
NOISY: dict[str, Any] = {
    "uplink": ClipNoise(noise_multiplier=2.0),
    "aggregate": Mean("equal", denominator=2.0),
}


def released(fed: Federation) -> list[Any]:
    """The releases of a run in which nobody took part: one a round, each booked, none of them failed."""
    assert not check(fed)
    played = play(fed)
    assert not played.failed and all(r["clients"] == 0 for r in played.records[1:])
    got, stage = spent(played.events), ClipNoise(noise_multiplier=2.0)
    draw = {"kind": "poisson", "rate": fed.select.rate}  # type: ignore[attr-defined]
    assert got is not None and got.rounds == fed.rounds
    assert got.epsilon == pytest.approx(cost([stage], [draw] * fed.rounds), rel=1e-9)
    assert not torch.equal(played.model, play(quadratics(**NOISY | {"rounds": 0}, task=fed.task)).model)
    return played.records


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"fold": "fixed"},
        {"server": FedAdam(lr=0.01)},
        {"aggregate": Mean(cap=4.0, denominator=2.0)},
        {"uplink": ClipNoise(noise_multiplier=2.0, relation="add-or-remove")},
    ],
    ids=str,
)
def test_a_round_without_a_party_steps_with_noise_alone(more: dict[str, Any]) -> None:
    released(quadratics(**NOISY | {"select": NOBODY, "rounds": 3} | more))


def test_the_noise_of_an_empty_round_is_that_of_every_round() -> None:
    fed = quadratics(**NOISY | {"task": Quadratic(dim=20_000), "select": NOBODY, "rounds": 1})
    before = play(quadratics(task=Quadratic(dim=20_000), rounds=0)).model
    moved = play(fed).model - before
    assert float(moved.std()) == pytest.approx(2.0 * 1.0 / 2.0, rel=0.03) and abs(float(moved.mean())) < 0.03


@pytest.mark.parametrize("select", [Edges(inner=NOBODY), HeteroFL(inner=NOBODY)], ids=repr)
def test_edges_and_sub_models_too(select: Any) -> None:
    played = play(pictures(**NOISY | {"select": select, "rounds": 2}))
    assert not played.failed
    got = spent(played.events)
    assert got is not None and got.rounds == 2


def test_a_cohort_that_is_lost_is_an_empty_one(tmp_path: Path) -> None:
    fed = quadratics(**NOISY | {"select": Poisson(0.5), "pace": AllArrive(dropout=1.0), "rounds": 2})
    played = play(fed)
    assert not check(fed) and not played.failed
    assert [r["clients"] for r in played.records[1:]] == [0, 0] and spent(played.events) is not None


def test_nothing_changes_where_nothing_is_promised() -> None:
    for uplink in (
        ClipNoise(noise_multiplier=2.0, no_guarantee=True),
        ClipNoise(0.5, 0.0, no_guarantee=True),
    ):
        played = play(quadratics(**NOISY | {"uplink": uplink, "select": NOBODY, "rounds": 2}))
        assert played.failed == ["poisson chose nobody"] * 2
    assert len(play(quadratics(select=NOBODY, rounds=2)).failed) == 2


def test_a_quorum_would_tell_the_size_of_a_random_cohort() -> None:
    for relation in ("zero-out", "replace-one", "add-or-remove"):
        noise = ClipNoise(noise_multiplier=2.0, relation=relation)
        found = check(quadratics(**NOISY | {"uplink": noise, "select": Poisson(0.5), "pace": Quorum(0.5)}))
        assert [p.where for p in found] == ["pace"] and "how many took part" in found[0].why
    assert not check(quadratics(**NOISY | {"pace": Quorum(0.5)}))  # of everybody: presence is public
    assert not check(quadratics(**NOISY | {"select": Poisson(0.5), "pace": Quorum(0.0)}))
