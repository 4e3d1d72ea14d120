"""What it takes to ask fedfm anything: a fresh interpreter, `import fedfm`, `fedfm list`, `fedfm --help`."""

from __future__ import annotations

import importlib.util
import resource
import subprocess
import sys
import time
from typing import Any

from fedfm.bench import machine

TARGETS = {"import fedfm": 0.3, "fedfm list": 1.0}


def measure(quick: bool = False, *, repeats: int = 7) -> dict[str, Any]:
    """Seconds (wall and CPU) of each, the interpreter's own start included; a command that is missing is left out."""
    repeats = 1 if quick else repeats
    commands = {
        "python": ["-c", "pass"],
        "import fedfm": ["-c", "import fedfm"],
        "list of cards": ["-c", "from fedfm.cards.registry import cards; cards()"],
    }
    if importlib.util.find_spec("fedfm.cli"):
        entry = "import sys; from fedfm.cli import main; sys.argv[0] = 'fedfm'; main()"
        commands |= {"fedfm list": ["-c", entry, "list"], "fedfm --help": ["-c", entry, "--help"]}
    wall: dict[str, list[float]] = {name: [] for name in commands}
    cpu: dict[str, list[float]] = {name: [] for name in commands}
    for k in range(repeats + 1):  # the first warms the file cache
        for name, args in commands.items():
            used, begun = _children(), time.perf_counter()
            subprocess.run([sys.executable, *args], check=True, capture_output=True)
            if k:
                wall[name].append(time.perf_counter() - begun)
                cpu[name].append(_children() - used)
    return {
        "seconds": {name: machine.spread(v) for name, v in wall.items()},
        "cpu": {name: machine.spread(v) for name, v in cpu.items()},
        "targets": TARGETS,
    }


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
