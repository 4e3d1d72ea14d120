"""`data.test_group`: a score for each group of test rows, whatever the task, beside the score of all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fedfm


def _rows(n: int, shift: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(shift)
    return [{"x": draw.normal(size=4).tolist(), "y": k % 2, "site": "xy"[k // 2 % 2]} for k in range(n)]


def _pictures(n: int, shift: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(shift)
    return [
        {
            "image": draw.integers(0, 255, (8, 8), dtype=np.uint8),
            "label": "ab"[k % 2],
            "site": "xy"[k // 2 % 2],
        }
        for k in range(n)
    ]


def _mean(metrics: dict[str, float], name: str) -> float:
    """Of the groups, which are of one size here."""
    return (metrics[f"{name}/x"] + metrics[f"{name}/y"]) / 2


@pytest.mark.parametrize(
    "more, name",
    [({}, "accuracy"), ({"loss": lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1])}, "loss")],
    ids=["scores", "a loss alone"],
)
def test_own_modules(more: dict[str, Any], name: str, tmp_path: Path) -> None:
    data = fedfm.Arrays({p: _rows(24, k) for k, p in enumerate("pq")}, test=_rows(16, 7), test_group="site")
    task = fedfm.Torch(lambda: nn.Linear(4, 2), **more)
    fed = fedfm.Federation(task=task, data=data, rounds=2)
    found = fedfm.run(fed, out=tmp_path / "run", engine="inprocess", baselines="none").summary["metrics"]
    assert found[name] == pytest.approx(_mean(found, name), abs=1e-6)
    assert found[f"{name}/x"] != found[f"{name}/y"]


def test_own_scores_of_a_group_are_those_of_its_rows_alone(tmp_path: Path) -> None:
    rows = {p: _rows(24, k) for k, p in enumerate("pq")}

    def told(test: list[dict[str, Any]], folder: str) -> dict[str, float]:
        torch.manual_seed(0)
        task = fedfm.Torch(
            nn.Linear(4, 2), scores={"right": lambda m, b: (m(b[0]).argmax(1) == b[1]).float()}
        )
        data = fedfm.Arrays(rows, test=test, test_group="site")
        fed = fedfm.Federation(task=task, data=data, rounds=1)
        ran = fedfm.run(fed, out=tmp_path / folder, engine="inprocess", baselines="none")
        return dict(ran.summary["metrics"])

    test = _rows(16, 7)
    both = told(test, "both")
    torch.manual_seed(0)
    alone = told([r for r in test if r["site"] == "x"], "alone")
    assert both["right/x"] == alone["right"] == alone["right/x"]


def test_pictures_of_a_small_network(tmp_path: Path) -> None:
    data = fedfm.Arrays(
        {p: _pictures(24, k) for k, p in enumerate("pq")}, test=_pictures(16, 7), test_group="site"
    )
    what = {"task": {"name": "image-classification"}, "data": {"name": "digits"}}
    found = fedfm.run(what, data=data, rounds=1, out=tmp_path / "run", engine="inprocess").summary["metrics"]
    assert found["accuracy"] == pytest.approx(_mean(found, "accuracy"))
