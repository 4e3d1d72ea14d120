"""A first run, a probe, a failed run and a prediction leave the generators and the environment of their process alone."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import architectures as arch
import fedfm
from fedfm.lent import PARALLEL

FIRST = """
import random
random.seed(1)
before = random.getstate()
import fedfm
fedfm.run, fedfm.Local, fedfm.running, fedfm.patch
import sys
assert "rich.style" in sys.modules and before == random.getstate()
"""


def test_a_first_use_in_a_process_draws_nothing() -> None:
    subprocess.run([sys.executable, "-c", FIRST], check=True, timeout=120)


def _state() -> list[Any]:
    numpys = [np.asarray(v).tolist() for v in np.random.get_state()]
    return [random.getstate(), numpys, torch.get_rng_state().tolist(), os.environ.get(PARALLEL)]


def _config(tmp_path: Path) -> dict[str, Any]:
    for party in "ab":
        rows = [json.dumps({"text": f"word {i}", "label": "xy"[i % 2]}) for i in range(8)]
        (tmp_path / f"{party}.jsonl").write_text("\n".join(rows) + "\n")
    task = {"name": "sequence-classification", "model": arch.encoder(tmp_path / "base"), "max_tokens": 8}
    data = {"name": "files", "path": f"{tmp_path}/*.jsonl"}
    return {"task": task, "data": data, "client": {"name": "local", "steps": 1, "lr": 0.01}, "rounds": 1}


def _draws(_: Any) -> None:
    random.random(), np.random.rand(), torch.rand(1)
    os.environ[PARALLEL] = "false"
    raise KeyError("mine")


@pytest.mark.parametrize("parallel", [None, "true"])
def test_text_runs_probes_failures_and_predictions_give_it_back(
    parallel: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PARALLEL, raising=False)
    if parallel:
        monkeypatch.setenv(PARALLEL, parallel)
    config = _config(tmp_path)

    def failed() -> None:
        with pytest.raises(KeyError):
            fedfm.run(config, out=tmp_path / "failed", callbacks=[_draws])

    from fedfm.tasks import load_tuned

    works: list[Callable[[], Any]] = [
        lambda: fedfm.probe(config),
        lambda: fedfm.run(config, out=tmp_path / "run", engine="inprocess"),
        lambda: fedfm.resume(tmp_path / "run", rounds=2),
        failed,
        lambda: load_tuned(tmp_path / "run" / "model"),
        lambda: load_tuned(tmp_path / "run" / "model").predict(["word 1"]),
    ]
    for work in works:
        before = _state()
        work()
        assert _state() == before
