"""What a run will take is what it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conftest import Drive
from federations import EQUAL, digits
from fedfm.config.setup import Setup
from fedfm.efficiency.communication.submodel.heterofl import HeteroFL
from fedfm.efficiency.computation.split.splitfed import SplitFed, SplitFedServer
from fedfm.efficiency.training.local import Local
from fedfm.running.commands.estimate import estimate

SGD = Local(lr=0.1, steps=3, batch=4)
CASES: dict[str, dict[str, Any]] = {
    "fedavg": {"client": SGD},
    "split": {"client": SplitFed(SGD), "server": SplitFedServer(lr=0.1)},
    "widths": {"client": SGD, "select": HeteroFL(widths=(1.0, 0.5, 0.25)), "aggregate": EQUAL},
}


@pytest.mark.parametrize("name", CASES)
def test_bytes_are_those_of_a_run(name: str, drive: Drive, tmp_path: Path) -> None:
    fed = digits(rounds=1, **CASES[name])
    told = estimate(Setup(fed))
    played = drive(fed, workers=0)
    sent = {
        kind: sum(
            e["total"] for e in played.events if e["kind"] == "bytes" and e["direction"] in kind.split()
        )
        for kind in ("up", "down", "talk reply")
    }
    n = told["parties"]
    assert told["up_bytes"] * n == pytest.approx(sent["up"], rel=0.01)
    assert told["down_bytes"] * n == pytest.approx(sent["down"], rel=0.35 if name == "split" else 0.01)
    assert (told["talk_bytes"] > 0) == (name == "split")
    if name == "split":  # the server's answers stand among what goes down
        everything = sum(e["total"] for e in played.events if e["kind"] == "bytes")
        assert told["total_bytes"] == pytest.approx(everything, rel=0.1)
