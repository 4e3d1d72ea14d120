"""No silent precedence: alternatives, conditions, open ranges, and names that somebody bears."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from typer.testing import CliRunner

from fedfm.cards.registry import knob, method
from fedfm.checks.names import strange
from fedfm.cli import app
from fedfm.config.building import from_config
from fedfm.config.configure import configure
from fedfm.config.record import to_config
from fedfm.core.combine import ByPath
from fedfm.core.errors import ConfigError
from fedfm.core.federation import Federation, replace
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.efficiency.training.personal.by_client import ByClient
from fedfm.efficiency.training.scaffold import Scaffold, ScaffoldServer
from fedfm.incentives.auction.proportional_share import ProportionalShare
from fedfm.incentives.selection.uniform import Uniform
from fedfm.laws.homes import quadratics
from fedfm.pace import AllArrive, Link, Quorum, Speed
from fedfm.running.entry import run
from fedfm.running.feasible import feasible
from fedfm.trust.privacy.secure.secagg import SecAgg
from fedfm.trust.robustness.attack.label_flip import LabelFlip
from fedfm.trust.robustness.attack.sign_flip import SignFlip
from fedfm.trust.robustness.rule.trimmed_mean import TrimmedMean
from fedfm.vectors.layout import Layout


def refused(fed: Federation, *settings: str) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as e:
        configure(fed, settings)
    return [(p.where, str(p)) for p in e.value.problems]


# ---- alternatives ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cls", [Uniform, TopK, SignFlip, LabelFlip, TrimmedMean])
def test_of_two_alternatives_one_is_set(cls: Any) -> None:
    default = cls()
    assert default.fraction is not None and default.count is None
    by_count = cls(count=2)
    assert (
        by_count.count == 2
        and by_count.fraction is None
        and eval(repr(by_count), {cls.__name__: cls}) == by_count
    )
    with pytest.raises(ValueError, match="two ways to say one thing"):
        cls(fraction=0.25, count=2)
    with pytest.raises(ValueError, match="must be set"):
        cls(fraction=None)


def test_whoever_is_set_last_wins_and_it_is_said() -> None:
    fed = quadratics(uplink=TopK(0.5))
    made = configure(fed, ["uplink.count=2"])
    assert made.fed.uplink == TopK(count=2) and made.config["uplink"] == {
        "name": "topk",
        "fraction": None,
        "count": 2,
    }
    assert made.notes == ("uplink.fraction=0.5 gives way to uplink.count=2",)
    assert configure({**to_config(fed), "uplink.count": 2}).fed.uplink == TopK(count=2)
    assert configure(fed, ["uplink.count=2", "uplink.count=3"]).fed.uplink == TopK(count=3)
    assert configure(fed, ["uplink.count=2", "uplink.fraction=null"]).fed.uplink == TopK(count=2)
    assert configure(replace(fed, uplink=TopK(count=2)), ["uplink.fraction=0.5"]).fed.uplink == TopK(0.5)
    ((where, text),) = refused(fed, "uplink.count=2", "uplink.fraction=0.5")
    assert where == "uplink.fraction" and "uplink.count is set too" in text
    ((where, text),) = refused(fed, "select={name: uniform, count: 4, fraction: 0.1}")
    assert where == "select.fraction" and "set select.count or select.fraction to null" in text
    ((where, _),) = refused(fed, "select={name: uniform, count: null, fraction: null}")
    assert where == "select.count"


def test_a_nested_config_over_a_recipe_composes_too() -> None:
    @method("counted", slot="client")
    @dataclass(frozen=True)
    class Counted(Local):
        """Alternatives without a default: none need be set."""

        laps: int | None = knob(None, "one way", low=1, alternative="length")
        hours: float | None = knob(None, "the other", above=0.0, alternative="length")

    assert Counted() == Counted(laps=None, hours=None) and Counted(laps=2).hours is None
    fed = quadratics(client=Counted(laps=2))
    from fedfm.config.compose import Composition

    made = Composition({"client": to_config(fed.client)})
    made.lay({"client": {"hours": 1.5}})
    assert made.done()["client"]["laps"] is None and made.notes == [
        "client.laps=2 gives way to client.hours=1.5"
    ]
    assert from_config({**to_config(fed), **made.config}).client == Counted(hours=1.5)

    class Sub(Counted):
        """A subclass keeps the rule."""

    assert Sub(laps=3).hours is None
    with pytest.raises(ValueError):
        Sub(laps=3, hours=1.0)


def test_a_setting_that_is_given_twice_holds_as_it_stands_last_and_it_is_said() -> None:
    fed = quadratics()
    made = configure(fed, ["client.batch=8", "rounds=3", "client.batch=4"])
    assert made.fed.client.batch == 4 and made.notes == ("client.batch=8 gives way to client.batch=4",)  # type: ignore[attr-defined]
    assert configure(fed, ["client.batch=4", "client.batch=4"]).notes == ()
    assert configure(fed, ["rounds=3", "rounds=5", "rounds=4"]).notes == (
        "rounds=3 gives way to rounds=5",
        "rounds=5 gives way to rounds=4",
    )


def test_the_command_says_what_gave_way() -> None:
    said = CliRunner().invoke(
        app, ["check", "--no-model", "krum", "adversary.fraction=0.25", "aggregate.m=2"]
    )
    assert "adversary.count=2 gives way to adversary.fraction=0.25" in said.output


# ---- conditions -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("setting", "where"),
    [
        ("pace={name: quorum, deadline_s: 0.5}", "pace.deadline_s"),
        ("pace={name: synchronous, dropout_phase: ''}", "pace.dropout_phase"),
        ("pace={name: synchronous, speed: {name: lognormal, spread: 0.5}}", "pace.speed.spread"),
        ("pace={name: synchronous, speed: {name: lognormal, jitter: 0.5}}", "pace.speed.jitter"),
    ],
)
def test_a_setting_that_cannot_have_an_effect_is_refused(setting: str, where: str) -> None:
    ((at, text),) = refused(quadratics(), setting)
    assert at == where and "has no effect" in text


def test_the_same_for_an_object_and_not_where_it_acts() -> None:
    ((at, _),) = refused(quadratics(pace=Quorum(deadline_s=0.5)))
    assert at == "pace.deadline_s"
    assert configure(quadratics(pace=Quorum(deadline_s=0.5, speed=Speed(1.0, 0.5))))
    assert configure(quadratics(pace=AllArrive(dropout=0.5, dropout_phase="")))


# ---- names ----------------------------------------------------------------------------------------------------
PARTIES = {f"party-{i}": 4 for i in range(5)}


@pytest.mark.parametrize(
    ("slots", "where", "words"),
    [
        ({"pace": AllArrive(drop={"partyy-1": "upload"})}, "pace.drop.partyy-1", "did you mean 'party-1'"),
        ({"pace": AllArrive(drop={"party-1": "uplod"})}, "pace.drop.party-1", "did you mean 'upload'"),
        (
            {"pace": AllArrive(dropout=0.9, dropout_phase="uplod")},
            "pace.dropout_phase",
            "did you mean 'upload'",
        ),
        (
            {"select": ProportionalShare(misreport={"party": 2.0})},
            "select.misreport.party",
            "there is no party",
        ),
        ({"aggregate": Mean(factors={"ward-*": 2.0})}, "aggregate.factors.ward-*", "matches no party"),
        ({"pace": AllArrive(links={"party-7": Link()})}, "pace.links.party-7", "did you mean 'party-"),
        (
            {"client": ByClient({"hospital-*": Local(), "*": Local()})},
            "client.rules.hospital-*",
            "matches no party",
        ),
        (
            {"client": ByClient({"party-0": Local(), "party-1": Local()})},
            "client.rules",
            "no pattern matches party-2",
        ),
    ],
)
def test_names_that_nobody_bears_are_refused(slots: dict[str, Any], where: str, words: str) -> None:
    (problem,) = feasible(quadratics(**slots), PARTIES)
    assert problem.where == where and words in str(problem)


def test_names_that_are_borne_pass() -> None:
    for slots in (
        {"pace": AllArrive(drop={"party-1": "", "party-2": "upload"})},
        {"pace": AllArrive(dropout=0.1, dropout_phase="shares"), "uplink": SecAgg()},
        {"client": ByClient({"party-?": Local()})},
        {"aggregate": Mean(factors={"party-1": 2.0})},  # others have 1
        {"aggregate": Mean(factors={"party-[12]": 0.0})},
        {"pace": AllArrive(links={"party-1": Link(latency_s=1.0)})},  # others do not wait
        {"uplink": ByPath({"dc/*": TopK(), "*": TopK()})},
    ):
        assert [p for p in strange(quadratics(**slots), PARTIES) if "dropout_phase" not in p.where] == []
    phases = quadratics(uplink=SecAgg()).uplink.phases
    for phase in phases:
        assert not strange(
            quadratics(uplink=SecAgg(), pace=AllArrive(dropout=0.1, dropout_phase=phase)), PARTIES
        )
    layout, rules = Layout.of({"w": (2,), "b": (1,)}), {"dc/*": TopK(), "*": TopK()}
    (problem,) = strange(quadratics(uplink=ByPath(rules)), PARTIES, layout)
    assert problem.where == "uplink.rules.dc/*" and "matches no tensor" in problem.what
    variates = {
        "client": Scaffold(),
        "server": ScaffoldServer(),
    }  # these travel beside the update, and only up
    assert not strange(quadratics(**variates, uplink=ByPath(rules)), PARTIES, layout)
    (problem,) = strange(quadratics(**variates, downlink=ByPath(rules)), PARTIES, layout)
    assert problem.where == "downlink.rules.dc/*"
    with pytest.raises(ConfigError, match="'head.\\*' matches no tensor"):
        run(quadratics(uplink=ByPath({"head.*": TopK(), "*": TopK()})))


# ---- ranges ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Ranged(Local):
    """Every sort of range."""

    tau: float = knob(1.0, "a divisor", above=0.0)
    beta: float = knob(0.5, "a decay", low=0.0, below=1.0)
    free: float = knob(1.0, "without a range")
    most: float = knob(float("inf"), "no limit by default")
    whole: int = knob(1, "a number")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("tau", 0.0, "it must be above 0"),
        ("beta", 1.0, "it must be below 1"),
        ("beta", -0.1, "lowest allowed is 0"),
        ("tau", float("nan"), "nan is no number"),
        ("free", float("nan"), "nan is no number"),
        ("free", float("inf"), "it must be finite"),
        ("tau", float("inf"), "it must be finite"),
        ("whole", 10**300, "bits"),
    ],
)
def test_ranges_have_open_ends_and_hold_numbers_only(field: str, value: Any, words: str) -> None:
    ((where, text),) = refused(quadratics(client=Ranged(**{field: value})))
    assert where == f"client.{field}" and words in text


def test_infinity_is_allowed_where_it_is_the_default() -> None:
    assert configure(quadratics(client=Ranged(most=float("inf")))).fed.client == Ranged()


DEAD = [
    ({"client": ByClient({"*": Local(), "party-1": Local(lr=5.0)})}, "client.rules.party-1", "'*' stands"),
    (
        {"client": ByClient({"party-*": Local(), "party-1": Local(lr=5.0), "*": Local()})},
        "client.rules.party-1",
        "",
    ),
    ({"aggregate": Mean(factors={"*": 1.0, "party-1": 5.0})}, "aggregate.factors.party-1", "first pattern"),
    ({"pace": AllArrive(links={"*": Link(), "party-1": Link(latency_s=1.0)})}, "pace.links.party-1", ""),
    ({"uplink": ByPath({"*": TopK(), "l.0.*": TopK(0.5)})}, "uplink.rules.l.0.*", "'l.0.*': ..., '*': ..."),
    ({"downlink": ByPath({"l.*": TopK(), "l.0.*": TopK(0.5), "*": TopK()})}, "downlink.rules.l.0.*", "'l.*'"),
]


@pytest.mark.parametrize(("slots", "where", "words"), DEAD)
def test_a_rule_behind_one_that_takes_all_of_its_names_is_refused(
    slots: dict[str, Any], where: str, words: str
) -> None:
    (problem,) = feasible(quadratics(**slots), PARTIES)
    assert problem.where == where and words in str(problem) and "narrower one first" in problem.fix


def test_a_rule_whose_names_are_taken_by_several_is_refused() -> None:
    singly = {**{party: Local() for party in PARTIES}, "party-*": Local()}
    (problem,) = feasible(quadratics(client=ByClient(singly)), PARTIES)
    assert problem.where == "client.rules.party-*" and "drop it" in problem.fix
    layout = Layout.of({"w": (2,), "b": (1,)})
    (problem,) = strange(quadratics(uplink=ByPath({"w": TopK(), "b": TopK(), "?": TopK()})), PARTIES, layout)
    assert problem.where == "uplink.rules.?" and "drop it" in problem.fix
    for rules in (
        {"w": TopK(), "?": TopK()},
        {"w": TopK(), "b": TopK(), "*": TopK()},
    ):  # b is left; '*' may wait
        assert not strange(quadratics(uplink=ByPath(rules)), PARTIES, layout)


def test_a_setting_that_gives_way_to_an_option_is_told() -> None:
    made = configure(
        "quickstart", ["seed=7", "rounds=2", "engine=processes"], seed=5, rounds=2, engine="inprocess"
    )
    assert made.fed.seed == 5 and made.notes == (
        "seed=7 gives way to --seed 5",
        "engine=processes gives way to --engine inprocess",
    )
    assert configure("quickstart", {"seed": 7}, seed=5).notes == ("seed=7 gives way to --seed 5",)
