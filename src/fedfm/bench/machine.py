"""What a figure depends on besides the code: the processor, the load, the versions; and the clocks of a process.

CPU seconds are the measure wherever work is compared with work: on a shared machine wall times drift by more than
a tenth.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedfm.machine import cores


def describe() -> dict[str, Any]:
    """Cores, processor, memory in bytes, operating system, and the versions of what computes."""
    from fedfm.running.summary import versions

    return {
        "cores": cores(),
        "processor": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "memory": int((_field("/proc/meminfo", "MemTotal") or "0").split()[0]) * 1024,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
    }


def load() -> list[float]:
    """Load averages over 1, 5 and 15 minutes: above `cores`, others were computing too."""
    return [round(v, 2) for v in os.getloadavg()]


def cpu(pids: Iterable[int] = ()) -> float:
    """CPU seconds so far of this process (all threads) and of the living processes `pids` (Linux)."""
    return time.process_time() + sum(
        time.clock_gettime(~pid << 3 | 2) for pid in pids
    )  # clock_getcpuclockid(3)


def resident(pid: int | None = None) -> int:
    """Resident bytes of a process (Linux; 0 elsewhere)."""
    statm = Path(f"/proc/{pid or 'self'}/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def peak(pid: int) -> int:
    """The most resident bytes that a living process has had (Linux; 0 elsewhere)."""
    return int((_field(f"/proc/{pid}/status", "VmHWM") or "0").split()[0]) * 1024


def workers(engine: Any) -> list[int]:
    """Process ids of an engine's workers."""
    return [w.process.pid for w in getattr(engine, "_pool", ())]


def spread(values: Iterable[float], digits: int = 4) -> dict[str, Any]:
    """Median, extremes and the raw numbers."""
    raw = [round(v, digits) for v in values]
    return {"median": round(statistics.median(raw), digits), "min": min(raw), "max": max(raw), "raw": raw}


def _field(path: str, name: str) -> str:
    if Path(path).exists():
        for line in Path(path).read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return ""
