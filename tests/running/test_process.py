"""What a run borrows of its process comes back: torch's threads, number type, device, determinism, generators."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fedfm
from fedfm.core.errors import FedfmError
from fedfm.core.protocols import Bound
from fedfm.efficiency.training.local import Local
from fedfm.laws.homes import pictures, quadratics
from fedfm.running.audits import audit
from fedfm.running.process import borrowed


def state() -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "device": torch.empty(0).device,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn": torch.is_deterministic_algorithms_warn_only_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "benchmark": torch.backends.cudnn.benchmark,
        "grad": torch.is_grad_enabled(),
        "generator": torch.get_rng_state().tolist(),
    }


@pytest.fixture(autouse=True)
def callers() -> Iterator[dict[str, Any]]:
    """A process whose owner has settings of her own."""
    torch.set_num_threads(3)
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(11)
    torch.set_grad_enabled(False)
    yield state()
    torch.set_grad_enabled(True)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.benchmark = False


@dataclass(frozen=True)
class Rude(Local):
    """Changes whatever there is, and may fail."""

    fails: bool = False

    def work(self, brief: Any, data: Any, state: Any, ctx: Any, bound: Bound) -> Any:
        out = super().work(brief, data, state, ctx, bound)
        torch.set_num_threads(2)
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.benchmark = False
        torch.set_default_dtype(torch.float16)
        torch.manual_seed(1)
        if self.fails:
            raise ValueError("a bug")
        torch.set_default_dtype(torch.float32)
        return out


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_gives_everything_back(fails: bool, tmp_path: Path, callers: dict[str, Any]) -> None:
    fed = quadratics(client=Rude(lr=0.05, steps=1, fails=fails))
    if fails:
        with pytest.raises(FedfmError):
            fedfm.run(fed, out=tmp_path / "run", baselines="none")
    else:
        fedfm.run(fed, out=tmp_path / "run", baselines="none")
    assert state() == callers


def test_the_callers_settings_do_not_move_the_bits(tmp_path: Path) -> None:
    one = fedfm.run(quadratics(), out=tmp_path / "one").summary["model_digest"]
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    assert fedfm.run(quadratics(), out=tmp_path / "two").summary["model_digest"] == one


def test_an_audit_and_a_refusal_give_it_back(tmp_path: Path, callers: dict[str, Any]) -> None:
    fedfm.run(pictures(), out=tmp_path / "run")
    audit(tmp_path / "run", federation=pictures())
    assert state() == callers
    (tmp_path / "run" / "config.yaml").write_text("rounds: [")
    with pytest.raises(FedfmError):
        audit(tmp_path / "run")
    assert state() == callers


def test_a_default_device_is_set_aside() -> None:
    with torch.device("meta"):
        with borrowed(2):
            assert nn.Linear(2, 2).weight.device.type == "cpu" and torch.get_num_threads() == 2
            assert torch.zeros(1).dtype == torch.float32 and torch.is_grad_enabled()
        assert torch.zeros(1).device.type == "meta" and torch.get_num_threads() == 3
        assert not torch.is_grad_enabled()


def model(slots: dict[str, Any], out: Path) -> str:
    return str(fedfm.run(pictures(rounds=3, **slots), out=out).summary["model_digest"])


@pytest.mark.parametrize("slots", [{}, {"client": Local(lr=0.1, steps=3, batch=2)}], ids=["plain", "other"])
def test_runs_in_threads_are_the_runs_that_they_are_alone(slots: dict[str, Any], tmp_path: Path) -> None:
    """Torch's generators and settings are the process's: whoever comes second waits."""
    alone = model(slots, tmp_path / "alone")
    with warnings.catch_warnings(record=True) as told, ThreadPoolExecutor(4) as pool:
        warnings.simplefilter("always")
        found = list(pool.map(lambda k: model(slots, tmp_path / str(k)), range(4)))
    assert set(found) == {alone}
    assert any("another run is at work in this process" in str(w.message) for w in told)


def test_a_run_within_a_run_does_not_wait_for_it(tmp_path: Path) -> None:
    """A callback that starts another one."""
    inner: list[str] = []

    def then(record: dict[str, Any]) -> None:
        if record["round"] == 2:
            inner.append(model({}, tmp_path / "inner"))

    outer = fedfm.run(pictures(rounds=3), out=tmp_path / "outer", callbacks=then)
    assert inner == [outer.summary["model_digest"]] == [model({}, tmp_path / "again")]
