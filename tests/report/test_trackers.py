"""Trackers: what was logged is read back from the files; a missing library names its extra."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedfm.core.errors import ConfigError, MissingExtra, ResumeError
from fedfm.report import open_tracker, tensorboard
from recorded import edited


def test_tensorboard_events_read_back(tmp_path: Path, recorded: Callable[[str], Path]) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = open_tracker("tensorboard", tmp_path / "live", {"recipe": "fedit", "rounds": 2})
    tracker.log(1, {"accuracy": 0.5, "loss": float("nan")})
    tracker.log(2, {"accuracy": 0.75})
    tracker.close()
    found = EventAccumulator(str(tmp_path / "live" / "tensorboard"))
    found.Reload()
    assert [(e.step, e.value) for e in found.Scalars("accuracy")] == [(1, 0.5), (2, 0.75)]
    assert found.Tags()["scalars"] == ["accuracy"] and "config" in found.Tags()["tensors"]
    assert b"fedit" in found.Tensors("config")[0].tensor_proto.string_val[0]

    copied = EventAccumulator(str(tensorboard(edited(recorded("codes"), tmp_path / "done"))))
    copied.Reload()
    assert {"accuracy", "loss", "bytes/up", "seconds/train"} <= set(copied.Tags()["scalars"])
    assert [e.step for e in copied.Scalars("accuracy")] == list(range(9))
    with pytest.raises(ResumeError, match=r"metrics\.jsonl"):
        tensorboard(tmp_path)


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_tracker_names_its_extra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    for module in [m for m in sys.modules if m.startswith(f"{name}.")]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"fedfm\[{name}\]"):
        open_tracker(name, tmp_path, {})


def test_an_unknown_tracker_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'tensorboard'"):
        open_tracker("tensorbord", tmp_path, {})


def test_wandb_stays_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    run = types.SimpleNamespace(
        log=lambda row, step: calls.append((step, row)), finish=lambda: calls.append("end"), id="x7"
    )
    fake = types.ModuleType("wandb")
    fake.init = lambda **kw: calls.append(kw) or run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    tracker = open_tracker("wandb", tmp_path, {"a": {"b": [1, {"c": 2}]}})
    tracker.log(3, {"accuracy": 0.5, "bad": float("inf")})
    tracker.close()
    assert calls[0]["mode"] == "offline" and calls[0]["config"] == {"a.b.0": 1, "a.b.1.c": 2}
    assert calls[1:] == [(3, {"accuracy": 0.5}), "end"]
    open_tracker("wandb", tmp_path, {}).close()
    assert calls[0]["id"] is None and calls[3]["id"] == "x7", "a resumed run goes on where it was"
