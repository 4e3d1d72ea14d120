"""Class names that are agreed beforehand: that there are none is another word than none said; numbers are their text."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedfm
from fedfm.cards.registry import load
from fedfm.config.building import from_config
from fedfm.config.record import to_config
from fedfm.core.errors import DataError
from fedfm.data.files import Files
from fedfm.tasks.text.classify import SequenceClassification

X = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
Y = X.sum(1)
ALIKE: list[Any] = [[0, 1], ("0", "1"), np.array([0, 1]), [np.int64(0), 1]]


def fed(labels: Any, y: Any = Y, loss: Any = torch.nn.functional.mse_loss) -> fedfm.Federation:
    y = y[:, None] if y.dtype.kind == "f" else y
    data = fedfm.Arrays({"a": (X[:12], y[:12]), "b": (X[12:], y[12:])}, test=(X, y), labels=labels)
    task = fedfm.Torch(lambda: torch.nn.Linear(3, 2 if loss is None else 1), loss=loss)
    return fedfm.Federation(task=task, data=data, client=fedfm.Local(lr=0.1, steps=1), uplink=fedfm.SecAgg())


def test_that_there_are_no_names_can_be_agreed() -> None:
    (asked,) = fedfm.check(fed(()))
    assert "data.labels=null where there are none" in asked.fix
    assert fedfm.check(fed(None)) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fed(None).data.open(0).labels is None
    assert fedfm.check(fed(None, (Y > 0).astype(int), None)) == []  # numbers of classes have none either


def test_null_and_none_are_told_apart_in_a_config() -> None:
    specs = [Files("*.csv"), Files("*.csv", labels=None)]
    kept = [to_config(fedfm.replace(load("quickstart", "recipe")(), data=s)) for s in specs]
    assert [c["data"]["labels"] for c in kept] == [[], None]
    assert [getattr(from_config(c).data, "labels", 0) for c in kept] == [(), None]


def _declared() -> Any:
    return Files("nowhere/*.csv", labels=None).read(0, SequenceClassification.columns)


def _found() -> Any:
    return fed(None, np.where(Y > 0, "pos", "neg")).data.open(0)


@pytest.mark.parametrize("read", [_declared, _found])
def test_names_are_refused_where_it_was_agreed_that_there_are_none(read: Callable[[], Any]) -> None:
    with pytest.raises(
        DataError, match=r"data.labels=null says .* 'label' holds some(?s:.*)or data.labels=\[\]"
    ):
        read()


@pytest.mark.parametrize("labels", ALIKE)
def test_numbers_are_their_text(labels: Any, tmp_path: Path) -> None:
    given = fed(labels, (Y > 0).astype(int), None)
    assert given.data.labels == ("0", "1") == given.data.open(0).labels  # type: ignore[attr-defined]
    assert fedfm.check(given) == []
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"w{i},{i % 2}\n" for i in range(8)))
    read = Files(str(tmp_path / "*.csv"), labels=labels, test_fraction=0.0).read(
        0, SequenceClassification.columns
    )
    assert read.labels == ("0", "1") and len(read.train("a")) == 8


def test_truths_are_the_text_that_a_table_spells() -> None:
    given = Files("*.csv", labels=(True, False))
    assert given.labels == tuple(fed((), Y > 0).data.open(0).labels or ()) or given.labels == (
        "true",
        "false",
    )
    config = to_config(fedfm.replace(load("quickstart", "recipe")(), data=given))
    assert from_config({**config, "data": {**config["data"], "labels": [True, False]}}).data == given
