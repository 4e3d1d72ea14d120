"""A score of which nobody has said which way it is better: refused where something ranks by it, told where nothing does."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedfm.core.errors import ConfigError
from fedfm.core.federation import Federation
from fedfm.data.arrays import Arrays
from fedfm.direction import of_score, rises, unsaid, way
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.soup import GreedySoup
from fedfm.evaluation.held_out import HeldOut
from fedfm.incentives.contribution.datainf import DataInf
from fedfm.incentives.contribution.leave_one_out import LeaveOneOut
from fedfm.running.entry import probe, run
from fedfm.tasks.bound import Objective
from fedfm.tasks.own.module import Torch
from fedfm.tasks.text.preference import Pairwise, Preference

FALLS = (
    *(
        "cross_entropy",
        "crossEntropy",
        "bce",
        "nll",
        "perplexity",
        "eer",
        "fpr",
        "false_positive_rate",
        "fnr",
        "smape",
    ),
    *(
        "bits_per_byte",
        "bpb",
        "kl",
        "kl_divergence",
        "fid",
        "nrmse",
        "hamming",
        "misclassified",
        "wrong",
        "miss rate",
    ),
    *(
        "word error rate",
        "top5_error",
        "val-loss",
        "MAE",
        "negative_log_likelihood",
        "neg_accuracy",
        "log_loss",
        "ece",
    ),
)
RISES = (
    *(
        "accuracy",
        "val_acc",
        "f1",
        "macro-F1",
        "auc",
        "AUROC",
        "r2",
        "mAP",
        "mIoU",
        "top5_accuracy",
        "exact match",
        "recall@5",
    ),
    *(
        "log_likelihood",
        "neg_mean_squared_error",
        "minus loss",
        "true positive rate",
        "BLEU",
        "explained_variance",
    ),
)
UNSAID = ("lossless", "gap", "entropy", "surprise", "score", "latency", "odd", "accuracy at loss 1", "")


def points(seed: int, n: int = 60) -> tuple[Any, Any]:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return x.numpy(), (x[:, 0] > x[:, 1]).long().numpy()


def cross(module: nn.Module, batch: Any) -> Tensor:
    return functional.cross_entropy(module(batch[0]), batch[1], reduction="none")


def mean_error(module: nn.Module, batch: Any) -> Tensor:
    return cross(module, batch)


def federation(task: Torch, **slots: Any) -> Federation:
    data = Arrays({f"p{i}": points(i) for i in range(3)}, points(9, 100), server_rows=50)
    return Federation(task=task, data=data, client=Local(lr=0.1, steps=3, batch=16), **slots)


def own(name: str, **knobs: Any) -> Torch:
    return Torch(lambda: nn.Linear(4, 2), scores={name: lambda module, batch: cross(module, batch)}, **knobs)


def test_names_that_tell() -> None:
    assert {n: way(n) for n in (*FALLS, *RISES, *UNSAID)} == {
        **dict.fromkeys(FALLS, False),
        **dict.fromkeys(RISES, True),
        **dict.fromkeys(UNSAID),
    }
    assert rises("gap") and not rises("accuracy at loss 1")


@pytest.mark.parametrize(
    ("slots", "by"),
    [
        ({"evaluate": HeldOut(keep_best=True)}, "evaluate.keep_best"),
        ({"evaluate": HeldOut(stop_after=2)}, "evaluate.stop_after"),
        ({"value": LeaveOneOut()}, "leave-one-out"),
        ({"aggregate": GreedySoup()}, "greedy-soup"),
    ],
)
def test_nothing_ranks_by_a_score_without_a_direction(slots: dict[str, Any], by: str, tmp_path: Path) -> None:
    for call in (lambda f: run(f, rounds=2, out=tmp_path / "run"), probe):
        with pytest.raises(ConfigError) as e:
            call(federation(own("surprise"), **slots))
        (problem,) = e.value.problems
        assert problem.where == "task.higher_is_better" and by in problem.what
        assert "higher_is_better=False" in problem.fix
    assert not list(tmp_path.glob("run/checkpoints/*"))


def test_the_fix_is_one(tmp_path: Path) -> None:
    fed = federation(own("surprise", higher_is_better=False), evaluate=HeldOut(keep_best=True))
    found = run(fed, rounds=3, out=tmp_path / "run", engine="inprocess")
    assert found.metric["federated"] < found.metric["base"]


@pytest.mark.parametrize("name", ["cross_entropy", "eer", "bits_per_byte"])
def test_a_loss_by_another_name_ends_no_run_that_gains(name: str, tmp_path: Path) -> None:
    fed = federation(own(name), evaluate=HeldOut(stop_after=2))
    found = run(fed, rounds=5, out=tmp_path / "run", engine="inprocess")
    assert len(found.history[name]) == 6 and not found.summary["stopped"]


def test_where_nothing_ranks_it_is_told_which_way_is_taken() -> None:
    with pytest.warns(UserWarning, match="nobody has said which way 'surprise' is better; higher values"):
        probe(federation(own("surprise"), value=DataInf()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe(federation(own("surprise", higher_is_better=False)))
        probe(federation(own("eer")))


def test_a_function_names_its_score_too() -> None:
    assert of_score("mine", mean_error) is False and of_score("mine", functools.partial(mean_error)) is False
    assert of_score("accuracy", mean_error) is True and of_score("mine", lambda m, b: 0.0) is None
    task = Torch(lambda: nn.Linear(4, 2), scores={"mine": mean_error})
    probe(federation(task, evaluate=HeldOut(keep_best=True)))


def test_an_objective_of_ones_own_does_not_inherit_its_direction() -> None:
    class Silent(Objective):
        primary = "wer"

    class Odd(Objective):
        primary = "odd"

    class Said(Odd):
        higher_is_better = False

    class Renamed(Said):
        primary = "even"

    class Plain(Objective):
        primary = "f1"

    assert [unsaid(o()) for o in (Silent, Odd, Said, Renamed, Plain, Objective)] == [
        "wer",
        "odd",
        "",
        "even",
        "",
        "",
    ]


@pytest.mark.parametrize(("by", "up"), [("accuracy", True), ("loss", False)])
def test_answers_that_are_preferred_more_often_are_better(
    by: str, up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedfm.tasks.text.causal.Dialogue", lambda *given: None)
    found = Pairwise(Preference(score_by=by), None)
    assert found.higher_is_better is up and not unsaid(found)
