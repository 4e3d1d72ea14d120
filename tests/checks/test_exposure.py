"""What leaves a party is public, covered or refused, for every protection that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from fedfm.checks.exposure import exposure, leaks, outside
from fedfm.checks.rules import check
from fedfm.config.configure import configure
from fedfm.core.combine import ByPath, Pipe
from fedfm.core.context import Ctx
from fedfm.core.federation import Federation
from fedfm.core.protocols import Aggregator, Pace, Plan, Selector, State, Wire
from fedfm.core.spending import observers, planned, schedule
from fedfm.data.files import Files
from fedfm.efficiency.communication.codec.entropy import Entropy
from fedfm.efficiency.communication.codec.error_feedback import ErrorFeedback
from fedfm.efficiency.communication.codec.qsgd import QSGD
from fedfm.efficiency.communication.codec.quantise import Quantise
from fedfm.efficiency.communication.codec.randk import RandK
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.communication.submodel.heterofl import HeteroFL
from fedfm.efficiency.computation.split.splitfed import SplitFed, SplitFedServer
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.incentives.auction.proportional_share import ProportionalShare
from fedfm.incentives.selection.poisson import Poisson
from fedfm.incentives.selection.power_of_choice import PowerOfChoice
from fedfm.incentives.selection.uniform import Uniform
from fedfm.laws.homes import pictures, quadratics
from fedfm.pace import AllArrive, Buffered, Quorum, Speed
from fedfm.recipes.communication import fedpaq, sparse
from fedfm.recipes.trust import dp_fedavg, secagg
from fedfm.recipes.vision import splitfed
from fedfm.running.feasible import affordable, promise
from fedfm.tasks.text.causal import CausalLM
from fedfm.tasks.text.classify import SequenceClassification
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian
from fedfm.trust.privacy.secure.secagg import SecAgg

EQUAL, PUBLIC = Mean("equal"), Mean("equal", denominator=5.0)
CENTRAL: dict[str, Any] = {"uplink": ClipNoise(), "aggregate": PUBLIC}
LOCAL: dict[str, Any] = {"uplink": LocalGaussian(), "aggregate": EQUAL}
MASKS: dict[str, Any] = {"uplink": SecAgg()}
SPLIT: dict[str, Any] = {"client": SplitFed(), "server": SplitFedServer()}


def places(fed: Federation) -> set[str]:
    return {p.where for p in check(fed)}


# ---- the table ---------------------------------------------------------------------------------------------
def test_every_channel_of_a_recipe_has_a_sort_and_a_reason() -> None:
    for fed in (fedpaq(), sparse(), splitfed(), dp_fedavg(), secagg()):
        table = exposure(fed)
        assert all(e.why and str(e) for e in table.values())
        assert {"x", "mass", "model", "schema", "test", "draw", "losses", "errors"} <= set(table)
    assert {c: str(e) for c, e in exposure(sparse()).items() if c.startswith("side")} == {
        "side/0.error-feedback": "private",
        "side/1.qsgd": "private",
        "side/2.entropy": "private",
    }
    talk = [c for c in exposure(splitfed()) if c.startswith("talk/")]
    assert talk and not leaks(splitfed())  # nobody asked for protection
    central, hidden = exposure(dp_fedavg()), exposure(secagg())
    assert (str(central["x"]), str(central["model"])) == ("private", "covered by gaussian")
    assert (str(hidden["x"]), str(hidden["mass"]), str(hidden["model"])) == (
        "covered by secagg",
        "covered by secagg",
        "private",
    )
    assert observers(dp_fedavg()) == ("recipients",) and observers(secagg()) == ("server",)
    assert {"scores", "losses", "baselines", "draw", "facts", "checkpoints"} <= set(outside(dp_fedavg()))
    assert not check(dp_fedavg()) and not check(secagg())


# ---- ldp-code-before-noise ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "code", [TopK(), QSGD(), Quantise(), Entropy(), ErrorFeedback(TopK()), ByPath({"*": TopK()})], ids=repr
)
def test_codes_in_front_of_local_noise_are_refused_and_behind_it_are_fine(code: Wire) -> None:
    front = quadratics(**LOCAL | {"uplink": Pipe(code, LocalGaussian())})
    found = [p for p in check(front) if p.where == "uplink.0"]
    assert len(found) == 1 and "without noise" in found[0].why and "behind the noise" in found[0].fix
    behind = quadratics(**LOCAL | {"uplink": Pipe(LocalGaussian(), code)})
    assert check(behind) == [] and str(next(e for c, e in exposure(behind).items() if "side" in c)) in (
        "covered by local-gaussian",
        "public",
    )


def test_a_shared_mask_may_stand_in_front_and_every_stage_in_front_is_looked_at() -> None:
    assert check(quadratics(**LOCAL | {"uplink": Pipe(RandK(), LocalGaussian(), QSGD())})) == []
    deep = quadratics(**LOCAL | {"uplink": Pipe(RandK(), QSGD(), Entropy(), LocalGaussian())})
    assert {"uplink.1", "uplink.2"} <= places(deep) and "uplink.0" not in places(deep)


# ---- secagg-talk-in-clear ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "guard", [CENTRAL, LOCAL, MASKS, {"uplink": Pipe(ClipNoise(), SecAgg()), "aggregate": PUBLIC}]
)
@pytest.mark.parametrize(
    "slots,where,make",
    [
        (SPLIT, "server", pictures),
        ({"select": PowerOfChoice(1, 2)}, "select", quadratics),
        ({"select": HeteroFL(inner=PowerOfChoice(1, 2))}, "select", quadratics),
    ],
    ids=["split", "losses asked", "losses asked inside"],
)
def test_whoever_tells_the_server_in_clear_is_refused_under_every_protection(
    guard: dict[str, Any], slots: dict[str, Any], where: str, make: Any
) -> None:
    assert where in places(make(**guard | slots))
    without = make(**{k: v for k, v in guard.items() if k != "uplink"} | slots)
    assert not leaks(without)


@dataclass(frozen=True)
class Curious(Selector):
    """Asks, and does not say that the answers are harmless."""

    asks = True


@dataclass(frozen=True)
class Chatty(Local):
    """Tells something beside its update."""

    info = frozenset({"facts", "histogram"})


def test_the_facts_refuse_by_default() -> None:
    for guard in (CENTRAL, LOCAL, MASKS):
        assert "select" in places(quadratics(**guard | {"select": Curious()}))
    for guard in (LOCAL, MASKS):
        assert "client" in places(quadratics(**guard | {"client": Chatty()}))
    auction = ProportionalShare()  # a drawn cost says nothing of rows
    assert check(quadratics(**MASKS | {"select": auction})) == []
    assert "select" in places(quadratics(**CENTRAL | {"select": auction}))  # nobody can account it


# ---- dp-eager-quorum ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class FirstTwo(Pace):
    """Closes on the second arrival, and says that it may."""

    partial = True

    def enough(self, arrived: int, planned: int, waited_s: float) -> bool:
        return arrived >= 2


@pytest.mark.parametrize(
    "pace",
    [
        Quorum(0.5, eager=True),
        Quorum(0.5, late="keep"),
        Quorum(0.5, eager=True, deadline_s=3.0, speed=Speed(1.0)),
        Buffered(2, 4),
        FirstTwo(),
    ],
    ids=repr,
)
def test_rounds_in_which_a_party_may_push_another_out_are_refused(pace: Pace) -> None:
    found = [p for p in check(quadratics(**CENTRAL | {"pace": pace})) if p.where == "pace"]
    assert found and "2 clip_norm" in found[0].why


@pytest.mark.parametrize(
    "pace",
    [Quorum(0.5), Quorum(0.5, deadline_s=3.0, speed=Speed(1.0)), AllArrive(dropout=0.2), AllArrive()],
    ids=repr,
)
def test_a_deadline_and_own_drop_outs_are_fine_with_a_public_divisor_alone(pace: Any) -> None:
    assert check(quadratics(**CENTRAL | {"pace": pace})) == []
    by_count = quadratics(**CENTRAL | {"pace": pace, "aggregate": EQUAL})
    assert (places(by_count) == {"aggregate.denominator"}) == pace.loses


# ---- dp-mean-by-count --------------------------------------------------------------------------------------
def adding(**more: Any) -> dict[str, Any]:
    return {"uplink": ClipNoise(relation="add-or-remove"), "aggregate": PUBLIC} | more


def test_a_divisor_that_counts_parties_hides_no_partys_presence() -> None:
    assert check(quadratics(**adding())) == []
    refused = check(quadratics(**adding(aggregate=EQUAL)))
    assert [p.where for p in refused] == ["aggregate.denominator"] and "took part" in refused[0].why
    assert "relation=zero-out" in refused[0].fix
    for relation in ("zero-out", "replace-one"):  # who takes part is public there
        assert check(quadratics(uplink=ClipNoise(relation=relation), aggregate=EQUAL)) == []


@pytest.mark.parametrize("relation", ["zero-out", "replace-one", "add-or-remove"])
@pytest.mark.parametrize(
    "slots,where",
    [
        ({"aggregate": Mean()}, "aggregate"),  # rows as weights, without a cap
        ({"aggregate": Mean(cap=4.0)}, "aggregate.denominator"),  # capped, divided by the weights' sum
        ({"aggregate": EQUAL, "select": Poisson(0.5)}, "aggregate.denominator"),
        ({"aggregate": EQUAL, "select": HeteroFL()}, "aggregate.denominator"),
        ({"aggregate": EQUAL, "select": HeteroFL(inner=Poisson(0.5))}, "aggregate.denominator"),
        ({"aggregate": EQUAL, "pace": AllArrive(drop={"party-1": "upload"})}, "aggregate.denominator"),
    ],
)
def test_divisors_and_weights_that_are_data_are_refused(
    slots: dict[str, Any], where: str, relation: str
) -> None:
    assert where in places(quadratics(**{"uplink": ClipNoise(relation=relation)} | slots))


def test_capped_rows_with_a_public_divisor_bound_what_a_party_moves() -> None:
    aggregate = Mean(cap=10.0, denominator=5.0)
    assert check(quadratics(**CENTRAL | {"aggregate": aggregate})) == []
    from fedfm.core.message import Message

    lifts = [aggregate.lift(Message(torch.ones(2), mass=float(n)), Ctx(0)).alpha for n in (0, 5, 10, 10_000)]
    assert lifts == [0.0, 0.5, 1.0, 1.0] and aggregate.alpha_max == 1.0
    assert check(quadratics(**CENTRAL | {"select": HeteroFL()})) == []  # planned coverage, public divisor


@dataclass(frozen=True)
class Undeclared(Aggregator):
    shares = True
    plain = True


@dataclass(frozen=True)
class Fixed(Selector):
    """Always the first two, and does not say how it draws."""

    def select(
        self, pool: Mapping[str, int], state: State, ctx: Ctx, answers: Mapping[str, Any]
    ) -> tuple[Plan, State]:
        plan, state = super().select(pool, state, ctx, answers)
        return Plan(plan.jobs[:2], sampling={"kind": "fixed"}), state


def test_undeclared_aggregators_and_selectors_are_refused_under_central_noise_alone() -> None:
    assert {"aggregate", "aggregate.denominator"} <= places(
        quadratics(**CENTRAL | {"aggregate": Undeclared()})
    )
    assert "select" in places(quadratics(**CENTRAL | {"select": Fixed()}))
    assert "select" not in places(quadratics(**LOCAL | {"select": Fixed()}))  # the server sees it anyway


# ---- dp-labels-and-scores ----------------------------------------------------------------------------------
def files(task: Any, uplink: Wire, **data: Any) -> Federation:
    return Federation(task, Files("clinics/*.jsonl", **data), uplink=uplink, aggregate=PUBLIC)


CLASSES = SequenceClassification(model="minilm")


@pytest.mark.parametrize("uplink", [ClipNoise(), LocalGaussian(), SecAgg()], ids=repr)
def test_class_names_of_the_rows_are_refused_and_those_of_the_config_are_not(uplink: Wire) -> None:
    held: dict[str, Any] = {"test_path": "held-out.jsonl"}
    found = [p for p in check(files(CLASSES, uplink, **held)) if p.where == "data"]
    assert len(found) == 1 and "schema" in found[0].what and "data.labels" in found[0].fix
    assert check(files(CLASSES, uplink, **held, labels=("flu", "gout"))) == []
    assert (
        check(files(CausalLM(model="smollm2"), uplink, **held)) == []
    )  # a language model has no class names


def test_test_rows_of_the_parties_are_the_servers_only_while_it_is_trusted() -> None:
    labels: dict[str, Any] = {"labels": ("flu", "gout")}
    assert check(files(CLASSES, ClipNoise(), **labels)) == []
    assert "test" in exposure(files(CLASSES, ClipNoise(), **labels))
    for uplink in (LocalGaussian(), SecAgg(), Pipe(ClipNoise(), SecAgg())):
        found = [p for p in check(files(CLASSES, uplink, **labels)) if p.where == "data"]
        assert len(found) == 1 and "test_path" in found[0].fix
        assert check(files(CLASSES, uplink, **labels, test_path="held-out.jsonl")) == []


# ---- dp-switched-off-silently ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "stage", [ClipNoise(noise_multiplier=0.0), LocalGaussian(noise_multiplier=0.0)], ids=repr
)
def test_noise_that_is_switched_off_is_refused_unless_said(stage: Any) -> None:
    found = [
        p for p in check(quadratics(uplink=stage, aggregate=PUBLIC)) if p.where == "uplink.0.noise_multiplier"
    ]
    assert len(found) == 1 and "switched off" in found[0].what and "no_guarantee" in found[0].fix
    said = type(stage)(noise_multiplier=0.0, no_guarantee=True)
    assert check(quadratics(uplink=said, aggregate=EQUAL)) == [] and observers(quadratics(uplink=said)) == ()


@pytest.mark.parametrize("make", [ClipNoise, LocalGaussian])
def test_a_plan_without_a_meaningful_epsilon_is_refused_before_it_runs(make: Any) -> None:
    rows = dict.fromkeys(("a", "b", "c", "d", "e"), 4)
    fed = quadratics(uplink=make(noise_multiplier=0.05), aggregate=PUBLIC, rounds=10)
    assert "would spend epsilon" in affordable(fed, rows)[0].what
    assert affordable(quadratics(uplink=make(epsilon=8.0), aggregate=PUBLIC, rounds=10), rows) == []
    quiet = quadratics(uplink=make(noise_multiplier=0.05, no_guarantee=True), aggregate=PUBLIC, rounds=10)
    assert affordable(quiet, rows) == []
    odd = quadratics(uplink=ClipNoise(), aggregate=PUBLIC, select=Fixed())
    assert "no amplification" in affordable(odd, rows)[0].why


# ---- what the plan decides ---------------------------------------------------------------------------------
def test_an_epsilon_becomes_noise_for_the_rounds_and_the_draw_of_the_plan() -> None:
    fed = quadratics(uplink=Pipe(RandK(0.5), ClipNoise(epsilon=3.0), SecAgg()), aggregate=PUBLIC, rounds=20)
    noise = planned(fed, 5).uplink.stages[1]  # type: ignore[attr-defined]
    assert noise.epsilon is None and noise.noise_multiplier == pytest.approx(6.2189, rel=3e-4)
    assert planned(quadratics(), 5) == quadratics()
    few = planned(
        quadratics(uplink=ClipNoise(epsilon=3.0), aggregate=PUBLIC, select=Poisson(0.1), rounds=20), 50
    )
    assert few.uplink.noise_multiplier < noise.noise_multiplier / 3  # type: ignore[attr-defined]
    assert (
        schedule(quadratics(select=Uniform(count=2), rounds=3), 7)
        == ({"kind": "uniform", "count": 2, "of": 7},) * 3
    )


# ---- secagg-range-drops-a-party ----------------------------------------------------------------------------
@pytest.mark.parametrize("most,bound", [(46, 64), (65, 128), (10**6, 2**20)])
def test_a_party_whose_weight_does_not_fit_is_found_before_the_first_round(most: int, bound: int) -> None:
    rows = {"a": 3, "b": 7, "c": most}
    fed = quadratics(uplink=SecAgg(range_bound=45.0))
    (found,) = affordable(fed, rows)
    assert "weight of c" in found.what and f"range_bound={bound}" in found.fix
    bits = int(found.fix.rpartition("bits=")[2])
    mended = quadratics(uplink=SecAgg(range_bound=float(bound), bits=bits))
    assert affordable(mended, rows) == []
    assert affordable(quadratics(uplink=SecAgg(range_bound=45.0), aggregate=EQUAL), rows) == []


def test_a_cohort_that_could_overflow_is_found_before_the_first_round() -> None:
    rows = {f"party-{i}": 3 for i in range(4)}
    (found,) = affordable(quadratics(uplink=SecAgg(bits=60, range_bound=2.0), aggregate=EQUAL), rows)
    bits = int(found.fix.rpartition("bits=")[2])
    assert affordable(quadratics(uplink=SecAgg(bits=bits, range_bound=2.0), aggregate=EQUAL), rows) == []


@dataclass(frozen=True)
class Norms(Wire):
    """A code that sends a norm: neither linear nor said to be harmless."""

    scales: dict[str, float] = field(default_factory=dict)

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        return x / x.norm(), {"norm": x.norm().reshape(1)}, state


def test_a_strangers_code_in_front_of_noise_or_masks_is_refused() -> None:
    assert "uplink.0" in places(quadratics(**LOCAL | {"uplink": Pipe(Norms(), LocalGaussian())}))
    assert "uplink.0" in places(quadratics(**MASKS | {"uplink": Pipe(Norms(), SecAgg())}))


# ---- dp-no-target and dp-whom-it-protects ------------------------------------------------------------------
def test_check_tells_the_epsilon_of_the_plan_and_whom_it_protects() -> None:
    fed = quadratics(uplink=ClipNoise(epsilon=8.0, delta=1e-6), aggregate=PUBLIC, rounds=50)
    told = promise(fed, 5)
    for word in (
        "50 rounds would spend epsilon 8.00",
        "delta 1e-06",
        "whole party",
        "gets the model",
        "zero-out",
    ):
        assert word in told
    assert "predictable" not in told  # of the plan: what secret noise would give
    assert "stops before epsilon 3" in promise(
        quadratics(uplink=ClipNoise(budget=3.0), aggregate=PUBLIC, rounds=50), 5
    )
    whom = {
        s.relation: promise(quadratics(uplink=s, aggregate=PUBLIC), 5) for s in (ClipNoise(), LocalGaussian())
    }
    assert "server is trusted" in whom["zero-out"] and "against the server" in whom["replace-one"]
    assert promise(quadratics(), 5) == promise(quadratics(uplink=SecAgg()), 5) == ""
    assert promise(quadratics(uplink=ClipNoise(budget=3.0), aggregate=PUBLIC, rounds=0), 5) == ""


@pytest.mark.parametrize(
    "settings,noise,epsilon,delta",
    [
        (["uplink.epsilon=4"], None, 4, 1e-5),
        (["uplink.delta=1e-7"], None, 8.0, 1e-7),
        (["uplink.noise_multiplier=2"], 2, None, 1e-5),  # whoever sets one way unsets the other
    ],
)
def test_epsilon_and_delta_are_settings(
    settings: list[str], noise: float | None, epsilon: float | None, delta: float
) -> None:
    uplink = configure("dp-fedavg", settings).config["uplink"]
    assert (uplink["noise_multiplier"], uplink["epsilon"], uplink["delta"]) == (noise, epsilon, delta)
