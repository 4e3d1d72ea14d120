"""A score that is no mean over rows is refused whatever few rows happen to be looked at; a mean never is."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn

import fedfm
from fedfm.core.errors import ConfigError

CUTS = (0.0, 1.5)  # as many of each class; one row in fifteen


def told(m: Any, b: Any) -> tuple[Any, Any]:
    return b[1].numpy(), m(b[0]).detach().numpy()


def of_classes(measure: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    def score(m: Any, b: Any) -> Any:
        true, out = told(m, b)
        return measure(true, out.argmax(1))

    return score


RATIOS: dict[str, Callable[[Any, Any], Any]] = {
    "auc": lambda m, b: metrics.roc_auc_score(told(m, b)[0], told(m, b)[1][:, 1]),
    "average precision": lambda m, b: metrics.average_precision_score(told(m, b)[0], told(m, b)[1][:, 1]),
    "f1": of_classes(metrics.f1_score),
    "macro f1": of_classes(lambda t, p: metrics.f1_score(t, p, average="macro")),
    "precision": of_classes(metrics.precision_score),
    "recall": of_classes(metrics.recall_score),
    "balanced": of_classes(metrics.balanced_accuracy_score),
    "matthews": of_classes(metrics.matthews_corrcoef),
}
MEANS: dict[str, Callable[[Any, Any], Any]] = {
    "accuracy": of_classes(metrics.accuracy_score),
    "hamming": of_classes(metrics.hamming_loss),
    "log loss": lambda m, b: metrics.log_loss(
        told(m, b)[0], m(b[0]).softmax(1).double().detach().numpy(), labels=[0, 1]
    ),
}


def asked(score: Callable[[Any, Any], Any], seed: int, cut: float) -> Any:
    rng = np.random.default_rng(seed)

    def rows(n: int) -> tuple[Any, Any]:
        x = rng.normal(size=(n, 4)).astype("float32")
        return x, (x[:, 0] > cut).astype("int64")

    task = fedfm.Torch(lambda: nn.Linear(4, 2), scores={"own": score}, higher_is_better=True)
    data = fedfm.Arrays({"a": rows(32), "b": rows(32)}, test=rows(60))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fedfm.probe(fedfm.Federation(task=task, data=data, client=fedfm.Local(steps=1, batch=8)))


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", RATIOS)
def test_a_ratio_of_counts_is_refused_with_any_rows(name: str, cut: float) -> None:
    for seed in range(6):
        with pytest.raises(ConfigError, match=r"task.scores\['own'\]: gives .*two pieces"):
            asked(RATIOS[name], seed, cut)


@pytest.mark.parametrize("name", MEANS)
def test_a_mean_is_refused_with_no_rows(name: str) -> None:
    for seed in range(6):
        for cut in CUTS:
            asked(MEANS[name], seed, cut)


def test_the_module_answers_for_itself_afterwards() -> None:
    net = nn.Linear(4, 2)
    net.forward = lambda x: nn.Linear.forward(net, x) + 1  # type: ignore[method-assign]
    before = net(torch.ones(1, 4))
    data = fedfm.Arrays({"a": (np.eye(4, dtype="float32").repeat(4, 0), np.arange(16) % 2)}, test=None)
    task = fedfm.Torch(lambda: net, scores={"own": MEANS["accuracy"]})
    bound = task.open(data.open(0))
    rows = bound.encode(data.open(0).train("a"))
    list(bound.objective.unfit(bound.module, rows, []))
    assert torch.equal(net(torch.ones(1, 4)), before)


@pytest.mark.parametrize("rows", [4, 20])
def test_outputs_of_one_column_beside_flat_targets_are_found_whatever_the_rows(rows: int) -> None:
    scores: dict[str, Callable[[Any, Any], Any]] = {
        "accuracy": lambda m, b: ((m(b[0]) > 0) == (b[1] > 0)).float().mean(),
        "mae": lambda m, b: (m(b[0]) - b[1]).abs().mean(),
        "within": lambda m, b: ((m(b[0]) - b[1]).abs() < 0.5).double().mean(),
    }

    def probed(score: Callable[[Any, Any], Any], seed: int) -> Any:
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(rows, 4)).astype("float32")
        data = fedfm.Arrays({"a": (x, x @ np.array([1, -2, 0.5, 3], "float32"))}, test_fraction=0.25)
        loss = lambda m, b: (m(b[0]).squeeze(1) - b[1]) ** 2  # noqa: E731
        task = fedfm.Torch(lambda: nn.Linear(4, 1), loss=loss, scores={"own": score}, higher_is_better=True)
        return fedfm.probe(fedfm.Federation(task=task, data=data, client=fedfm.Local(steps=1)))

    for seed in range(4):
        for score in scores.values():
            with pytest.raises(ConfigError, match=r"task.scores\['own'\]: gives "):
                probed(score, seed)
        probed(lambda m, b: ((m(b[0]).squeeze(1) > 0) == (b[1] > 0)).float().mean(), seed)


def test_targets_of_one_column_beside_classes_are_called_that() -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(40, 4)).astype("float32")
        data = fedfm.Arrays({"a": (x, (x[:, :1] > 0).astype("int64"))}, test_fraction=0.25)
        task = fedfm.Torch(
            lambda: nn.Linear(4, 2),
            loss=lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1].squeeze(1), reduction="none"),
            scores={"own": lambda m, b: (m(b[0]).argmax(1) == b[1]).float().mean()},
            higher_is_better=True,
        )
        with pytest.raises(ConfigError, match=r"(?s)beside targets \(4, 1\) are paired.*fix: y.squeeze\(1\)"):
            fedfm.probe(fedfm.Federation(task=task, data=data, client=fedfm.Local(steps=1)))
