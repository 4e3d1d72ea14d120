"""Every number of every method at both ends of its range: it is refused, or it runs and is right."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedfm.cards.registry import load, methods
from fedfm.checks.rules import check
from fedfm.core.errors import ConfigError
from fedfm.laws.examples import examples
from fedfm.laws.homes import slot_of, tries
from fedfm.laws.soak.drawing import DRAWN, fits
from soak.trial import SIDE, Housed, complaints, refused

NAMES = sorted({name for slot in DRAWN for name in fits(slot)})
NEAR = 2.0**-20  # how far inside of an open end


def ends(cls: type) -> Iterator[tuple[str, float, bool]]:
    """Field, value, and whether the range holds it."""
    for f in dataclasses.fields(cls):
        kind = int if isinstance(f.default, int) and not isinstance(f.default, bool) else float
        for end, sign in (("low", -1), ("high", 1)):
            if (limit := f.metadata.get(end)) is not None:
                yield f.name, kind(limit), True
                yield f.name, kind(limit) + sign, False
        for end, sign in (("above", 1), ("below", -1)):
            if (limit := f.metadata.get(end)) is not None:
                yield f.name, limit + sign * NEAR * max(1.0, abs(limit)), True
                yield f.name, limit, False
        if f.metadata.get("doc") and isinstance(f.default, float) and f.init:
            yield f.name, math.nan, False


def at(cls: type, **end: float) -> Any:
    """The class's example with one field at an end; None where the class itself refuses that."""
    spec = examples(cls)[0]
    try:
        return dataclasses.replace(spec, **end)
    except (ValueError, TypeError):
        return None


@pytest.mark.parametrize("name", NAMES)
def test_an_end_is_refused_or_right(name: str, tmp_path: Path) -> None:
    cls, found = load(name), []
    for k, (field, value, inside) in enumerate(ends(cls)):
        if (spec := at(cls, **{field: value})) is None:
            continue
        for fed in tries(spec):
            housed = Housed(SIDE, 5) if type(fed.data) is type(SIDE) else Housed(fed.data, 5)
            fed = dataclasses.replace(fed, data=housed)
            problems = check(fed)
            if not inside:
                if not any(p.where.endswith(field) for p in problems):
                    found.append(f"{field}={value} is out of its range, and check lets it pass")
                break
            if problems or _cannot(fed):
                continue
            try:
                found += [f"{field}={value}: {why}" for why in complaints(fed, tmp_path / str(k))]
            except Exception as e:  # noqa: BLE001 - whatever it raises, it is found
                found.append(f"{field}={value}: {type(e).__name__}: {e}")
            break
    assert not found, "\n".join(found)


def _cannot(fed: Any) -> bool:
    try:
        return bool(refused(fed))
    except ConfigError:
        return True


def test_all_slots_are_there() -> None:
    assert {slot_of(examples(load(n))[0]) for n in NAMES} >= {"client", "server", "uplink", "select", "value"}
    assert methods()
