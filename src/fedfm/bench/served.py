"""What a whole served run costs: the start, a round, what is on the wire beside the ledger, and memory over many rounds.

A rehearsal as a person runs it (`fedfm serve`, two `fedfm join`, each a process of its own) of a model of 1 MB whose
parties take one step on one row. The parties dial through a relay that counts bytes, TLS and all.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fedfm.bench import machine
from fedfm.bench.bed.counting import Relay
from fedfm.core.errors import MachineFault, MissingExtra

SIZE = 250_000  # values of the model: 1 MB
ROUNDS = 500
PARTIES = ("party-0", "party-1")
WARM = 0.2  # share of the rounds in which caches and pools fill; no slope is taken of them
LONG_S = 600.0  # nothing that is measured takes longer without a round


def measure(quick: bool = False, *, rounds: int = ROUNDS, size: int = SIZE) -> dict[str, Any]:
    """Of one run of so many rounds, with a model of `size` fp32 values.

    `start_s`: from the creation of the last process to the first round's end, less what a fresh interpreter takes to
    open the same federation alone (`opening_s`). `round_s`: seconds from one sealed round to the next. `wire`: bytes on
    the wire over those in the ledger, both ways. `slope`: bytes of resident memory that each process gains a round,
    with the half width of its 95 % interval, over the rounds after the first fifth (Linux; 0 elsewhere).
    Raises MissingExtra without grpcio, MachineFault when a process has ended.
    """
    if importlib.util.find_spec("grpc") is None:
        raise MissingExtra("grpcio", "deploy", "fedfm bench served")
    rounds = min(rounds, 50) if quick else rounds
    with tempfile.TemporaryDirectory(prefix="fedfm-bench-") as name:
        config = _config(Path(name), rounds, size)
        opening = _opening(config)
        with _run(config, Path(name) / "run") as (processes, relay, begun):
            sealed, held = _watched(Path(name) / "run", processes, rounds)
        lines = [json.loads(line) for line in (Path(name) / "run" / "metrics.jsonl").read_text().splitlines()]
    told = sum(sum(line["bytes"].values()) for line in lines)
    between = [b - a for a, b in zip(sealed, sealed[1:], strict=False)]
    return {
        "rounds": rounds,
        "model_bytes": 4 * size,
        "opening_s": round(opening, 3),
        "start_s": round(sealed[0] - begun - opening, 3),
        "round_s": {k: v for k, v in machine.spread(between, 4).items() if k != "raw"},
        "wire": round(sum(relay.counts.values()) / max(told, 1), 4),
        "wire_bytes": dict(relay.counts),
        "ledger_bytes": told,
        "slope": {who: _slope(values[int(WARM * len(values)) :]) for who, values in held.items()},
    }


def _config(folder: Path, rounds: int, size: int) -> Path:
    path = folder / "idle.yaml"
    path.write_text(
        f"task: {{name: quadratic, dim: {size}}}\ndata: {{name: quadratics}}\nrounds: {rounds}\n"
        "client: {name: local, lr: 0.001, steps: 1, batch: 0}\n"
    )
    return path


def _opening(config: Path) -> float:
    """Seconds of a fresh interpreter that opens the federation and plays one round of it alone."""
    begun = time.monotonic()
    words = [
        "run",
        str(config),
        "--rounds",
        "1",
        "--baselines",
        "none",
        "--out",
        str(config.parent / "alone"),
    ]
    subprocess.run([sys.executable, "-m", "fedfm", *words], check=True, capture_output=True)
    return time.monotonic() - begun


@contextlib.contextmanager
def _run(config: Path, folder: Path) -> Iterator[tuple[Mapping[str, subprocess.Popen[bytes]], Relay, float]]:
    """Server and parties, the parties through a relay; when the last was created. All are killed in the end."""
    relay, processes = Relay(), dict[str, subprocess.Popen[bytes]]()
    try:
        processes["server"] = _begin(["serve", str(config), "--out", str(folder)], folder.parent / "server")
        files = [folder / "join" / f"{name}.json" for name in PARTIES]
        _until(lambda: all(f.exists() for f in files), processes)
        for name, file in zip(PARTIES, files, strict=True):
            invitation = json.loads(file.read_text())
            relay.to = invitation["address"]
            (here := folder.parent / f"{name}.json").write_text(
                json.dumps(invitation | {"address": relay.address})
            )
            here.chmod(0o600)
            processes[name] = _begin(["join", str(here)], folder.parent / name)
        yield processes, relay, time.monotonic()
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
        relay.close()


def _begin(words: Sequence[str], said: Path) -> subprocess.Popen[bytes]:
    with said.with_suffix(".out").open("wb") as f:
        return subprocess.Popen([sys.executable, "-m", "fedfm", *words], stdout=f, stderr=f)


def _until(there: Callable[[], bool], processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
    begun = time.monotonic()
    while not there():
        for who, process in processes.items():
            if process.poll() is not None or time.monotonic() - begun > LONG_S:
                raise MachineFault(f"served: the process of {who} has ended with {process.returncode}")
        time.sleep(0.002)


def _watched(
    folder: Path, processes: Mapping[str, subprocess.Popen[bytes]], rounds: int
) -> tuple[list[float], dict[str, list[int]]]:
    """When each round was sealed, and what each process then held in bytes."""
    sealed: list[float] = []
    held: dict[str, list[int]] = {who: [] for who in processes}
    path = folder / "metrics.jsonl"
    _until(path.exists, processes)
    with path.open("rb") as f:
        while len(sealed) < rounds:
            before = f.tell()
            line = f.readline()
            if not line.endswith(b"\n"):
                f.seek(before)
                _until(partial(_longer, path, before + len(line)), processes)
                continue
            if json.loads(line)["round"] == 0:
                continue
            sealed.append(time.monotonic())
            for who, process in processes.items():
                held[who].append(machine.resident(process.pid))
    return sealed, held


def _longer(path: Path, size: int) -> bool:
    return path.stat().st_size > size


def _slope(values: Sequence[int]) -> dict[str, float]:
    """Least squares over rounds: bytes a round, and half of the 95 % interval (normal)."""
    n = len(values)
    if n < 3:
        return {"bytes": 0.0, "half_95": 0.0}
    x, y = [k - (n - 1) / 2 for k in range(n)], statistics.fmean(values)
    norm = sum(v * v for v in x)
    slope = sum(a * (b - y) for a, b in zip(x, values, strict=True)) / norm
    rest = sum((b - y - slope * a) ** 2 for a, b in zip(x, values, strict=True)) / (n - 2)
    return {"bytes": round(slope, 1), "half_95": round(1.96 * (rest / norm) ** 0.5, 1)}
