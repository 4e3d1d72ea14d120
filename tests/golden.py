"""Digests of what the federations of the engine tests give: `python tests/golden.py` writes them anew.

A change that moves one names its reason and the federations that moved, in docs/log.md.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from federations import FEDERATIONS, SECURE, digits
from fedfm.core.federation import Federation
from fedfm.core.message import raw
from fedfm.laws.homes import Played, play

PATH = Path(__file__).with_name("golden.json")
ALL: dict[str, dict[str, Any]] = {**FEDERATIONS, **SECURE}


def machine() -> str:
    """What the last bits of a float depend on: the digests hold on like machines only."""
    told = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    says = dict(re.findall(r"(?m)^(vendor_id|cpu family|model)\s*: (.*)$", told))
    kind = " ".join(
        [platform.machine(), *(says[k] for k in sorted(says)), torch.backends.cpu.get_cpu_capability()]
    )
    return f"{kind} torch {torch.__version__}"


def digests(name: str, play: Callable[[Federation, Path], Played] = play) -> dict[str, str]:
    """Of the model, of the ledger, and of the metrics without what a clock measured."""
    with tempfile.TemporaryDirectory() as folder:
        played = play(digits(**ALL[name]), Path(folder))
    clockless = [{k: v for k, v in r.items() if k not in ("seconds", "cpu")} for r in played.records]
    metrics = json.dumps(clockless, sort_keys=True).encode()
    found = {"model": hashlib.sha256(raw(played.model)), "metrics": hashlib.sha256(metrics)}
    return {k: v.hexdigest()[:16] for k, v in found.items()} | {"ledger": played.digest[:16]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    known = json.loads(PATH.read_text()) if PATH.exists() else {}
    fresh = {name: digests(name) for name in ALL}
    moved = [name for name, d in fresh.items() if known.get(machine(), {}).get(name) != d]
    PATH.write_text(json.dumps(known | {machine(): fresh}, indent=1) + "\n")
    print(f"{len(moved)} of {len(fresh)} moved: " + ", ".join(moved))
