"""Configs: what they say, what is refused with which words, and the federation that they stand for."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fedfm.cards.registry import find
from fedfm.config.building import from_config
from fedfm.config.compose import resolve
from fedfm.config.record import digest, to_config
from fedfm.config.text import override, parse
from fedfm.core.combine import ByPath, Pipe
from fedfm.core.errors import ConfigError
from fedfm.core.federation import Federation, replace
from fedfm.core.protocols import Reward
from fedfm.efficiency.communication.codec.qsgd import QSGD
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.communication.submodel.heterofl import HeteroFL
from fedfm.efficiency.training.fedprox import FedProx
from fedfm.efficiency.training.local import Local
from fedfm.engines.processes import Processes
from fedfm.incentives.auction.proportional_share import ProportionalShare
from fedfm.incentives.contribution.leave_one_out import LeaveOneOut
from fedfm.incentives.contribution.shapley_exact import ShapleyExact
from fedfm.incentives.contribution.shapley_permutation import ShapleyPermutation
from fedfm.incentives.reward.budget_split import BudgetSplit
from fedfm.incentives.selection.poisson import Poisson
from fedfm.incentives.selection.power_of_choice import PowerOfChoice
from fedfm.incentives.selection.uniform import Uniform
from fedfm.laws.homes import quadratics
from fedfm.pace import Quorum, Speed
from fedfm.tasks.quadratic import Quadratic, Quadratics
from fedfm.text import nearest


def plain(**slots: Any) -> dict[str, Any]:
    out: dict[str, Any] = to_config(quadratics(**slots))
    return out


def problems(c: dict[str, Any], *settings_: str) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as e:
        from_config(override(c, settings_))
    return [(p.where, f"{p.what}; {p.why}; {p.fix}") for p in e.value.problems]


def test_unknown_names_are_answered_with_the_nearest() -> None:
    assert nearest("topkk", ["topk", "randk"]) == "did you mean 'topk'?" and "known here: a, b" in nearest(
        "zzz", ["b", "a"]
    )
    ((where, text),) = problems(plain(), "clinet.lr=0.1")
    assert where == "clinet" and "did you mean 'client'" in text
    ((where, text),) = problems(plain(), "client.momentun=0.1")
    assert where == "client.momentun" and "did you mean 'momentum'" in text
    for key in ("learning_rate", "learningrate"):
        ((where, text),) = problems(plain(), f"client.{key}=0.1")
        assert where == f"client.{key}" and ("did you mean 'lr'" in text) == ("_" in key)
    ((where, text),) = problems({**plain(), "client": {"name": "lokal"}})
    assert where == "client" and "did you mean 'local'" in text
    ((where, text),) = problems({**plain(), "aggregate": {"name": "topk"}})
    assert where == "aggregate" and "cannot fill this slot" in text and "mean" in text
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        find("quikstart", "recipe")


def test_all_problems_come_at_once() -> None:
    c = plain(uplink=Pipe(TopK(0.5), QSGD()))
    c["client"] |= {"lr": -1, "steps": "many", "optimizer": "sdg", "lrr": 0.1}
    c["uplink"][0]["fraction"] = 7
    c["rounds"] = -1
    del c["task"]
    found = problems(c)
    assert sorted(w for w, _ in found) == [
        "client.lr",
        "client.lrr",
        "client.optimizer",
        "client.steps",
        "rounds",
        "task",
        "uplink.0.fraction",
    ]
    assert "0 problems" in str(ConfigError(()))


def test_ranges_types_and_choices() -> None:
    for setting, words in (
        ("client.lr=-0.1", "lowest allowed is 0"),
        ("client.momentum=1.5", "it must be below 1"),
        ("client.optimizer=sdg", "did you mean 'sgd'"),
        ("client.steps=1.5", "int is expected"),
        ("client.lr=fast", "float is expected"),
        ("fold=exact", "one of float, fixed"),
    ):
        ((where, text),) = problems(plain(), setting)
        assert where == setting.split("=")[0] and words in text, text
    assert from_config(override(plain(), ["client.lr=1"])).client.lr == 1.0  # type: ignore[attr-defined]


def test_what_a_spec_itself_refuses_is_a_problem_of_its_slot() -> None:
    ((where, text),) = problems({**plain(), "pace": {"name": "buffered", "size": 5, "concurrency": 2}})
    assert where == "pace" and "concurrency must be at least size" in text


def test_overrides_reach_into_slots_lists_and_mappings() -> None:
    c = plain(uplink=Pipe(TopK(0.5), QSGD()), pace=Quorum(drop={"party-0": ""}))
    c = override(
        c,
        [
            "uplink.0.fraction=0.25",
            "uplink.1.levels=7",
            "pace.drop.party-1=upload",
            "client=fedprox",
            "client.mu=0.5",
            "select={name: uniform, count: 2}",
        ],
    )
    fed = from_config(c)
    assert fed.uplink == Pipe(TopK(0.25), QSGD(levels=7)) and fed.pace == Quorum(
        drop={"party-0": "", "party-1": "upload"}
    )
    assert fed.client == FedProx(mu=0.5) and fed.select.count == 2  # type: ignore[attr-defined]
    for setting, words in (
        ("uplink.2.levels=1", "2 stages"),
        ("uplink.x.levels=1", "2 stages"),
        ("rounds", "slot.field=value"),
        ("rounds.deep=1", "has no keys"),
        ("client.lr=[", "no YAML value"),
    ):
        with pytest.raises(ConfigError, match="1 problem in") as e:
            override(plain(uplink=Pipe(TopK(), QSGD())), [setting])
        assert words in str(e.value), e.value


@pytest.mark.parametrize(
    ("setting", "says", "fix"),
    [
        ("uplink={name: topk, fraction", "expected ',' or '}', but got 'the end'", "} is missing at the end"),
        ("uplink=[{name: topk, fraction: 0.1", "column 28", "}] is missing at the end"),
        ("uplink={name: topk}}", "found '}'", "drop or correct"),
        ("uplink='topk", "end of stream", "end the quotation mark"),
        ("data.path=*.jsonl", "alias", "quote it: 'data.path=\"*.jsonl\"'"),
    ],
)
def test_what_is_no_yaml_is_told_in_a_line_with_a_fix_that_fits(setting: str, says: str, fix: str) -> None:
    with pytest.raises(ConfigError) as e:
        override(plain(), [setting])
    (problem,) = e.value.problems
    assert says in problem.why and fix in problem.fix and "\n" not in problem.why + problem.fix, problem
    with pytest.raises(ConfigError) as e:
        parse(f"recipe: x\n{setting.replace('=', ': ', 1)}", "x.yaml")
    assert "\n" not in e.value.problems[0].why and "line 2" in e.value.problems[0].why


def test_overrides_reach_into_what_was_left_to_its_default() -> None:
    fed = from_config(override(plain(), ["client=fedprox", "client.local.steps=2"]))
    assert fed.client == FedProx(local=Local(steps=2))


@pytest.mark.parametrize(
    ("slot", "value", "where"),
    [
        ("uplink", "topkk", "uplink"),
        ("uplink", 5, "uplink"),
        ("uplink", ["topk", 3], "uplink.1"),
        ("client", {"lr": 0.5}, "client"),
        ("aggregate", [{"name": "mean"}], "aggregate"),
        ("task", None, "task"),
        ("client", {"name": "local", "lr": None}, "client.lr"),
        ("client", {"name": "fedprox", "local": 5}, "client.local"),
        ("rounds", None, "rounds"),
        ("client", {"name": "fedprox", "local": {"name": "topk"}}, "client.local"),
        ("select", {"name": "heterofl", "inner": {"name": "topk"}}, "select.inner"),
    ],
    ids=str,
)
def test_what_is_no_method_cannot_fill_a_slot(slot: str, value: Any, where: str) -> None:
    assert [w for w, _ in problems({**plain(), slot: value})] == [where]


def test_names_alone_will_do_anywhere() -> None:
    c = {
        **plain(),
        "uplink": {"name": "by-path", "rules": {"a*": "topk", "*": ["topk", "qsgd"]}},
        "select": {"name": "heterofl", "inner": "uniform"},
    }
    fed = from_config(c)
    assert fed.uplink == ByPath({"a*": TopK(), "*": Pipe(TopK(), QSGD())}) and fed.select == HeteroFL(
        inner=Uniform()
    )


def test_equal_federations_are_equal_and_print_as_expressions() -> None:
    assert quadratics() == quadratics() and from_config(plain()) == quadratics()
    assert " object at " not in repr(quadratics())


def test_a_list_is_a_pipe_and_null_the_identity() -> None:
    c = plain()
    assert c["uplink"] is None
    c["uplink"] = ["topk", {"name": "qsgd", "levels": 3}]
    assert from_config(c).uplink == Pipe(TopK(), QSGD(levels=3))
    assert Pipe(TopK(), Pipe(QSGD(), Pipe())) == Pipe(TopK(), QSGD())
    c["uplink"] = {"name": "by-path", "rules": {"a*": "topk", "*": {"name": "qsgd"}}}
    c["uplink"]["rules"]["a*"] = {"name": "topk"}
    assert from_config(c).uplink == ByPath({"a*": TopK(), "*": QSGD()})


def test_a_recipe_with_nested_settings() -> None:
    base = resolve({"recipe": "quickstart"})
    c = resolve(
        {
            "recipe": "quickstart",
            "client": {"lr": 0.5},
            "task": {"tuning": {"r": 2}},
            "rounds": 3,
            "data.partition.parties": 4,
        }
    )
    assert c["client"] == base["client"] | {"lr": 0.5} and c["task"]["tuning"] == base["task"]["tuning"] | {
        "r": 2
    }
    assert (c["rounds"], c["data"]["partition"]["parties"], c["recipe"]) == (3, 4, "quickstart")
    other = resolve({"recipe": "quickstart", "client": {"name": "fedprox", "mu": 0.1}})
    assert other["client"] == {"name": "fedprox", "mu": 0.1}  # another method: nothing of the old one is left
    assert from_config(other).client == FedProx(mu=0.1)
    with pytest.raises(ConfigError):
        parse("a: [", "x.yaml")
    with pytest.raises(ConfigError, match="a config is a mapping"):
        parse("- a", "x.yaml")


def test_digest_is_of_what_determines_the_result() -> None:
    c = plain()
    assert digest(c) == digest({**c, "engine": {"name": "processes", "workers": 7}})
    assert digest(c) == digest(dict(reversed(list(c.items()))))
    for slot in ("seed", "threads", "fold", "rounds"):
        assert digest(c) != digest({**c, slot: "other"})


def test_digest_does_not_tell_2_from_2_0() -> None:
    one, two = (to_config(from_config(plain(pace=Quorum(deadline_s=d, speed=Speed(1.0))))) for d in (2, 2.0))
    assert digest(one) == digest(two)


def test_replace_fills_slots_and_leaves_the_original() -> None:
    fed = quadratics()
    other = replace(fed, engine=Processes(2), rounds=9)
    assert (fed.rounds, other.rounds) == (2, 9) and dataclasses.replace(
        other, rounds=2, engine=fed.engine
    ) is not fed
    with pytest.raises(TypeError):
        replace(fed, uplnk=TopK())


def test_specs_survive_a_config() -> None:
    auction = ProportionalShare(misreport={"party-0": 1.5})
    slots: list[tuple[Any, Any, Any]] = [
        (auction, ShapleyExact(), Reward()),
        (Uniform(count=2), ShapleyPermutation(), BudgetSplit()),
        (Poisson(), LeaveOneOut(), BudgetSplit()),
        (PowerOfChoice(), LeaveOneOut(), BudgetSplit()),
    ]
    for select, value, reward in slots:
        fed = Federation(Quadratic(), Quadratics(), select=select, value=value, reward=reward)
        again = from_config(to_config(fed))
        assert (again.select, again.value, again.reward) == (select, value, reward)
