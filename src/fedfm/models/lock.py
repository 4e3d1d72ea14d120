"""One writer at a time across processes; the operating system frees the lock of a process that dies."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(file: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold `file` exclusively; `waiting()` is called once when somebody else holds it.

    The file stays behind: removing it would let a third process lock a new file of the same name.
    """
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _try(handle):
            waiting()
            while not _try(handle):
                time.sleep(0.1)
        yield
    finally:
        os.close(handle)


def _try(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
