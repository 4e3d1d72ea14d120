"""What a machine cannot give is refused by its name, before torch or the kernel are asked for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import fedfm
from fedfm.checks.place import place
from fedfm.cli import app
from fedfm.config.configure import configure
from fedfm.core.errors import ConfigError
from fedfm.laws.homes import quadratics
from fedfm.running.feasible import crowded


@pytest.mark.parametrize(
    "setting",
    [
        "threads=1000000",
        "threads=5000",
        "engine={name: processes, workers: 1000000}",
        "engine={name: ray, workers: 1000000}",
        "evaluate.parts=1000000",
    ],
)
def test_numbers_beyond_any_machine(setting: str) -> None:
    with pytest.raises(ConfigError, match="highest allowed is"):
        configure(quadratics(), [setting])


def test_the_same_of_an_object() -> None:
    (problem,) = fedfm.check(dataclasses.replace(quadratics(), threads=5000))
    assert problem.where == "threads" and "1024" in problem.fix
    assert not fedfm.check(dataclasses.replace(quadratics(), threads=1024))


@pytest.mark.parametrize("threads", [0, -1, 1025, 1_000_000])
def test_threads_of_a_party(threads: int, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["join", str(tmp_path / "party.json"), "--threads", str(threads)])
    assert isinstance(done.exception, ConfigError) and done.exception.problems[0].where == "--threads"


def test_more_threads_than_cores_is_told() -> None:
    assert not crowded(1) and "threads=1024 on" in crowded(1024)


@pytest.mark.parametrize(
    "device", ["tpu", "meta", "mps", "vulkan", "cuda:1", "cuda:x", "cpu:-1", "cpu:0", "", "CPU"]
)
def test_a_device_that_is_none(device: Any) -> None:
    fed = dataclasses.replace(quadratics(), device=device)
    (problem,) = fedfm.check(fed)
    assert problem.where == "device" and "auto, cpu, cuda" in problem.why and "CUDA device" in problem.why
    with pytest.raises(ConfigError, match="is no device"):  # where nobody has checked
        place(fed)
    with pytest.raises(ConfigError, match="is no device"):
        configure(quadratics(), {"device": device})


def test_devices_that_are_some() -> None:
    for device in ("auto", "cpu"):
        assert not fedfm.check(dataclasses.replace(quadratics(), device=device))


@pytest.mark.parametrize("engine", ["inprocess", "processes"])
def test_a_system_without_affinities_runs_all_the_same(
    engine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    told = fedfm.run(quadratics(rounds=1), out=tmp_path / "run", engine=engine, baselines="none")
    assert told.summary["rounds"] == 1
