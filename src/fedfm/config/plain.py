"""Plain data and the Python object are the same thing (and so is YAML, which `fedfm.config.text` reads).

A config is `recipe: NAME` plus overrides, or a whole federation; a slot's value is `{name: topk, fraction: 0.01}`,
a list of those is a pipe, null is the identity. Unknown keys, wrong types and values out of range are problems
that name the nearest valid key; all are collected before anything is raised.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from typing import Any

from fedfm.core.combine import Pipe
from fedfm.core.errors import ConfigError, Problem, nearest
from fedfm.core.federation import Federation
from fedfm.core.protocols import Aggregator, Client, Task, Wire
from fedfm.core.registry import SLOT_OF, load, methods

Config = dict[str, Any]


def to_config(value: Any) -> Any:
    """Plain data that `from_config` turns back into `value`."""
    if isinstance(value, Pipe):
        return [to_config(s) for s in value.stages]
    if type(value).__module__.startswith("fedfm.core.protocols"):
        return None  # the identity of a slot
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain = {f.name: to_config(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        name = getattr(type(value), "method_name", None)
        return plain if name is None else {"name": name, **plain}
    if isinstance(value, Mapping):
        return {str(k): to_config(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_config(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"{type(value).__name__} is not registered, so a config cannot name it; put @method above it"
    )


def from_config(config: Config) -> Federation:
    """Build the federation; raises ConfigError with every problem found."""
    problems: list[Problem] = []
    fed: Federation = _fields(Federation, config, "", problems)
    if problems:
        raise ConfigError(problems)
    return fed


def resolve(config: Config) -> Config:
    """A complete config from `recipe: NAME` plus overrides (nested, or by dotted path)."""
    name = config.get("recipe")
    return _merge({} if name is None else {"recipe": name, **to_config(load(name, "recipe")())}, config)


def digest(config: Config) -> str:
    """SHA-256 of what determines the result (the engine does not)."""
    kept = {k: v for k, v in config.items() if k != "engine"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


# ---- building -------------------------------------------------------------------------------------------------
def _merge(base: Config, over: Config) -> Config:
    merged = dict(base)
    for key, value in over.items():
        if "." in str(key):
            if problem := put(merged, key, value):
                raise ConfigError([problem])
        elif (
            isinstance(value, dict)
            and isinstance(old := merged.get(key), dict)
            and value.get("name", old.get("name")) == old.get("name")
        ):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def put(config: Config, path: str, value: Any) -> Problem | None:
    """Set what lies at a dotted path; what a config leaves to its default is written out on the way."""
    keys, node = path.split("."), typing.cast(Any, config)
    for depth, key in enumerate(keys, 1):
        here = ".".join(keys[: depth - 1])
        if isinstance(node, list):
            if not key.isdecimal() or int(key) >= len(node):
                return Problem(
                    path,
                    f"{here} has no stage '{key}'",
                    f"it has {len(node)} stages, counted from 0",
                    "see fedfm show",
                )
        elif not isinstance(node, dict):
            return Problem(
                path, f"{here} is {node!r}", "it has no keys", f"set {here} to a mapping with a name"
            )
        at: Any = int(key) if isinstance(node, list) else key
        if depth == len(keys):
            node[at] = value
            return None
        if isinstance(node, dict) and at not in node:
            node[at] = _default(node.get("name"), key)
        if isinstance(node[at], str) and node[at] in methods():
            node[at] = {"name": node[at]}
        node = node[at]
    return None


def _default(name: Any, key: str) -> Any:
    """The config of a field that a config leaves to its default; an empty mapping where there is none."""
    f = (
        next((f for f in dataclasses.fields(load(name)) if f.name == key), None)
        if str(name) in methods()
        else None
    )
    if f is None or f.default is f.default_factory:  # both missing
        return {}
    return to_config(f.default if f.default_factory is dataclasses.MISSING else f.default_factory())


def build(hint: Any, value: Any, where: str, problems: list[Problem], slot: str = "") -> Any:
    """What the type `hint` of a field asks for, from plain data; adds to `problems` what is wrong with it."""
    args = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    specs = tuple(h for h in args if isinstance(h, type) and h not in (*_SCALARS, type(None), object, Any))
    if value is None and type(None) in args:
        return None
    if (
        value is None
        and specs
        and specs[0].__module__.startswith("fedfm.core.protocols")
        and specs[0] not in (Task, Client, Aggregator)
    ):
        return specs[0]()
    if isinstance(value, list) and Wire in specs:
        return Pipe(*(build(Wire, stage, f"{where}.{i}", problems, "wire") for i, stage in enumerate(value)))
    kinds = {typing.get_origin(h) or h for h in args}
    if specs or slot or (Any in kinds and isinstance(value, dict) and "name" in value):
        return _spec(
            specs,
            {"name": value} if isinstance(value, str) else value,
            where,
            problems,
            SLOT_OF.get(slot, slot),
        )
    if isinstance(value, dict) and kinds & {dict, Mapping, Any}:
        inner = (*typing.get_args(hint), Any, Any)[1]
        return {k: build(inner, v, f"{where}.{k}", problems) for k, v in value.items()}
    if isinstance(value, list) and kinds & {tuple, Any}:
        inner = next((typing.get_args(h)[0] for h in args if typing.get_origin(h) is tuple), Any)
        return tuple(build(inner, v, f"{where}.{i}", problems) for i, v in enumerate(value))
    wanted = [h for h in args if h in _SCALARS]
    if float in wanted and str not in wanted and isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        with contextlib.suppress(ValueError):
            value = float(value)
    if not kinds & {Any, typing.Literal} and not any(type(value) in _SCALARS[h] for h in wanted):
        expected = " or ".join(sorted(h.__name__ for h in kinds))
        problems.append(
            Problem(
                where, f"{value!r} is {type(value).__name__}", f"{expected} is expected", f"give {expected}"
            )
        )
    return float(value) if float in wanted and int not in wanted and type(value) is int else value


def _spec(specs: tuple[type, ...], value: Any, where: str, problems: list[Problem], slot: str) -> Any:
    """A method (of one of the classes `specs`, if any) from its mapping."""
    before, of_slot = len(problems), f" --slot {slot}" if slot else ""
    if not isinstance(value, dict) or "name" not in value:
        problems.append(
            Problem(
                where,
                f"{value!r} names no method",
                "a method is a mapping with a name",
                f"{{name: ..., ...}}; fedfm list{of_slot} shows the names",
            )
        )
        return None
    try:
        cls = load(value["name"], slot or None)
    except ConfigError as e:
        problems += [dataclasses.replace(p, where=where) for p in e.problems]
        return None
    built = _fields(cls, {k: v for k, v in value.items() if k != "name"}, where, problems)
    if len(problems) == before and specs and not isinstance(built, specs):
        fitting = [n for n in methods() if isinstance(load(n), type) and issubclass(load(n), specs)]
        problems.append(
            Problem(
                where,
                f"'{value['name']}' cannot stand here",
                f"it is no {specs[0].__name__}",
                "use one of: " + ", ".join(fitting),
            )
        )
    return built


_SCALARS: dict[Any, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}


def _fields(cls: Any, config: Mapping[str, Any], where: str, problems: list[Problem]) -> Any:
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}
    slots = {*SLOT_OF, *(s for c in methods().values() for s in c.slots)}
    given: dict[str, Any] = {}
    before = len(problems)
    for key, value in config.items():
        at = f"{where}.{key}" if where else key
        if key == "recipe" and cls is Federation:
            continue
        if key not in known:
            problems.append(
                Problem(at, f"unknown key '{key}'", nearest(str(key), known), "rename or remove it")
            )
            continue
        given[key] = v = build(hints.get(key, Any), value, at, problems, key if key in slots else "")
        meta = known[key].metadata
        for bound, sign in (("low", -1), ("high", 1)):
            if (
                (limit := meta.get(bound)) is not None
                and isinstance(v, int | float)
                and not sign * v <= sign * limit
            ):
                problems.append(
                    Problem(
                        at, f"{v} is out of range", f"{bound}est allowed is {limit:g}", f"set {at}={limit:g}"
                    )
                )
        if meta.get("choices") and v not in meta["choices"]:
            problems.append(
                Problem(
                    at,
                    f"'{v}' is no choice",
                    nearest(str(v), meta["choices"]),
                    "one of " + ", ".join(meta["choices"]),
                )
            )
    for name, f in known.items():
        if f.default is f.default_factory and name not in given:  # both missing
            problems.append(
                Problem(f"{where}.{name}" if where else name, "is missing", "it has no default", "set it")
            )
    if len(problems) > before:
        return None
    try:
        return cls(**given)
    except (ValueError, TypeError) as e:
        problems.append(
            Problem(where or "federation", str(e), "the values do not fit together", "change them")
        )
        return None
