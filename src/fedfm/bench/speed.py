"""The speed run: seconds from the start of a fresh process until the federated model has a score.

All that a person waits for counts: imports, data, model, encoding, rounds, and the scoring that sees the score reached.
Any recipe with any settings may run; the seed is fixed, and a score is reached when a round's says so.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedfm.bench import machine
from fedfm.core.errors import ConfigError, FedfmError, Problem
from fedfm.running.execute import configure

UNTIL = {"quickstart": 0.68, "fedit": 0.33}  # what a recipe is raced to


def measure(
    quick: bool = False,
    *,
    recipe: str = "quickstart",
    settings: Sequence[str] = (),
    until: float | None = None,
    seed: int = 0,
    repeats: int = 3,
) -> dict[str, Any]:
    """`seconds` (median, from the start of the process; null: not reached), the rounds it took, and every round's score.

    Raises ConfigError where nothing says how far to go, FedfmError where the recipe cannot run.
    """
    goal = UNTIL.get(Path(recipe).stem) if until is None else until
    if goal is None:
        known = ", ".join(f"{name} to {value:g}" for name, value in UNTIL.items())
        raise ConfigError(
            [Problem("--until", f"how far shall {recipe} go?", f"there are goals for {known}", "--until 0.5")]
        )
    configure(recipe, settings, seed=seed)  # what is wrong with it is said here
    laps = []
    for k in range(1 if quick else repeats):
        laps.append(race(recipe, settings, goal, seed))
        print(f"  {k}: {_said(laps[-1])}", file=sys.stderr, flush=True)
    reached = [lap["seconds"] for lap in laps]
    there = [s for s in reached if s is not None]
    spread = machine.spread(there) if len(there) == len(laps) else None
    return {
        "seconds": spread["median"] if spread else None,
        "seconds_each": reached,
        "rounds": laps[0]["rounds"],
        "metric": laps[0]["metric"],
        "until": goal,
        "scores": laps[0]["scores"],
        "recipe": recipe,
        "settings": list(settings),
        "seed": seed,
    }


def race(recipe: str, settings: Sequence[str], until: float, seed: int) -> dict[str, Any]:
    """One run in a process of its own, ended as soon as the score is there."""
    with tempfile.TemporaryDirectory(prefix="fedfm-bench-") as folder:
        begun = time.monotonic()
        child = subprocess.Popen(
            [sys.executable, "-m", "fedfm.bench.bed.race", recipe, f"{folder}/run", str(seed), *settings],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert child.stdout is not None and child.stderr is not None
        found: dict[str, Any] = {"seconds": None, "rounds": None, "metric": "", "scores": [], "until": until}
        try:
            for line in child.stdout:
                if not line.startswith("mark "):
                    continue
                _, at, done, metric, up, value = line.split()
                found["metric"] = metric
                found["scores"].append(float(value))
                if int(done) and (float(value) - until) * int(up) >= 0:
                    found |= {"seconds": round(float(at) - begun, 1), "rounds": int(done)}
                    break
            else:
                if child.wait():
                    why = child.stderr.read().strip().splitlines()
                    raise FedfmError(f"speed: {recipe} does not run: {why[-1] if why else child.returncode}")
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            child.stdout.close()
            child.stderr.close()
    return found


def _said(lap: dict[str, Any]) -> str:
    if lap["seconds"] is None:
        best = max(lap["scores"], default=None)
        return f"{lap['metric'] or 'score'} {lap['until']:g} was not reached (best {best})"
    return f"{lap['metric']} {lap['until']:g} after {lap['seconds']:.1f} s and {lap['rounds']} rounds"
