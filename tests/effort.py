"""How much of what could be tried is tried at each commit; the slow tests try the rest."""

from __future__ import annotations

import datetime
import functools
import subprocess
import zlib
from pathlib import Path

from hypothesis import settings

few = settings(max_examples=60, deadline=None)
fewer = settings(max_examples=40, deadline=None)


@functools.cache
def today() -> int:
    """The seed of this commit: its own date, so that a failure is found again; a fixed one outside a checkout."""
    try:
        here = Path(__file__).parent
        said = subprocess.run(
            ["git", "log", "-1", "--format=%cs"], cwd=here, capture_output=True, text=True, check=True
        )
        return int(datetime.date.fromisoformat(said.stdout.strip()).strftime("%Y%m%d"))
    except (OSError, subprocess.CalledProcessError, ValueError):
        return 20250101


def drawn(name: str, of: int) -> bool:
    """Is this test among the one in `of` that this commit's date draws?"""
    return zlib.crc32(f"{today()} {name}".encode()) % of == 0
