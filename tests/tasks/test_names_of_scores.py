"""A score of one's own stands in the history under its own name, and under no other number's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fedfm
from fedfm.core.errors import ConfigError
from fedfm.tasks.own.measures import HEADS, TAKEN


def federation(*names: Any) -> fedfm.Federation:
    rng = np.random.default_rng(0)

    def rows(n: int) -> tuple[Any, Any]:
        x = rng.normal(size=(n, 4)).astype("float32")
        return x, (x[:, 0] > 0).astype("int64")

    def seven(m: Any, b: Any) -> torch.Tensor:
        return torch.full((len(b[1]),), 7.0)

    task = fedfm.Torch(lambda: nn.Linear(4, 2), scores=dict.fromkeys(names, seven), higher_is_better=True)
    return fedfm.Federation(task, fedfm.Arrays({"a": rows(20), "b": rows(20)}, test=rows(20)), rounds=1)


@pytest.mark.parametrize(
    "name", [*sorted(TAKEN), "", " ", "acc\n", "good/c0", "own/accuracy", "bytes/up", "/x", 3, None]
)
def test_a_name_that_is_another_number_s_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match=r"task.scores\[.*is no name of a score"):
        fedfm.probe(federation("good", name))


def test_every_column_of_a_history_is_taken(tmp_path: Path) -> None:
    run = fedfm.run(federation("good", "base", "a b", "own", "test/rmse"), out=tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    own = {k for line in lines for k, v in line.items() if not isinstance(v, dict)}
    assert {k for line in lines for k, v in line.items() if isinstance(v, dict)} - {"metrics"} <= HEADS
    assert own <= TAKEN and run.metric["federated"] == 7.0
    assert {"good", "base", "a b", "test/rmse", "loss"} <= set(run.history)
