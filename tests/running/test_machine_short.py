"""A machine that has no more memory, files or processes stops a run in words, and the run goes on when there are some."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fedfm
from fedfm.core.errors import MachineFault, MethodFault
from fedfm.core.loop import Run
from fedfm.engines.processes import ProcessEngine, Processes
from fedfm.files import short
from fedfm.laws.homes import quadratics
from fedfm.running import drive
from fedfm.running.verdict import INTERRUPTED, Result


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "no memory"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "no memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "/dev/shm"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "no memory"),
        (RuntimeError("unable to write to file in shared memory"), "/dev/shm"),
    ],
    ids=str,
)
def test_what_a_machine_lacks(error: Exception, said: str) -> None:
    assert said in str(short(error)) and "fix: " in str(short(error))


def test_other_errors_are_not_the_machine_s() -> None:
    for e in (
        ValueError("x"),
        FileNotFoundError(errno.ENOENT, "x"),
        RuntimeError("x"),
        MethodFault("x", "y"),
    ):
        assert short(e) is None


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, "Too many open files")], ids=str)
def test_a_server_without_memory_is_interrupted(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fedfm.run(quadratics(rounds=4), out=tmp_path / "whole")
    real, seen = Run.rounds, list[int]()

    def rounds(self: Run) -> Any:
        for line in real(self):
            yield line
            seen.append(1)
            if len(seen) == 3:
                raise error

    monkeypatch.setattr(Run, "rounds", rounds)
    with pytest.raises(MachineFault, match=r"(?s)(no memory|too many files).*fix: .*fedfm resume"):
        fedfm.run(quadratics(rounds=4), out=tmp_path / "run")
    assert Result.read(tmp_path / "run").status == INTERRUPTED
    monkeypatch.undo()
    again = fedfm.resume(tmp_path / "run")
    assert again.summary["model_digest"] == whole.summary["model_digest"]


def test_no_memory_while_it_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(drive, "open_task", full)
    with pytest.raises(MachineFault, match=r"(?s)no memory left.*start it again"):
        fedfm.run(quadratics(), out=tmp_path / "run")


def failing(after: int, error: OSError) -> Callable[..., Any]:
    real, calls = os.fork, []

    def fork() -> int:
        calls.append(1)
        if len(calls) > after:
            raise error
        return real()

    return fork


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM])
@pytest.mark.parametrize("after", [0, 2])
def test_workers_that_cannot_be_forked(
    number: int, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fork", failing(after, OSError(number, os.strerror(number))))
    with pytest.raises(MachineFault, match=f"{after} of 4 workers could be started"):
        fedfm.run(quadratics(), engine=Processes(workers=4), out=tmp_path / "run")
    assert not ProcessEngine(1)._pool


def test_a_limit_of_open_files(tmp_path: Path) -> None:
    code = (
        "import fedfm, resource\n"
        "from fedfm.laws.homes import quadratics\n"
        "from fedfm.engines.processes import Processes\n"
        f"fed, out = quadratics(), {str(tmp_path / 'run')!r}\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (24, {resource.getrlimit(resource.RLIMIT_NOFILE)[1]}))\n"
        "try:\n    fedfm.run(fed, engine=Processes(workers=30), out=out)\n"
        "except fedfm.FedfmError as e:\n    print(type(e).__name__, e)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "MachineFault" in done.stdout and "ulimit -n" in done.stdout, done.stdout + done.stderr
