"""What is no object of its slot is refused by name, whatever it is; every other rule reads facts of such objects."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from federations import digits
from fedfm.checks.rules import check
from fedfm.config.configure import configure
from fedfm.core.errors import ConfigError
from fedfm.data.digits import Digits
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.servers import Apply
from fedfm.engines.inprocess import InProcess
from fedfm.trust.robustness.rule.krum import Krum

SLOTS = "select client downlink uplink talk aggregate server pace adversary detect evaluate value reward task"


@pytest.mark.parametrize("held", [None, "krum", {}, 3, int, [TopK(0.1)]])
@pytest.mark.parametrize("slot", SLOTS.split())
def test_every_slot_names_what_cannot_stand_in_it(slot: str, held: Any) -> None:
    [problem] = check(replace(digits(), **{slot: held}))
    assert problem.where == slot and slot in problem.fix + problem.where


def test_the_fix_is_what_is_to_be_written() -> None:
    def fix(**slots: Any) -> str:
        [problem] = check(replace(digits(), **slots))
        return problem.fix

    assert fix(server=None).startswith("leave server out")
    assert fix(uplink=[TopK(0.1)]) == "uplink=Pipe(first, second, ...)"
    assert fix(aggregate="krum") == fix(aggregate=Krum) == "make one: Krum(...)"
    assert fix(uplink="topk") == "make one: TopK(...)"
    assert "fedfm list --slot aggregate" in fix(aggregate=Apply())


def test_no_stages_are_no_stages() -> None:
    assert replace(digits(), stages=None).stages == ()  # type: ignore[arg-type]


@pytest.mark.parametrize("held", ["processes", None, Local(), InProcess, 3])
def test_an_engine_can_be_made(held: Any) -> None:
    [problem] = check(replace(digits(), engine=held))
    assert problem.where == "engine"
    assert held != "processes" or problem.fix == "make one: Processes(...)"


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("rounds", {"rounds": "3"}),
    ("rounds", {"rounds": 2.0}),
    ("rounds", {"rounds": True}),
    ("seed", {"seed": "a"}),
    ("threads", {"threads": "2"}),
    ("horizon", {"horizon": "4"}),
    ("device", {"device": 3}),
    ("client.steps", {"client": Local(steps="3")}),  # type: ignore[arg-type]
    ("client.lr", {"client": Local(lr="0.1")}),  # type: ignore[arg-type]
    ("data.train_rows", {"data": Digits(train_rows=3.0)}),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("where, slots", WRONG)
def test_a_value_of_another_type_is_refused_as_run_refuses_it(where: str, slots: dict[str, Any]) -> None:
    fed = replace(digits(), **slots)
    with pytest.raises(ConfigError) as e:
        configure(fed)
    assert tuple(check(fed)) == e.value.problems and check(fed)[0].where == where


def test_what_a_config_reads_as_a_number_is_one() -> None:
    assert check(replace(digits(), client=Local(lr=1))) == []
