"""What a guarantee says nothing of is said before it: what training began from, and numbers of own valuers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import architectures as arch
import fedfm
from fedfm.core.errors import MethodFault
from fedfm.core.protocols import Reward, Valuer
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.efficiency.training.mean import Mean
from fedfm.laws.homes import quadratics
from fedfm.running.feasible import caveats
from fedfm.tasks.text.causal import CausalLM
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise


def test_what_training_begins_from_is_under_no_guarantee_of_this_run(tmp_path: Path) -> None:
    task = CausalLM(model=arch.decoder(tmp_path / "base"), tuning=LoRA(r=2))
    noise: dict[str, Any] = {"uplink": ClipNoise(delta=1e-6), "aggregate": Mean("equal", denominator=5.0)}
    begun = quadratics(task=replace(task, start="plain/model"), **noise)
    assert any("what plain/model holds was learnt before it" in text for text in caveats(begun, 5))
    assert not caveats(quadratics(task=task, **noise), 5)
    assert not caveats(quadratics(task=begun.task), 5)


@dataclass(frozen=True)
class Values(Valuer):
    """Numbers of any sort, under any name."""

    sort: Any = float
    key: str = ""

    def value(self, ids: Any, state: Any, ctx: Any) -> Any:
        return {self.key or i: self.sort(1.0) for i in ids}, state


@dataclass(frozen=True)
class Pays(Reward):
    sort: Any = float

    def pay(self, plan: Any, ids: Any, values: Any, state: Any, ctx: Any) -> Any:
        return {i: self.sort(2.0) for i in ids}, state


@pytest.mark.parametrize("sort", [float, np.float32, torch.tensor, int])
def test_numbers_of_any_library_are_values_and_payments(sort: Any, tmp_path: Path) -> None:
    run = fedfm.run(quadratics(value=Values(sort), reward=Pays(sort), rounds=1), out=tmp_path / "run")
    assert run.status == "finished"


@pytest.mark.parametrize("given", [Values(key="stranger"), Values(str), Values(lambda v: v * float("nan"))])
def test_values_that_are_nobodys_or_no_numbers_are_the_method_s(given: Valuer, tmp_path: Path) -> None:
    if given.sort is str:
        given = Values(lambda v: "much")
    with pytest.raises(MethodFault, match="value"):
        fedfm.run(quadratics(value=given, rounds=1), out=tmp_path / "run")
