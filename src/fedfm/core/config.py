"""YAML, `repr` and the Python object are the same thing.

A config is `recipe: NAME` plus overrides, or a whole federation; a slot's value is `{name: topk, fraction: 0.01}`,
a list of those is a pipe, null is the identity. Unknown keys, wrong types and values out of range are problems
that name the nearest valid key; all are collected before anything is raised.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from fedfm.core.combine import Pipe
from fedfm.core.errors import ConfigError, Problem, nearest
from fedfm.core.federation import Federation
from fedfm.core.registry import load, methods

Config = dict[str, Any]
OUTSIDE = ("engine",)  # slots that never change a result, hence not in the digest


def to_config(value: Any) -> Any:
    """Plain data that `from_config` turns back into `value`."""
    if isinstance(value, Pipe):
        return [to_config(s) for s in value.stages]
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
    if type(value).__module__ == "fedfm.core.protocols":
        return None  # the identity of a slot
    raise TypeError(f"{type(value).__name__} is not registered, so a config cannot name it; put @method above it")


def from_config(config: Config) -> Federation:
    """Build the federation; raises ConfigError with every problem found."""
    problems: list[Problem] = []
    fed = _fields(Federation, config, "", problems)
    if problems:
        raise ConfigError(problems)
    assert isinstance(fed, Federation)
    return fed


def resolve(config: Config) -> Config:
    """A complete config from `recipe: NAME` plus overrides (nested, or by dotted path)."""
    config = dict(config)
    base: Config = {}
    if (name := config.pop("recipe", None)) is not None:
        base = {"recipe": name, **to_config(load(name, "recipe")())}
    return _merge(base, config)


def override(config: Config, settings: Iterable[str]) -> Config:
    """Apply `slot.field=value` settings (values are YAML) to a complete config."""
    problems: list[Problem] = []
    for setting in settings:
        path, eq, text = setting.partition("=")
        if not eq:
            problems.append(Problem(setting, "not a setting", "a setting reads slot.field=value", f"{setting}=VALUE"))
            continue
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as e:
            problems.append(Problem(path, f"'{text}' is no YAML value", str(e).split("\n")[0], "quote it"))
            continue
        problem = _put(config, path, value)
        if problem:
            problems.append(problem)
    if problems:
        raise ConfigError(problems)
    return config


def digest(config: Config) -> str:
    """SHA-256 of what determines the result (the engine does not)."""
    kept = {k: v for k, v in config.items() if k not in OUTSIDE}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def dump(config: Config) -> str:
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=110)


def parse(text: str, where: str) -> Config:
    """A config from YAML text."""
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ConfigError([Problem(where, "this is no YAML", str(e).replace("\n", " "), "mend the line it names")]) from e
    if not isinstance(config, dict):
        raise ConfigError([Problem(where, "a config is a mapping", f"this is {type(config).__name__}", "start with `recipe: NAME`")])
    return config


# ---- building -------------------------------------------------------------------------------------------------
def _merge(base: Config, over: Config) -> Config:
    merged = dict(base)
    for key, value in over.items():
        if "." in key:
            if problem := _put(merged, key, value):
                raise ConfigError([problem])
        elif isinstance(value, dict) and isinstance(merged.get(key), dict) and value.get("name", merged[key].get("name")) == merged[key].get("name"):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _put(config: Any, path: str, value: Any) -> Problem | None:
    keys, node = path.split("."), config
    for depth, key in enumerate(keys):
        here = ".".join(keys[:depth]) or "the federation"
        if isinstance(node, list):
            if not key.isdigit() or int(key) >= len(node):
                return Problem(path, f"{here} has no stage '{key}'", f"it has {len(node)} stages, counted from 0", "see fedfm show")
            known: Any = int(key)
        elif isinstance(node, dict):
            name = node.get("name")
            names = {f.name for f in dataclasses.fields(load(name))} | {"name"} if name in methods() else (
                {f.name for f in dataclasses.fields(Federation)} if depth == 0 else set(node))
            free = depth > 0 and name not in methods()  # a mapping of the user's own
            if key not in names and not free:
                return Problem(path, f"{here} has no key '{key}'", nearest(key, names), f"fedfm show {name or 'RECIPE'} lists the keys")
            known = key
        else:
            return Problem(path, f"{here} is {node!r}", "it has no keys", f"set {here} to a mapping with a name")
        if depth == len(keys) - 1:
            if isinstance(value, str) and value in methods() and isinstance(node.get(known) if isinstance(node, dict) else node[known], dict | list | None):
                value = {"name": value}
            node[known] = value
        else:
            node = node.get(known, {}) if isinstance(node, dict) else node[known]
    return None


def _value(hint: Any, value: Any, where: str, problems: list[Problem], slot: str | None) -> Any:
    """Turn plain data into what the field's type hint asks for."""
    if isinstance(value, list) and slot in ("uplink", "downlink", "talk", "wire"):
        return Pipe(*(_value(Any, v, f"{where}.{i}", problems, "wire") for i, v in enumerate(value)))
    if isinstance(value, str) and slot and value in methods():
        value = {"name": value}
    if isinstance(value, dict) and "name" in value:
        try:
            cls = load(value["name"], _SLOT_OF.get(slot, slot) if slot else None)
        except ConfigError as e:
            problems += [dataclasses.replace(p, where=where) for p in e.problems]
            return None
        return _fields(cls, {k: v for k, v in value.items() if k != "name"}, where, problems)
    if isinstance(value, dict):
        return {k: _value(Any, v, f"{where}.{k}", problems, slot) for k, v in value.items()}
    if value is None and isinstance(hint, type) and hint.__module__ == "fedfm.core.protocols":
        return hint()
    origin = typing.get_origin(hint)
    if isinstance(value, list):
        inner = (typing.get_args(hint) or (Any,))[0]
        return tuple(_value(inner, v, f"{where}.{i}", problems, None) for i, v in enumerate(value))
    scalars = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}
    wanted = [h for h in (typing.get_args(hint) if origin is not None else (hint,)) if h in scalars]
    if wanted and value is not None and not any(type(value) in scalars[h] for h in wanted):
        expected = " or ".join(h.__name__ for h in wanted)
        problems.append(Problem(where, f"{value!r} is {type(value).__name__}", f"{expected} is expected", f"give {expected}"))
    return float(value) if hint is float and type(value) is int else value


_SLOT_OF = {"uplink": "wire", "downlink": "wire", "talk": "wire"}


def _fields(cls: Any, config: Mapping[str, Any], where: str, problems: list[Problem]) -> Any:
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}
    given: dict[str, Any] = {}
    for key, value in config.items():
        at = f"{where}.{key}" if where else key
        if key == "recipe" and cls is Federation:
            continue
        if key not in known:
            problems.append(Problem(at, f"unknown key '{key}'", nearest(key, known), "rename or remove it"))
            continue
        slots = {s for c in methods().values() for s in c.slots} | set(_SLOT_OF)
        given[key] = v = _value(hints.get(key, Any), value, at, problems, key if key in slots else None)
        meta = known[key].metadata
        for bound, bad in (("low", lambda a, b: a < b), ("high", lambda a, b: a > b)):
            limit = meta.get(bound)
            if limit is not None and isinstance(v, int | float) and bad(v, limit):
                problems.append(Problem(at, f"{v} is out of range", f"{bound}est allowed is {limit:g}", f"set {at}={limit:g}"))
        if meta.get("choices") and v not in meta["choices"]:
            problems.append(Problem(at, f"'{v}' is no choice", nearest(str(v), meta["choices"]), "one of " + ", ".join(meta["choices"])))
    for name, f in known.items():
        missing = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if missing and name not in given:
            problems.append(Problem(f"{where}.{name}" if where else name, "is missing", "it has no default", "set it"))
    if problems:
        return None
    try:
        return cls(**given)
    except (ValueError, TypeError) as e:
        problems.append(Problem(where or "federation", str(e), "the values do not fit together", "change them"))
        return None
