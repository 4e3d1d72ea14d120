"""Is a value of a field allowed? Ranges, choices, alternatives, and settings that cannot have an effect."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from fedfm.cards.knobs import alternatives
from fedfm.config.marker import plain_scalar
from fedfm.core.errors import ConfigError, Problem
from fedfm.text import nearest

BITS = 63  # of the largest integer
LARGEST = float.fromhex("0x1.fffffep127")  # of float32


def out_of_range(f: dataclasses.Field[Any], value: Any, where: str) -> Iterator[Problem]:
    """What the field's own facts say against `value`."""
    meta, value = f.metadata, plain_scalar(value)
    if isinstance(value, Mapping | list | tuple) and "doc" in meta:  # a knob's facts are those of each
        for key, v in value.items() if isinstance(value, Mapping) else enumerate(value):
            if isinstance(v := plain_scalar(v), int | float) and not isinstance(v, bool):
                yield from _number(f, v, f"{where}.{key}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield from _number(f, value, where)
    if meta.get("choices") and value is not None and value not in meta["choices"]:
        choices = [str(c) for c in meta["choices"]]
        what = f"'{str(value)[:80]}' is no choice"
        yield Problem(where, what, nearest(str(value)[:80], choices), "one of " + ", ".join(choices))


def held(cls: type, name: str, value: Any, where: str) -> None:
    """Raises ConfigError where the facts of the field `name` of `cls` say something against `value`."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if problems := list(out_of_range(fields[name], value, where)):
        raise ConfigError(problems)


def _number(f: dataclasses.Field[Any], value: int | float, where: str) -> Iterator[Problem]:
    if isinstance(value, int) and value.bit_length() > BITS:
        yield Problem(
            where, f"a number of {value.bit_length()} bits", f"{BITS} are the most", "give a smaller one"
        )
        return
    if value != value:
        yield Problem(
            where, "nan is no number", "nothing can be computed from it", f"set {where} to a number"
        )
        return
    for end, sign, strict in (
        ("low", -1, False),
        ("high", 1, False),
        ("above", -1, True),
        ("below", 1, True),
    ):
        limit = f.metadata.get(end)
        if limit is None or sign * value < sign * limit or (value == limit and not strict):
            continue
        what = f"{value:g} is out of range" if isinstance(value, float) else f"{value} is out of range"
        if strict:
            yield Problem(
                where, what, f"it must be {end} {limit:g}", f"set {where} to a number {end} {limit:g}"
            )
        else:
            fix = _share(f, value, where) or f"set {where}={limit:g}"
            yield Problem(where, what, f"{end}est allowed is {limit:g}", fix)
        return
    if LARGEST < abs(value) < math.inf:
        why = f"float32, in which models are trained, ends at {LARGEST:.3g}"
        yield Problem(where, f"{value:g} is out of range", why, "give a number of ordinary size")
    elif (
        math.isinf(value)
        and f.default != value
        and math.inf not in (f.metadata.get("high"), f.metadata.get("low"))
    ):
        yield Problem(
            where, f"{value} is no number to compute with", "it must be finite", "give a finite number"
        )


def _share(f: dataclasses.Field[Any], value: float, where: str) -> str:
    """What a share is, where a percentage, a count or all was given for one; empty where the field is none."""
    high, low = f.metadata.get("high"), f.metadata.get("low")
    low = f.metadata.get("above") if low is None else low
    if high is None or low is None or not (value > high and 0 <= low < high <= 1):
        return ""
    asked = value if 1 < value <= 100 * high else 20
    return f"a share, at most {high:g}: {asked:g} % is {where}={asked / 100:g}"


def unfit(cls: type, given: Mapping[str, Any], where: str) -> Iterator[Problem]:
    """What the fields of `cls` say against each other, with the values `given` (the rest is left to its default)."""
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}

    def at(name: str) -> str:
        return f"{where}.{name}" if where else name

    for group in alternatives(cls):
        said = [n for n in group if given.get(n) is not None]
        if len(said) > 1:
            why = " and ".join(f"{n}={given[n]!r}" for n in said) + " are two ways to say one thing"
            yield Problem(
                at(said[1]), f"{said[0]} is set too", why, f"set {at(said[0])} or {at(said[1])} to null"
            )
        elif (
            not said and all(n in given for n in group) and any(fields[n].default is not None for n in group)
        ):
            yield Problem(
                at(group[0]), f"one of {', '.join(group)} must be set", "all are null", f"set {at(group[0])}"
            )
    values = {n: default_of(f) for n, f in fields.items()} | dict(given)
    for name, f in fields.items():
        if not (only := f.metadata.get("only")) or name not in given:
            continue
        others, wanted = (only[0],) if isinstance(only[0], str) else only[0], only[1]
        found, allowed = [_led(values, o) for o in others], wanted if isinstance(wanted, tuple) else (wanted,)
        acts = any(found) if wanted is True else any(v in allowed for v in found)
        other, value = " or ".join(others), found[0] if len(found) == 1 else found
        if not acts and plain_scalar(given[name]) != default_of(f):
            words = "is set" if wanted is True else f"is {' or '.join(map(str, allowed))}"
            why = f"it acts only where {other} {words}, and {other} is {value!r}"
            yield Problem(
                at(name),
                f"{name}={given[name]!r} has no effect",
                why,
                f"drop {at(name)}, or set {at(others[0])}",
            )


def _led(values: Mapping[str, Any], path: str) -> Any:
    """The value to which a dotted path leads."""
    head, *tail = path.split(".")
    value = values.get(head)
    for part in tail:
        value = getattr(value, part, None)
    return value


def default_of(f: dataclasses.Field[Any]) -> Any:
    """The default of a field; MISSING where it has none."""
    return f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
