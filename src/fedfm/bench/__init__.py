"""The project's own measurements: every figure that is claimed can be measured again with `fedfm bench`."""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

from fedfm.core.errors import ConfigError, MissingExtra, Problem
from fedfm.text import nearest

_NAMES = (
    "overhead",
    "start",
    "clients",
    "aggregate",
    "imports",
    "wire",
    "secagg",
    "links",
    "served",
    "speed",
)


def names() -> list[str]:
    """The measurements there are."""
    return list(_NAMES)


def run(name: str | None = None, quick: bool = False, **options: Any) -> dict[str, Any]:
    """Measure `name` and return its figures as plain data; all of them, by name, when it is None.

    `quick` repeats less on smaller sizes: for a look, not for a claim. `options`: the measurement's own. Progress goes
    to standard error. Raises ConfigError for an unknown name.
    """
    if (device := options.get("device", "cpu")) != "cpu":
        _refuse(name, device)
    if name is None:
        return {n: _or_missing(n, quick) for n in _NAMES}
    if name not in _NAMES:
        raise ConfigError(
            [
                Problem(
                    "bench",
                    f"there is no measurement '{name}'",
                    nearest(name, _NAMES),
                    "fedfm bench runs all",
                )
            ]
        )
    from fedfm.bench import machine

    print(f"bench {name} ...", file=sys.stderr, flush=True)
    load, start = machine.load(), time.perf_counter()
    found: dict[str, Any] = importlib.import_module(f"fedfm.bench.{name}").measure(quick=quick, **options)
    spent = time.perf_counter() - start
    print(f"bench {name} took {spent:.1f} s", file=sys.stderr, flush=True)
    return {
        "name": name,
        "quick": quick,
        **found,
        "took_s": round(spent, 2),
        "machine": machine.describe() | {"load_before": load, "load_after": machine.load()},
    }


def _or_missing(name: str, quick: bool) -> dict[str, Any]:
    """The figures of one among all; what it needs where that is not installed."""
    try:
        return run(name, quick)
    except MissingExtra as e:
        return {"name": name, "missing": str(e)}


def _refuse(name: str | None, device: str) -> None:
    """Raise ConfigError unless `name` can be measured on `device`."""
    import torch

    if device != "cuda" or name != "overhead":
        what = f"{name or 'all'} cannot be measured on '{device}'"
        why = "only overhead is work for a device"
        fix = (
            "fedfm bench overhead --device cuda"
            if device == "cuda"
            else "--device cpu, or overhead with cuda"
        )
    elif not torch.cuda.is_available():
        what, why, fix = "no CUDA device is visible", "torch.cuda.is_available() is false", "--device cpu"
    else:
        return
    raise ConfigError([Problem("bench", what, why, fix)])
