"""A call that may never end, ended after some seconds: programs of strangers, such as a model's chat template."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class _Stop(BaseException):
    """Thrown into the thread whose time is over."""


def limited(call: Callable[[], T], seconds: float) -> T:
    """What `call` returns or raises; TimeoutError after `seconds`. It runs in a thread, which is then stopped.

    Python code is stopped between two of its instructions; one call into a library in C cannot be.
    """
    results: list[T] = []
    faults: list[Exception] = []

    def run() -> None:
        try:
            results.append(call())
        except _Stop:
            pass
        except Exception as e:  # noqa: BLE001 - handed over to the caller
            faults.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        assert thread.ident is not None
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_Stop))
        raise TimeoutError
    if faults:
        raise faults[0]
    return results[0]
