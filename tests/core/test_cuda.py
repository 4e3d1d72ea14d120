"""On a GPU every slot gives what the CPU gives, to rounding, and the same bits again; beside one, workers still work."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fedfm
from federations import FEDERATIONS, SECURE, digits
from fedfm.checks import place as places
from fedfm.checks.rules import check
from fedfm.core.errors import FedfmError, MachineFault, Problem
from fedfm.core.federation import Federation
from fedfm.data.arrays import Arrays
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.efficiency.training.local import Local
from fedfm.engines.processes import Processes
from fedfm.laws.compare import near
from fedfm.models import tiny
from fedfm.tasks.bound import BoundModule
from fedfm.tasks.probing import apart, open_task, probe
from fedfm.tasks.text.causal import CausalLM

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
ALL = {**FEDERATIONS, **SECURE}


class Other(Processes):
    """An engine of one's own, which forks as the one that it is made of."""


def test_auto_takes_a_gpu_only_where_the_engine_can_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert places.place(digits()) == "cuda"
    assert places.place(digits(engine=Processes(2))) == "cpu"
    assert places.place(digits(device="cpu")) == "cpu"
    for engine in (Processes(2), Other(2)):
        assert [p.where for p in check(digits(device="cuda", engine=engine))] == ["engine"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert places.place(digits()) == "cpu"


def test_a_step_without_a_deterministic_kernel_is_taken_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    fed, asked = digits(), list[bool]()
    parties = fed.data.open(0)
    bound = open_task(fed.task, parties)

    def step(*a: Any) -> list[Problem]:
        asked.append(torch.is_deterministic_algorithms_warn_only_enabled())
        if len(asked) == 1:
            raise RuntimeError("pool_backward does not have a deterministic implementation, but you set x.")
        return []

    def other() -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(type(fed.task), "probe", step)
    try:
        with pytest.warns(UserWarning, match="same bits again: pool_backward"):
            assert places.tried(lambda: probe(fed.task, bound, parties)) == []
        assert asked == [False, True]
        with pytest.raises(RuntimeError, match="out of memory"):
            places.tried(other)
    finally:
        torch.use_deterministic_algorithms(False)


def test_beside_a_gpu_workers_are_forked_from_a_process_that_took_no_gradient(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    me, gradient = os.getpid(), BoundModule.gradient

    def apart(*args: Any) -> float:
        if os.getpid() == me or torch.cuda.is_available():  # AdamW would start CUDA where there is one
            raise RuntimeError("a gradient is taken in the process that forks, or beside a GPU that is seen")
        return gradient(*args)

    monkeypatch.setattr(BoundModule, "gradient", apart)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    result = fedfm.run(digits(engine=Processes(2), rounds=1), out=tmp_path / "run")
    assert result.summary["device"] == "cpu" and result.summary["status"] == "finished"


def test_what_the_other_process_finds_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    fed = digits()
    parties = fed.data.open(0)
    bound = open_task(fed.task, parties)
    assert apart(lambda: probe(fed.task, bound, parties)) == []
    wrong = Problem("task", "what", "why", "fix")
    monkeypatch.setattr(type(fed.task), "probe", lambda *a: [wrong])
    assert apart(lambda: probe(fed.task, bound, parties)) == [wrong]
    for said, told in {
        "cannot handle autograd's threading in combination with fork": "gradients already",
        "pool has no deterministic implementation": "why: RuntimeError: pool",
    }.items():

        def fail(*a: Any, said: str = said) -> None:
            raise RuntimeError(said)

        monkeypatch.setattr(type(fed.task), "probe", fail)
        with pytest.raises(FedfmError, match=told):
            apart(lambda: probe(fed.task, bound, parties))
    monkeypatch.setattr(type(fed.task), "probe", lambda *a: os._exit(3))
    with pytest.raises(MachineFault, match="exit code 3"):
        apart(lambda: probe(fed.task, bound, parties))


@cuda
def test_a_network_without_deterministic_kernels_trains(tmp_path: Path) -> None:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(16, 10)
    )
    x, y = torch.randn(40, 1, 8, 8), torch.arange(40) % 10
    fed = Federation(fedfm.Torch(net), Arrays({"a": (x, y), "b": (x, y)}), rounds=1, device="cuda")
    with pytest.warns(UserWarning, match="same bits again: adaptive_avg_pool2d"):
        result = fedfm.run(fed, out=tmp_path / "run")
    assert result.summary["device"] == "cuda"


@cuda
@pytest.mark.parametrize("name", ALL)
def test_a_gpu_gives_what_the_cpu_gives(name: str, drive: Any) -> None:
    fed = digits(**ALL[name])
    cpu, one, two = drive(fed), drive(fed, device="cuda"), drive(fed, device="cuda")
    assert one.run.bound.device.type == "cuda"
    assert torch.equal(one.model, two.model) and one.digest == two.digest
    assert len(one.records) == len(cpu.records)
    assert near(one.model, cpu.model, 1e-4)


@cuda
@pytest.mark.parametrize("name", ["fedavg", "moments kept", "feedback, quantised", "split"])
def test_a_resumed_run_gives_the_same_bits(name: str, drive: Any, tmp_path: Path) -> None:
    fed = digits(**ALL[name], device="cuda")
    whole = drive(fed)
    drive(replace(fed, rounds=2), folder=tmp_path)
    resumed = drive(fed, folder=tmp_path, resume=True)
    assert torch.equal(whole.model, resumed.model)


@cuda
def test_a_language_model_learns_on_a_gpu(drive: Any, tmp_path: Path) -> None:
    fed = words(tiny("causal-lm", tmp_path / "model"))
    cpu, one, two = drive(fed), drive(fed, device="cuda"), drive(fed, device="cuda")
    assert near(one.model, cpu.model, 1e-4) and torch.equal(one.model, two.model)
    half = replace(fed, task=replace(fed.task, dtype="bfloat16", dropout=0.1))
    one, two = drive(half, device="cuda"), drive(half, device="cuda")
    assert torch.equal(one.model, two.model)


def words(model: Path) -> Federation:
    rows = [{"instruction": f"say {k}", "answer": str(k)} for k in range(16)]
    return Federation(
        CausalLM(model=str(model), tuning=LoRA(r=2), max_new_tokens=4),
        Arrays({"a": rows[:8], "b": rows[8:]}, rows[:4]),
        client=Local(optimizer="adamw", lr=1e-2, steps=3, batch=4),
        rounds=2,
    )
