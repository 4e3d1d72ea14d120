"""A run in which nothing moves ends well and says so: after its first round, and as a finding of its verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fedfm
from fedfm.core.federation import Federation
from fedfm.data.arrays import Arrays
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.efficiency.training.local import Local
from fedfm.engines.inprocess import InProcess
from fedfm.models import tiny
from fedfm.running.verdict import judge
from fedfm.tasks.quadratic import Quadratic, Quadratics
from fedfm.tasks.text.causal import CausalLM


def quadratics(**client: Any) -> Federation:
    data = Quadratics(a=(1.0, 2.0), b=(0.0, 1.0))
    return Federation(Quadratic(dim=3), data, client=Local(**client), rounds=2, engine=InProcess())


@pytest.mark.parametrize("still", [{"lr": 1e-30}, {"lr": 0.02, "clip_grad": 1e-30}], ids=str)
def test_a_rate_or_a_clip_below_the_last_digit(still: dict[str, Any], tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="after round 1 nothing has moved"):
        result = fedfm.run(quadratics(steps=2, batch=0, **still), out=tmp_path / "run")
    assert result.status == "finished with findings" and "nothing has moved" in result.reasons[0]


def test_a_run_that_moves_says_nothing_of_it(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    result = fedfm.run(quadratics(steps=2, batch=0, lr=1e-3), out=tmp_path / "run")
    assert result.status == "finished" and not [w for w in recwarn if "moved" in str(w.message)]


def test_an_adapter_whose_scale_is_lost_in_rounding(tmp_path: Path) -> None:
    rows = [{"instruction": f"say {i}", "answer": f"{i}"} for i in range(8)]
    task = CausalLM(model=str(tiny("causal-lm", tmp_path / "base")), tuning=LoRA(alpha=1e-30), max_tokens=48)
    fed = Federation(task, Arrays({"p": rows, "q": rows}), client=Local(lr=1e-3, steps=1, batch=4), rounds=1)
    with pytest.warns(UserWarning, match="nothing has moved"):
        result = fedfm.run(fed, out=tmp_path / "run", engine="inprocess")
    assert "nothing has moved" in result.reasons[0]


def test_what_is_perfect_from_the_start_and_a_run_without_rounds_are_no_finding() -> None:
    whole: dict[str, Any] = {"events": [], "rows": {}, "malicious": (), "primary": "loss"}
    assert judge(records=[{"round": r, "metrics": {"loss": 0.0}} for r in range(3)], **whole).reasons == ()
    assert judge(records=[{"round": 0, "metrics": {"loss": 1.0}}], **whole).reasons == ()
    assert judge(records=[{"round": r, "metrics": {"loss": 1.0}} for r in range(3)], **whole).reasons
