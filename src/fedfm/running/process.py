"""What a run borrows of its process: torch's settings and the global generators. They are given back, however it ends."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator

import torch

from fedfm.lent import given_back

_owner = threading.RLock()  # of torch's settings and global generators: one run at a time


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One run at a time in a process: another thread's waits until this one has ended, and says so."""
    if not _owner.acquire(blocking=False):
        warnings.warn(
            "another run is at work in this process and owns torch's generators and threads: this one waits for it "
            "(a process for each run lets them work side by side)",
            UserWarning,
            stacklevel=4,
        )
        _owner.acquire()
    try:
        yield
    finally:
        _owner.release()


@contextlib.contextmanager
def borrowed(threads: int | None = None) -> Iterator[None]:
    """Torch as a fresh process has it (number type, device, gradients on), with so many threads; then as it was.

    Threads of one process share it, so a second run waits (`alone`). Also given back are what libraries and code of the
    user's own may change on the way: determinism, precision of products, the global generators (Python's and numpy's
    too). The run's own bits depend on none of the caller's settings but determinism and precision.
    """
    with alone():
        yield from _borrowed(threads)


def _borrowed(threads: int | None) -> Iterator[None]:
    before, dtype, device = torch.get_num_threads(), torch.get_default_dtype(), _device()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    precision = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    flags = {name: getattr(cudnn, name) for name in ("enabled", "benchmark", "deterministic", "allow_tf32")}
    cards = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(given_back(cards))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            if device.type != "cpu":  # a mode that every call goes through, so only where there is need
                stack.enter_context(torch.device("cpu"))
            torch.set_default_dtype(torch.float32)
            torch.set_num_threads(before if threads is None else threads)
            yield
    finally:
        torch.set_num_threads(before)
        torch.set_default_dtype(dtype)
        if _device() != device:
            torch.set_default_device(device if device.type != "cpu" else None)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.set_float32_matmul_precision(precision)
        for name, value in flags.items():
            setattr(cudnn, name, value)


def _device() -> torch.device:
    """Where new tensors go (torch 2.6 cannot say it once a default device was set and taken back)."""
    return torch.empty(0).device
