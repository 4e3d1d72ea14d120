"""Pairs of bytes (uint8) are a module's own tensors, and pictures to a task that reads pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bring import PICTURE

import fedfm
from fedfm.core.errors import ConfigError
from fedfm.data.arrays import Arrays
from said import said

K = 12
X = np.random.default_rng(0).integers(0, 30, (48, 6, 6, 3), "uint8")  # (N, H, W, C)
Y = np.arange(48) % K
X[np.arange(48), Y // 6, Y % 6] = 250


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(108, K)

    def forward(self, x: Any) -> Any:
        assert x.dtype == torch.uint8 and x.shape[1:] == (6, 6, 3)
        return self.layer(x.float().flatten(1) / 255)


PAIRS: dict[str, Any] = {
    "numpy": lambda x, y: (x, y),
    "torch": lambda x, y: (torch.tensor(x), torch.tensor(y)),
    "pairs": lambda x, y: [(a, int(b)) for a, b in zip(x, y, strict=True)],
    "tensors": lambda x, y: list(zip(torch.tensor(x), torch.tensor(y), strict=True)),
    "columns": lambda x, y: {"x": x, "y": y},
}


@pytest.mark.parametrize("kind", PAIRS)
def test_bytes_and_class_numbers_reach_a_module_of_ones_own_as_they_are(kind: str) -> None:
    make = PAIRS[kind]
    data = Arrays({"a": make(X[:24], Y[:24]), "b": make(X[24:], Y[24:])}, test=make(X[:12], Y[:12]))
    opened = data.open(0, None)
    assert opened.columns == ("x", "y") and opened.labels is None
    assert [int(r["y"]) for r in opened.train("a").rows] == Y[:24].tolist()
    assert np.array_equal(np.stack([r["x"] for r in opened.train("b").rows]), X[24:])
    pictured = data.open(0, PICTURE)
    assert pictured.schema.shapes == {"image": (3, 6, 6)} and len(pictured.labels or ()) == K


def test_the_saved_module_knows_the_classes_by_the_numbers_that_were_given(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    for name, rows in (("numbers", (X, Y)), ("labels", {"x": X, "label": Y})):
        fed = fedfm.Federation(
            task=fedfm.Torch(Net),
            data=Arrays(rows, test=rows),
            client=fedfm.Local(lr=0.5, steps=60, batch=16),
            engine=fedfm.InProcess(),
        )
        run = fedfm.run(fed, rounds=2, out=tmp_path / name)
        net = Net()
        net.load_state_dict(load_file(tmp_path / name / "model" / "model.safetensors"))
        by_hand = float((net(torch.tensor(X)).argmax(1).numpy() == Y).mean())
        assert by_hand == pytest.approx(run.metric["federated"]) and by_hand > 0.9
    labels = json.loads((tmp_path / "labels" / "model" / "config.json").read_text())["labels"]
    assert labels == [str(i) for i in range(K)]


def test_targets_that_are_no_class_stay_numbers_and_text_is_a_class() -> None:
    floats = Arrays((X, Y / 7.0), test_fraction=0.0).open(0, None).pooled().rows
    assert floats[3]["y"].dtype == torch.float32 and float(floats[3]["y"]) == pytest.approx(3 / 7)
    named = Arrays((X, [f"class {v}" for v in Y]), test_fraction=0.0).open(0, None)
    assert named.columns == ("x", "label") and named.labels is not None and len(named.labels) == K


def test_bytes_at_one_party_and_floats_at_another() -> None:
    floats = (X.astype("float32") / 255, Y)
    data = Arrays({"a": (X, Y), "b": floats}, test_fraction=0.0)
    assert "'x' holds floats, that of train['a'] uint8" in said(lambda: data.open(0, None))
    pictured = data.open(0, PICTURE)
    assert torch.equal(pictured.train("a").rows[5]["image"], pictured.train("b").rows[5]["image"])


def test_classes_counted_from_1_are_told(tmp_path: Path) -> None:
    fed = fedfm.Federation(task=fedfm.Torch(Net), data=Arrays({"a": (X, Y + 1)}, test=(X, Y + 1)))
    with pytest.raises(ConfigError, match=r"no class of the module \(12\)[\s\S]*fix: y - 1"):
        fedfm.run(fed, rounds=1, out=tmp_path)
