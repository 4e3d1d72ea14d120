"""Channels beside the update: whatever leaves uncovered under a protection is refused, whoever sends it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch

from fedfm.checks.exposure import exposure, leaks
from fedfm.checks.rules import check
from fedfm.core.combine import Pipe
from fedfm.core.context import Ctx
from fedfm.core.errors import MethodFault
from fedfm.core.federation import Federation
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregate, Barrier, Detector, Reward, Say, Server, State, Wire
from fedfm.data.files import Files
from fedfm.efficiency.training.drift.feddyn import FedDyn, FedDynServer
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.efficiency.training.personal.by_client import ByClient
from fedfm.efficiency.training.personal.fedrep import FedRep
from fedfm.efficiency.training.servers import Apply
from fedfm.evaluation.by_party import ByParty
from fedfm.evaluation.held_out import HeldOut
from fedfm.laws.homes import pictures, play, quadratics
from fedfm.tasks.quadratic import Quadratic
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian
from fedfm.trust.privacy.secure.secagg import SecAgg

PUBLIC = Mean("equal", denominator=5.0)
CENTRAL: dict[str, Any] = {"uplink": ClipNoise(), "aggregate": PUBLIC}
LOCAL: dict[str, Any] = {"uplink": LocalGaussian(), "aggregate": PUBLIC}
MASKS: dict[str, Any] = {"uplink": SecAgg(), "aggregate": PUBLIC}
GUARDS = pytest.mark.parametrize("guard", [CENTRAL, LOCAL, MASKS], ids=["central", "local", "masks"])


def found(fed: Federation) -> dict[str, str]:
    return {p.where: p.what for p in check(fed)}


# ---- whoever asks ------------------------------------------------------------------------------------------
class Asking:
    """Brings an `answer`, and says nothing of it."""

    def answer(self, question: Message, data: Any, ctx: Ctx, bound: Any) -> Message:
        return Message(torch.tensor([float(len(data))]), "answer")


@dataclass(frozen=True)
class AskingServer(Asking, Apply):
    counts: ClassVar[bool] = False


@dataclass(frozen=True)
class AskingMean(Asking, Mean):
    pass


@dataclass(frozen=True)
class AskingDetector(Asking, Detector):
    pass


@dataclass(frozen=True)
class AskingReward(Asking, Reward):
    pass


@GUARDS
@pytest.mark.parametrize(
    "slot,method",
    [
        ("server", AskingServer()),
        ("aggregate", AskingMean("equal", denominator=5.0)),
        ("detect", AskingDetector()),
        ("reward", AskingReward()),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_every_slot_that_asks_parties_is_found_by_its_answer(
    guard: dict[str, Any], slot: str, method: Any
) -> None:
    told = found(quadratics(**guard | {slot: method}))
    assert f"answers/{slot}" in told[slot]
    assert not check(quadratics(**{slot: method})) or slot == "reward"
    assert not check(quadratics(**guard))


def test_a_coat_asks_when_what_it_covers_does() -> None:
    from fedfm.around import AroundAggregator

    @dataclass(frozen=True)
    class Coat(AroundAggregator):
        inner: Any = None

    assert "answers/aggregate" in exposure(quadratics(aggregate=Coat(AskingMean())))
    assert "answers/aggregate" not in exposure(quadratics(aggregate=Coat(Mean())))


# ---- own scores --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("guard", [LOCAL, MASKS], ids=["local", "masks"])
@pytest.mark.parametrize(
    "slots",
    [
        {"evaluate": ByParty(personal=True)},
        {"client": FedRep(local=Local(lr=0.05, steps=1, batch=2), head_steps=1)},
    ],
    ids=["evaluator", "server"],
)
def test_scores_of_own_models_are_told_in_clear(guard: dict[str, Any], slots: dict[str, Any]) -> None:
    fed = pictures(**guard | slots)
    assert "own scores" in leaks(fed) and "evaluate" in found(fed)
    assert "own scores" not in leaks(pictures(**CENTRAL | slots))  # the server is trusted, and keeps them


# ---- conversations -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class AgreesOnARange(Wire):
    """A code whose parties first tell the largest value that they have."""

    linear: ClassVar[bool] = True
    phases: ClassVar[Mapping[str, Barrier]] = {"range": "all"}

    def join(self, state: State, ctx: Ctx) -> Generator[Say, Message, State]:
        reply = yield Say("range", Message(torch.ones(1)))
        return state | {"range": reply.x}


@GUARDS
def test_a_stage_that_converses_beside_a_protection_is_refused(guard: dict[str, Any]) -> None:
    uplink = Pipe(AgreesOnARange(), guard["uplink"])
    told = found(quadratics(**guard | {"uplink": uplink}))
    assert "phase/0.range" in told["uplink.0"]
    assert not leaks(quadratics(uplink=AgreesOnARange()))


# ---- counts and weights ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class WeighsByLoss(Local):
    """Tells its loss as its weight."""

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Any) -> Any:
        m, state = super().work(brief, data, state, ctx, bound)
        return replace(m, mass=0.25), state


@dataclass(frozen=True)
class CallsItMasses(Local):
    """Takes a name that the session uses itself."""

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Any) -> Any:
        m, state = super().work(brief, data, state, ctx, bound)
        return replace(m, info={**m.info, "masses": len(data)}), state


def test_a_weight_that_is_no_row_count_does_not_leave_in_clear() -> None:
    rows = Local(lr=0.05, steps=1, batch=2)
    with pytest.raises(MethodFault, match="row counts alone are public"):
        play(quadratics(**LOCAL | {"client": WeighsByLoss(lr=0.05, steps=1, batch=2)}))
    for guard in (CENTRAL, MASKS, {}):  # trusted, hidden, not asked for
        assert not play(quadratics(**guard | {"client": WeighsByLoss(lr=0.05, steps=1, batch=2)})).failed
    assert not play(quadratics(**LOCAL | {"client": rows})).failed
    for guard in (CENTRAL, LOCAL, MASKS, {}):
        with pytest.raises(MethodFault, match="masses"):
            play(quadratics(**guard | {"client": CallsItMasses(lr=0.05, steps=1, batch=2)}))


def test_a_server_that_counts_is_refused_where_presence_is_hidden() -> None:
    dyn: dict[str, Any] = {"client": FedDyn(0.1, Local(lr=0.05, steps=1)), "server": FedDynServer(0.1)}
    hidden = CENTRAL | dyn | {"uplink": ClipNoise(relation="add-or-remove")}
    assert FedDynServer.counts and any("there or not" in p.why for p in check(quadratics(**hidden)))
    found = check(
        quadratics(**CENTRAL | dyn)
    )  # everybody knows who takes part; its sum wants a plain mean all the same
    assert {p.where for p in found} == {"aggregate"} and not any("there or not" in p.why for p in found)


@dataclass(frozen=True)
class Chatty(Local):
    info = frozenset({"loss"})


def test_one_talkative_client_among_many_is_found() -> None:
    mixed = ByClient({"party-0": Chatty(), "*": Local()})
    for guard in (LOCAL, MASKS):
        assert "info/loss" in found(quadratics(**guard | {"client": mixed}))["client"]
    assert not check(quadratics(**CENTRAL | {"client": mixed}))  # it stays with the server


# ---- rows that guide, who is there -------------------------------------------------------------------------
@dataclass(frozen=True)
class Guided(Server):
    """Steps by what it learns on its own rows."""

    counts: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"server rows"})

    def step(self, state: State, agg: Aggregate, ctx: Ctx) -> State:
        return state | {"w": state["w"] + agg.x + ctx.house.learn().x}


@GUARDS
def test_rows_of_the_parties_do_not_guide_a_protected_model(guard: dict[str, Any]) -> None:
    fed = Federation(Quadratic(dim=3), Files("clinics/*.jsonl", server_rows=5), server=Guided(), **guard)
    assert "server rows" in found(fed)["data"] or "server rows" in str(check(fed))
    own = replace(fed, data=Files("clinics/*.jsonl", server_rows=5, test_path="held-out.jsonl"))
    assert "server rows" not in exposure(own)


def test_roster_and_draw_are_private_where_they_carry_the_guarantee() -> None:
    from fedfm.incentives.selection.poisson import Poisson

    def sorts(**slots: Any) -> tuple[str, ...]:
        table = exposure(quadratics(**slots))
        return tuple(str(table[c]) for c in ("roster", "draw", "time"))

    assert sorts() == sorts(**CENTRAL) == ("public", "public", "public")
    assert sorts(**CENTRAL | {"select": Poisson(0.5)}) == ("public", "private", "public")
    assert sorts(**LOCAL | {"select": Poisson(0.5)}) == ("public", "public", "public")
    added = CENTRAL | {"uplink": ClipNoise(relation="add-or-remove")}
    assert sorts(**added) == ("private", "private", "public")
    apart = quadratics()
    object.__setattr__(apart, "simulated", False)
    assert str(exposure(apart)["time"]) == "private"


def test_a_fixed_share_of_all_tells_how_many_there_are() -> None:
    from fedfm.incentives.selection.uniform import Uniform

    added = CENTRAL | {"uplink": ClipNoise(relation="add-or-remove")}
    told = check(quadratics(**added | {"select": Uniform(count=2)}))
    assert [p.where for p in told] == ["select"] and "depend on that number" in told[0].why
    assert not check(quadratics(**CENTRAL | {"select": Uniform(count=2)}))  # the roster is public
    assert not check(quadratics(**added))


@GUARDS
def test_the_best_round_is_found_by_rows_of_nobody_and_ends_no_plan(guard: dict[str, Any]) -> None:
    fed = Federation(Quadratic(dim=3), Files("clinics/*.jsonl", server_rows=5), **guard)
    best = replace(fed, evaluate=HeldOut(keep_best=True))
    assert "server rows" in str(check(best))
    own = replace(
        best, data=Files("clinics/*.jsonl", server_rows=5, labels=("a", "b"), test_path="held-out.jsonl")
    )
    assert not check(own)
    ended = found(replace(own, evaluate=HeldOut(stop_after=2)))
    assert ("evaluate.stop_after" in ended) == ("epsilon" in vars(guard["uplink"]))
