"""Which way is better: an own score that tells of a loss or an error falls, in what is kept, worth, and worst."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedfm.core.federation import Federation
from fedfm.data.arrays import Arrays
from fedfm.direction import rises
from fedfm.efficiency.training.local import Local
from fedfm.evaluation.held_out import HeldOut
from fedfm.incentives.contribution.leave_one_out import LeaveOneOut
from fedfm.running.entry import run
from fedfm.tasks.own.module import Torch


def drawn(seed: int, n: int = 60) -> tuple[Any, Any]:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return x.numpy(), (x[:, 0] > x[:, 1]).long().numpy()


def wrong(module: nn.Module, batch: Any) -> Tensor:
    found: Tensor = (module(batch[0]).argmax(1) != batch[1]).float()
    return found


def right(module: nn.Module, batch: Any) -> Tensor:
    return 1 - wrong(module, batch)


def trained(folder: Path, task: Torch, **slots: Any) -> Any:
    data = Arrays({f"p{i}": drawn(i) for i in range(3)}, drawn(9, 200), server_rows=60)
    slots = {"evaluate": HeldOut(keep_best=True)} | slots
    fed = Federation(task=task, data=data, client=Local(lr=0.1, steps=10, batch=16), **slots)
    return run(fed, rounds=3, out=folder, engine="inprocess")


@pytest.mark.parametrize(
    "name", ["error", "val_loss", "valLoss", "MSE", "test/rmse", "label_errors", "negative_log_likelihood"]
)
def test_the_best_round_of_an_error_is_the_least(name: str, tmp_path: Path) -> None:
    found = trained(tmp_path / "run", Torch(lambda: nn.Linear(4, 2), scores={name: wrong}))
    assert not rises(name) and not found.metric["higher_is_better"]
    assert found.metric["federated"] < found.metric["base"]


@pytest.mark.parametrize("name", ["accuracy", "f1", "neg_mean_squared_error", "auc"])
def test_the_best_round_of_a_gain_is_the_most(name: str, tmp_path: Path) -> None:
    found = trained(tmp_path / "run", Torch(lambda: nn.Linear(4, 2), scores={name: right}))
    assert rises(name) and found.metric["higher_is_better"]
    assert found.metric["federated"] > found.metric["base"]


def test_what_is_said_counts_more_than_a_name(tmp_path: Path) -> None:
    task = Torch(lambda: nn.Linear(4, 2), scores={"share without an error": right}, higher_is_better=True)
    assert trained(tmp_path / "run", task).metric["higher_is_better"]


def test_contributions_to_an_error_are_what_they_are_to_its_complement(tmp_path: Path) -> None:
    values = []
    for name, score in (("error", wrong), ("accuracy", right)):
        task = Torch(lambda: nn.Linear(4, 2), scores={name: score})
        found = trained(tmp_path / name, task, value=LeaveOneOut(), evaluate=HeldOut())
        events = map(json.loads, (found.folder / "events.jsonl").read_text().splitlines())
        values.append([e["value"] for e in events if e["kind"] == "value"])
    assert values[0] == pytest.approx(values[1], abs=1e-6) and any(values[0])


def test_the_worst_party_of_an_error_has_the_most(tmp_path: Path) -> None:
    task = Torch(lambda: nn.Linear(4, 2), scores={"accuracy": right, "rmse": wrong})
    data = Arrays({f"p{i}": drawn(i) for i in range(3)})
    fed = Federation(
        task=task, data=data, client=Local(lr=0.1, steps=2, batch=16), evaluate=HeldOut(where="parties")
    )
    run(fed, rounds=1, out=tmp_path / "run", engine="inprocess")
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["metrics"]
    each = [v for n, v in last.items() if n.startswith("rmse/p")]
    assert last["parties/rmse/worst"] == max(each)
