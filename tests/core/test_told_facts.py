"""What a party's own method says of its work is written down, replaces nothing, and ends no run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from federations import digits
from fedfm import run
from fedfm.core.context import Ctx
from fedfm.core.message import Message
from fedfm.core.protocols import Bound, State
from fedfm.efficiency.training.local import Local
from fedfm.ledger import file as ledger


@dataclass(frozen=True)
class Talkative(Local):
    """Says of its work whatever it was given to say."""

    says: Any = field(default_factory=dict)

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> tuple[Message, State]:
        m, state = super().work(brief, data, state, ctx, bound)
        return replace(m, info={"facts": self.says}), state


def uploads(says: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    done = run(replace(digits(), client=Talkative(lr=0.1, steps=2, batch=8, says=says), rounds=1), out=folder)
    assert done.status == "finished"
    return [e for e in ledger.read(folder / "events.jsonl") if e["kind"] == "upload"]


@pytest.mark.parametrize("loss", [float("nan"), None, "low", [1.0]])
def test_a_loss_that_is_no_number_is_none(loss: Any, tmp_path: Path) -> None:
    uploads({"loss_last": loss}, tmp_path / "run")
    assert [r["train_loss"] for r in ledger.read(tmp_path / "run" / "metrics.jsonl")][-1] is None


def test_nobody_says_what_the_ledger_knows(tmp_path: Path) -> None:
    for e in uploads({"norm": -5.0, "mass": 1e9, "version": 99, "mood": "good"}, tmp_path / "run"):
        assert e["norm"] > 0 and e["mass"] < 1e9 and e["version"] == 0 and e["mood"] == "good"
