"""An attack that cannot happen is told before any work; so is a weight for a party that does not exist."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from federations import digits
from fedfm.core.errors import ConfigError
from fedfm.core.federation import Federation
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.laws.homes import factored, pictures, quadratics
from fedfm.trust.robustness.attack.label_flip import LabelFlip


def told(fed: Federation) -> str:
    parties: Any = fed.data.open(fed.seed)
    return fed.adversary.feasible(len(parties.ids), fed.task.open(parties))


def test_labels_cannot_be_flipped_where_there_are_none() -> None:
    assert "needs data with class labels" in told(quadratics(adversary=LabelFlip(count=2)))
    assert told(digits(adversary=LabelFlip(count=2))) == ""
    assert told(pictures(adversary=LabelFlip(count=2))) == ""
    assert "needs data with class labels" in told(factored(adversary=LabelFlip(count=2)))


@pytest.mark.parametrize(
    ("attack", "why"),
    [
        (LabelFlip(count=2, classes=3), "classes=3, and the task has 10"),
        (LabelFlip(count=2, mapping="pair", source=3, target=12), "label 12 of 10 classes"),
    ],
    ids=repr,
)
def test_flips_of_labels_that_there_are_not(attack: LabelFlip, why: str) -> None:
    assert why in told(digits(adversary=attack))


def test_a_flip_that_changes_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="to itself"):
        LabelFlip(mapping="pair", source=2, target=2)
    assert told(digits(adversary=LabelFlip(mapping="pair", source=3, target=5, count=6))) == ""


def test_texts_have_labels_and_language_models_have_none(tmp_path: Any) -> None:
    """The probe is an empty shard: no row is read twice for it."""
    from fedfm.data.source import Shard

    for fed in (digits(), quadratics()):
        bound = fed.task.open(fed.data.open(0))
        assert len(bound.encode(Shard("", ()))) == 0


def test_own_weights_of_parties(drive: Any) -> None:
    """Of three optima the weighted one: FedSGD from 0 with rate 0.1 and a = 1 gives 0.1 sum f_i b_i / sum f_i."""
    from fedfm.tasks.quadratic import Quadratic, Quadratics

    base = {"client": Local(lr=0.1, steps=1, batch=0), "rounds": 1}
    data = Quadratics(a=(1.0, 1.0, 1.0), b=(1.0, 2.0, 6.0), rows=4)
    for rule, right in [
        (Mean(weights="equal", factors={"party-0": 2.0, "*-1": 1.0, "*": 0.5}), (2 * 1 + 2 + 3) / 3.5),
        (Mean(factors={"party-2": 0.0}), 1.5),
        (Mean(), 3.0),
    ]:
        played = drive(Federation(Quadratic(), data, aggregate=rule, **base))
        assert float(played.model[0]) == pytest.approx(0.1 * right, rel=1e-6)
    wrong = Mean(factors={"party-7": 2.0, "clinic-*": 1.0, "party-*": 1.0})
    with pytest.raises(ConfigError) as refused:
        drive(Federation(Quadratic(), data, aggregate=wrong, **base))
    assert [p.where for p in refused.value.problems] == [
        "aggregate.factors.party-7",
        "aggregate.factors.clinic-*",
    ]
    with pytest.raises(ValueError, match="give a number from 0 to"):
        Mean(factors={"a": -1.0})
    with pytest.raises(ValueError, match="give a number from 0 to"):
        Mean(factors={"a": float("nan")})


def test_factors_and_central_noise(drive: Any) -> None:
    """A factor multiplies what one party moves: the fact that bounds it says how far, and the noise is refused."""
    from fedfm.checks.rules import check
    from fedfm.trust.privacy.mechanism.gaussian import ClipNoise

    noisy = quadratics(uplink=ClipNoise(), aggregate=Mean(weights="equal", factors={"party-0": 2.0}))
    assert any(p.where == "aggregate" for p in check(noisy))
    assert check(quadratics(uplink=ClipNoise(), aggregate=Mean(weights="equal"))) == []
    assert (Mean(weights="equal").alpha_max, Mean().alpha_max) == (1.0, None)
    assert Mean(weights="equal", factors={"a": 0.5}).alpha_max == 1.0
    assert Mean(weights="equal", factors={"a": 3.0}).alpha_max is None


def test_masks_keep_own_weights(drive: Any) -> None:
    """The client lifts its own message: the factor is public, and the hidden sum is the sum."""
    from fedfm.trust.privacy.secure.secagg import SecAgg

    rule = Mean(factors={"party-1": 3.0})
    one, two = drive(quadratics(aggregate=rule)), drive(quadratics(aggregate=rule, uplink=SecAgg()))
    assert not two.failed and torch.allclose(one.model, two.model, atol=1e-5)
    assert not torch.allclose(one.model, drive(quadratics()).model, atol=1e-4)
