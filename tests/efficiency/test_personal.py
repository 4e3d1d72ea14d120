"""Models of one's own: a head for each party, and clusters that find themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

import fedfm
from federations import OWN_TESTS, digits
from fedfm.checks.rules import check
from fedfm.core.context import Ctx, Terms
from fedfm.core.errors import ConfigError, DataError
from fedfm.core.message import Message
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.personal.fedrep import FedRep
from fedfm.efficiency.training.personal.ifca import IFCA, ClusterMean
from fedfm.incentives.contribution.leave_one_out import LeaveOneOut
from fedfm.incentives.selection.uniform import Uniform
from fedfm.laws.homes import quadratics
from fedfm.running.verdict import ladder
from fedfm.tasks.quadratic import Quadratic, Quadratics
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise

SGD = Local(lr=0.1, steps=2, batch=8)


def test_the_head_never_leaves_and_the_body_is_shared(drive: Any) -> None:
    played = drive(digits(client=FedRep(local=SGD, head_steps=2), data=OWN_TESTS))
    run = played.run
    names = {e.name for e in run.layout.entries}
    assert names and not any(n.startswith("head") for n in names)
    head = run.bound.layout.sub("head*")[1]
    assert torch.equal(run.model()[head], run.bound.init[head]) and not torch.equal(
        run.model(), run.bound.init
    )
    states = [run.engine._site.store.load(i, run.state.accepted[i]) for i in run.parties]
    heads = [s["client"]["head"] for s in states]
    assert len({tuple(h.tolist()) for h in heads}) == len(heads)


@pytest.mark.parametrize("head", ["x", "nothing*"])
def test_a_pattern_that_takes_all_or_nothing_is_refused(head: str, drive: Any) -> None:
    with pytest.raises(ConfigError, match="for some of the trained tensors x"):
        drive(quadratics(client=FedRep(local=SGD, head=head)))


def test_scores_are_of_what_parties_use(drive: Any) -> None:
    played = drive(digits(client=FedRep(local=SGD, head_steps=4), data=OWN_TESTS, rounds=2))
    metrics = played.records[-1]["metrics"]
    own = [v for k, v in metrics.items() if k.startswith("accuracy/party-")]
    assert len(own) == 6 and metrics["accuracy"] == pytest.approx(sum(own) / 6)
    assert metrics["own/accuracy/worst"] == min(own)


def test_a_party_without_test_rows_of_its_own_is_told_the_knob(drive: Any) -> None:
    with pytest.raises(DataError, match="own"):
        drive(digits(client=FedRep(local=SGD), data=replace(OWN_TESTS, own_test=0.0)))


def test_who_needs_one_model_is_refused() -> None:
    assert any(p.where == "value" for p in check(digits(client=FedRep(), value=LeaveOneOut())))


# ---- clusters -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class TwoKinds(Quadratics):
    """Three parties want +2, three want -2."""

    a: tuple[float, ...] = (1.0,) * 6
    b: tuple[float, ...] = (2.0, -2.0, 2.0, -2.0, 2.0, -2.0)


@pytest.mark.parametrize("seed", range(3))
def test_clusters_find_themselves(seed: int, drive: Any) -> None:
    """Fixed points of the two clusters are 2 and -2; one model for all would stay at 0."""
    client = IFCA(local=Local(lr=0.2, steps=5, batch=0), spread=0.5)
    slots = {"task": Quadratic(), "data": TwoKinds(rows=2, own_test=0.5), "client": client, "rounds": 12}
    played = drive(quadratics(**slots, aggregate=ClusterMean(), seed=seed))
    models = sorted(played.run.state.server["w"][:, 0].tolist())
    assert models == pytest.approx([-2.0, 2.0], abs=1e-2)
    chosen = {
        i: played.run.engine._site.store.load(i, v)["client"]["cluster"]
        for i, v in played.run.state.accepted.items()
    }
    assert len({chosen[f"party-{k}"] for k in (0, 2, 4)}) == 1 and chosen["party-0"] != chosen["party-1"]


def test_an_empty_cluster_keeps_its_model_and_a_false_number_is_refused() -> None:
    mean, ctx = ClusterMean(clusters=2), Ctx(0)
    lift = mean.lift(Message(torch.ones(3), mass=2.0, info={"cluster": 1}), ctx)
    x, _ = mean.finish(lift.x * lift.alpha, lift.mass, 1, {}, ctx)
    assert x.tolist() == [0.0] * 3 + [1.0] * 3
    for bad in (2, -1, 0.5, "1", None, True):
        with pytest.raises(Exception, match="names cluster"):
            mean.lift(Message(torch.ones(3), info={"cluster": bad}), ctx)


def test_the_cluster_is_told_and_refused_under_noise() -> None:
    assert check(digits(client=IFCA(local=SGD), aggregate=ClusterMean(), uplink=ClipNoise(0.5, 1.0)))
    assert check(digits(client=IFCA(clusters=3), aggregate=ClusterMean(clusters=3), data=OWN_TESTS)) == []
    assert IFCA().server_half().brief({"w": torch.zeros(2, 3)}, Terms()).x.shape == (6,)


def test_whose_mean_it_is_and_who_never_took_part_is_told(tmp_path: Any) -> None:
    """One model is scored over all rows, models of parties' own by their mean: the words say which."""
    own = digits(client=FedRep(local=SGD, head_steps=2), data=OWN_TESTS, select=Uniform(count=1), rounds=2)
    run = fedfm.run(own, out=tmp_path / "own")
    label = "federated, mean of parties' own models"
    assert (
        dict(ladder(run.metric))[label] == run.metric["federated"]
        and label.replace("'", "&#x27;") in run._repr_html_()
    )
    assert "(mean of own models)" in repr(run)
    [said] = [
        r for r in run.reasons if "never took part: in the mean their own models count as they began" in r
    ]
    assert said.count("party-") == 4  # of six, two were drawn
    one = fedfm.run(digits(data=OWN_TESTS, select=Uniform(count=1), rounds=2), out=tmp_path / "one")
    assert "federated" in dict(ladder(one.metric)) and not one.reasons
