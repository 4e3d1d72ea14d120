"""Under a guarantee no sentence leads a person to write values of private rows into the config, and such settings are told."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import architectures as arch
import fedfm
from fedfm.checks.fitted import discreet, fitted
from fedfm.config import text
from fedfm.config.record import to_config
from fedfm.core.errors import Problem
from fedfm.core.federation import Federation
from fedfm.efficiency.training.mean import Mean
from fedfm.running.feasible import caveats
from fedfm.running.record.public import unseeded
from fedfm.tasks.text.regress import TextRegression
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise

NOISE: dict[str, Any] = {
    "uplink": ClipNoise(noise_multiplier=1.0, delta=1e-6),
    "aggregate": Mean("equal", denominator=3.0),
}
WEIGHT = torch.tensor([0.123, 0.877])


def _rows() -> dict[str, Any]:
    def party(k: int) -> list[dict[str, Any]]:
        return [{"text": f"word {k} {i}", "number": 4000.0 + 17 * i + k} for i in range(6)]

    return {f"p{k}": party(k) for k in range(3)}


def _regression(tmp_path: Path, **more: Any) -> Federation:
    task = TextRegression(model=arch.encoder(tmp_path / "base"), **more)
    data = fedfm.Arrays(_rows(), test=_rows()["p0"])
    return Federation(task=task, data=data, client=fedfm.Local(lr=0.01, steps=1), engine=fedfm.InProcess())


def test_private_numbers_are_in_no_sentence_and_in_no_fix_under_noise(tmp_path: Path) -> None:
    fed = _regression(tmp_path)
    with pytest.raises(fedfm.ConfigError, match=r"task\.center=4\.03e\+03 task\.spread="):
        fedfm.run(fed, out=tmp_path / "open")
    with pytest.raises(fedfm.ConfigError) as e:
        fedfm.run(replace(fed, **NOISE), out=tmp_path / "private")
    assert "agreed beforehand, from public rows" in str(e.value)
    assert "4.0" not in str(e.value) and "e+03" not in str(e.value) and "40" not in str(e.value)


def test_nor_where_a_task_of_several_moves_the_problem(tmp_path: Path) -> None:
    fed = _regression(tmp_path)
    opened = fed.task.open(None)
    found = fed.task.probe(opened, fed.data.read(0, fed.task.columns).train("p0"))
    moved = [replace(p, where="task.rules.small") for p in found]
    for known in (True, False):
        (said,) = discreet(fed if known else replace(fed, **NOISE), moved)
        assert said.where == "task.rules.small" and ("4.0" in said.fix) is known
        assert type(said) is Problem  # as it travels from a process of its own


def test_what_is_set_is_told_and_only_under_noise(tmp_path: Path) -> None:
    fed = _regression(tmp_path, center=3.0, spread=2.0)
    (word,) = caveats(replace(fed, **NOISE), 3)
    assert word.startswith("task.center=3 and task.spread=2: ") and "agree on them beforehand" in word
    assert not caveats(fed, 3)
    assert not caveats(replace(_regression(tmp_path), **NOISE), 3)
    staged = replace(_regression(tmp_path), stages=(replace(fed, **NOISE),))
    assert "stages.0.task.center=3" in fitted(staged)


def test_class_names_that_were_written_down_are_told_too(tmp_path: Path) -> None:
    named = fedfm.Arrays(_rows(), test=_rows()["p0"], labels=("a", "b"))
    (word,) = caveats(replace(_regression(tmp_path), data=named, **NOISE), 3)
    assert word.startswith("data.labels: ")


def _loss(weight: torch.Tensor) -> Any:
    def loss(module: nn.Module, batch: Any) -> torch.Tensor:
        return cross_entropy(module(batch[0]), batch[1], weight)

    return loss


@pytest.mark.parametrize(
    ("loss", "holds"),
    [
        (nn.CrossEntropyLoss(weight=WEIGHT), True),
        (functools.partial(cross_entropy, weight=WEIGHT), True),
        (_loss(WEIGHT), True),
        (nn.CrossEntropyLoss(), False),
        (cross_entropy, False),
        (None, False),
    ],
)
def test_weights_of_classes_in_a_loss_are_told_and_leave_no_print(loss: Any, holds: bool) -> None:
    fed = Federation(task=fedfm.Torch(nn.Linear(2, 2), loss=loss), data=fedfm.Arrays({}), **NOISE)
    assert fitted(fed) == ["task.loss"] * holds
    config = to_config(fed)
    assert not holds or "digest" in config["task"]["loss"]
    told = text.dump(unseeded(config))
    assert "digest" not in told and "0.123" not in told and "object" in told
