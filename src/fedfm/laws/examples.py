"""Specs to try a class with: its defaults, and one more for each choice and switch."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any

from fedfm.cards.registry import load
from fedfm.core.protocols import Client, Selector, Task, Wire

INNER = {
    Wire: "topk",
    Client: "local",
    Selector: "uniform",
    Task: "image-classification",
}  # what a wrapper wraps when it says nothing


def examples(cls: type) -> list[Any]:
    """The default spec of `cls` and its variants; fields without a default are filled by their type."""
    hints = typing.get_type_hints(cls)
    given = {
        f.name: _sample(hints[f.name])
        for f in dataclasses.fields(cls)
        if f.init and _hollow(f, hints[f.name])
    }
    if any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(cls).parameters.values()):
        (stages,) = given.values()
        return [cls(*stages)]
    found = [cls(**given)]
    for f in dataclasses.fields(cls):
        if not f.init:
            continue
        value = getattr(found[0], f.name)
        others = [c for c in f.metadata.get("choices", ()) if c != value] or (
            [not value] if isinstance(value, bool) else []
        )
        for other in others:
            try:
                found.append(cls(**given | {f.name: other}))
            except ValueError:
                continue  # the class refuses this alone; its own tests know with what it goes
    return found


def _hollow(f: dataclasses.Field[Any], hint: Any) -> bool:
    """Is the field required, or a collection of specs that is empty by default?"""
    if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
        return True
    return any(arg in INNER for arg in typing.get_args(hint))


def _sample(hint: Any) -> Any:
    if hint in INNER:
        return load(INNER[hint])()
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _sample(args[0])
    if origin is tuple:
        return (_sample(args[0]),)
    if origin in (dict, Mapping):
        return {"*" if args[1] in INNER else "x": _sample(args[1])}
    known: dict[Any, Any] = {str: "x", int: 1, float: 1.0, bool: True}
    if hint not in known:
        raise TypeError(f"the laws have no example of {hint}; give the field a default")
    return known[hint]


def knobs(spec: Any) -> set[str]:
    """Names of the numbers in a spec and in the specs that it holds."""
    if isinstance(spec, Mapping):
        return {k for v in spec.values() for k in knobs(v)}
    if not dataclasses.is_dataclass(spec):
        return set()
    fields = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec) if f.init}
    return set(fields) | {k for v in fields.values() for k in knobs(v)}


def turned(spec: Any, **values: Any) -> Any:
    """The spec with these numbers, wherever it holds fields of these names."""
    if isinstance(spec, Mapping):
        return {k: turned(v, **values) for k, v in spec.items()}
    if not dataclasses.is_dataclass(spec) or isinstance(spec, type):
        return spec
    fields = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec) if f.init}
    return dataclasses.replace(
        spec, **{k: values[k] if k in values else turned(v, **values) for k, v in fields.items()}
    )
