"""From the start of the process that runs a recipe to its first local step, beside the bare imports.

`start` is what fedfm adds to importing torch, transformers and peft in a fresh interpreter: reading cards and
config, opening data, model and tokenizer, encoding the rows, forking workers, and scoring the starting model.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from typing import Any

from fedfm.bench import machine

TARGETS = {"start": 2.0}
BARE = "import torch, transformers, peft"
USED = (
    BARE + "; from transformers import AutoTokenizer, BertModel"
)  # what the quickstart's model needs of them


def measure(quick: bool = False, *, recipe: str = "quickstart", repeats: int = 5) -> dict[str, Any]:
    """`start` (median, seconds), the seconds of each stage on the way, and both kinds of import."""
    repeats = 1 if quick else repeats
    laps, bare, used = [], [], []
    for k in range(repeats + (not quick)):  # the first warms the file cache
        bare.append(imports(BARE))
        laps.append(first_step(recipe))
        used.append(imports(USED))
        print(
            f"  {k}: step {sum(laps[-1].values()):.2f} s, imports {bare[-1]:.2f} s",
            file=sys.stderr,
            flush=True,
        )
    laps, bare, used = laps[-repeats:], bare[-repeats:], used[-repeats:]
    extra = [sum(lap.values()) - b for lap, b in zip(laps, bare, strict=True)]
    unscored = [e - lap["score"] for e, lap in zip(extra, laps, strict=True)]
    return {
        "start": round(statistics.median(extra), 3),
        "starts": machine.spread(extra),
        "start_without_score": machine.spread(unscored),
        "first_step": machine.spread(sum(lap.values()) for lap in laps),
        "imports": machine.spread(bare),
        "imports_with_model_code": machine.spread(used),
        "stages": {name: machine.spread(lap[name] for lap in laps) for name in laps[0]},
        "recipe": recipe,
        "targets": TARGETS,
    }


def first_step(recipe: str, engine: str = "") -> dict[str, float]:
    """Seconds of each stage from the start of the process to the first local step, in order."""
    with tempfile.TemporaryDirectory(prefix="fedfm-bench-") as folder:
        begun = time.monotonic()
        child = subprocess.Popen(
            [sys.executable, "-m", "fedfm.bench.bed.probe", recipe, f"{folder}/run", engine],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        marks = [("begin", begun)]
        assert child.stdout is not None and child.stderr is not None
        try:
            for line in child.stdout:
                if line.startswith("mark "):
                    _, name, at = line.split()
                    marks.append((name, float(at)))
                if marks[-1][0] == "step":
                    break
            else:
                raise RuntimeError(f"start: {recipe} ended before its first step:\n{child.stderr.read()}")
        finally:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            child.stdout.close()
            child.stderr.close()
    return {name: at - before for (_, before), (name, at) in pairwise(marks)}


def imports(code: str) -> float:
    """Seconds from the start of an interpreter to the end of `code`."""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport time; print('mark', time.monotonic())"],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout.split()[-1]) - begun
