"""A model that is a state dict says how to load it, and whoever asks it texts is shown the way there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fedfm
from fedfm.core.errors import ModelError
from fedfm.running.commands.tuned import export, predict
from fedfm.tasks import load_tuned


def points() -> Any:
    rng = np.random.default_rng(0)
    return rng.normal(size=(12, 4)).astype("float32"), np.array(["no", "yes"])[np.arange(12) % 2]


def pictures() -> Any:
    rng = np.random.default_rng(0)
    return [
        {"image": rng.integers(0, 256, (1, 8, 8), dtype=np.uint8), "label": "ab"[i % 2]} for i in range(12)
    ]


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 2))


def test_a_torch_module_is_loaded_as_its_readme_says(tmp_path: Path) -> None:
    rows = points()
    fed = fedfm.Federation(task=fedfm.Torch(net), data=fedfm.Arrays({"a": rows, "b": rows}, test=rows))
    run = fedfm.run(fed, rounds=1, out=tmp_path / "run")
    said = loaded(tmp_path / "run/model", made="net = make()", make=net, x=torch.as_tensor(rows[0]))
    told = (said["out"].argmax(1) == torch.arange(12) % 2).double().mean()
    assert run.metric["federated"] == pytest.approx(float(told)) and not said["net"].training
    assert "0. no\n1. yes\n" in (tmp_path / "run/model/README.md").read_text()
    for ask in (
        lambda: predict(tmp_path / "run", ["x"]),
        lambda: export(tmp_path / "run", None, merged=False),
        lambda: load_tuned(tmp_path / "run"),
        lambda: load_tuned(tmp_path / "run/model"),
    ):
        with pytest.raises(ModelError, match="fix: .*run/model/README.md shows how to load it"):
            ask()


def test_so_is_a_network_of_ours(tmp_path: Path) -> None:
    rows = pictures()
    task = fedfm.ImageClassification(channels=(4, 4))
    fed = fedfm.Federation(task=task, data=fedfm.Arrays({"a": rows, "b": rows}, test=rows))
    fedfm.run(fed, rounds=1, out=tmp_path / "run")
    seen = torch.stack([torch.as_tensor(r["image"]) for r in rows]).float()
    assert loaded(tmp_path / "run/model", pixels=seen)["out"].shape == (12, 2)
    with pytest.raises(ModelError, match="run/model/README.md"):
        predict(tmp_path / "run", ["x"])


def loaded(folder: Path, made: str = "", **given: Any) -> dict[str, Any]:
    """What the README's lines leave, with `made` in the place of what only the user knows."""
    code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[0]
    exec(re.sub(r"net = \.\.\..*", made, code).replace('"model.saf', f'"{folder}/model.saf'), given)
    return given
