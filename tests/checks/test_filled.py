"""What is no object of its slot is refused by name, whatever it is; every other rule reads facts of such objects."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from federations import digits
from fedfm.checks.rules import check
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.training.servers import Apply
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
