"""Settings of objects that never were a config: the ranges and choices of their knobs hold all the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from fedfm.config.limits import out_of_range
from fedfm.core.errors import Problem
from fedfm.core.federation import Federation


def ranges(fed: Federation) -> Iterator[Problem]:
    """Every number out of its range and every word that is no choice, in the specs of all slots."""
    yield from _of(fed, "")


def _of(spec: Any, where: str) -> Iterator[Problem]:
    if isinstance(spec, Mapping):
        for key, value in spec.items():
            yield from _of(value, f"{where}.{key}")
    elif isinstance(spec, tuple):
        for i, value in enumerate(spec):
            yield from _of(value, f"{where}.{i}")
    elif dataclasses.is_dataclass(spec) and not isinstance(spec, type):
        for f in dataclasses.fields(spec):
            if f.init and f.repr and "doc" in f.metadata:  # rows in memory have no settings
                here = f"{where}.{f.name}" if where else f.name
                yield from out_of_range(f, getattr(spec, f.name), here)
                yield from _of(getattr(spec, f.name), here)
