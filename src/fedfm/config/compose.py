"""One config out of several: a base, what is laid over it, and single settings by dotted path.

Values are plain data or live objects. A live object stays the very object that it is; only where a setting reaches
into one is it made anew with that field changed.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from fedfm.cards.knobs import alternatives
from fedfm.cards.registry import SLOT_OF, load, methods
from fedfm.config.hints import fields_of
from fedfm.config.limits import default_of
from fedfm.config.marker import live
from fedfm.config.record import to_config
from fedfm.core.combine import Pipe
from fedfm.core.errors import ConfigError, Problem

Config = dict[str, Any]


class Opened(dict[str, Any]):
    """The fields of a live object, some of them changed."""

    def __init__(self, was: Any):
        super().__init__((f.name, getattr(was, f.name)) for f in dataclasses.fields(was) if f.init)
        self.was = was

    @property
    def changed(self) -> bool:
        return any(not hasattr(self.was, k) or getattr(self.was, k) is not v for k, v in self.items())


class Composition:
    """`config` is what came out, `notes` what gave way to what, `problems` what could not be done."""

    def __init__(self, base: Any):
        self.config: Any = Opened(base) if dataclasses.is_dataclass(base) else _opened(base)
        self.notes: list[str] = []
        self.problems: list[Problem] = []
        self._told: dict[str, Any] = {}  # alternatives that were set here, by path

    def done(self) -> Any:
        if self.problems:
            raise ConfigError(self.problems)
        return self.config

    def lay(self, over: Mapping[Any, Any], at: tuple[str, ...] = ()) -> None:
        """Lay a mapping over the config (or over what lies at `at`): what it does not name stays."""
        node = self.config
        for key in at:
            node = node[key]
        free = (
            bool(at) and not isinstance(node, Opened) and "name" not in node
        )  # its keys are names, not paths
        for p in () if free else twice(over, at):  # a whole config with a setting beside it
            self.notes.append(f"{p.where}: {p.what} ({p.why}), and the longer way in dots wins")
        for key, value in sorted(
            over.items(), key=lambda kv: str(kv[0]).count(".")
        ):  # a slot before its fields
            old = node.get(key)
            if (
                isinstance(value, Mapping)
                and dataclasses.is_dataclass(old)
                and not isinstance(old, Pipe | type)
            ):
                old = node[key] = Opened(old)
            if not free and isinstance(key, str) and "." in key:
                self.put(".".join((*at, key)), value)
            elif isinstance(value, Mapping) and isinstance(old, dict) and _same(value, old):
                if not isinstance(old, Opened):
                    node[key] = dict(old)
                self.lay(
                    {k: v for k, v in value.items() if not isinstance(old, Opened) or k != "name"}, (*at, key)
                )
            else:
                node[key] = _opened(value)
                self._gives_way(node, key, (*at, str(key)))

    def put(self, path: str, value: Any) -> None:
        """Set what lies at a dotted path; what a config leaves to its default is written out on the way."""
        keys, node = tuple(path.split(".")), self.config
        if keys == ("recipe",) and value != node.get("recipe"):
            what = "a recipe is what settings are laid over, not one of them"
            why = f"the rest is {node.get('recipe') or 'of no recipe'} already, and nothing of {str(value)[:80]!r} would be taken"
            fix = "name the recipe first: fedfm run NAME, fedfm.run(NAME), or `recipe: NAME` in a file"
            self.problems.append(Problem(path, what, why, fix))
            return
        for depth, key in enumerate(keys, 1):
            here = ".".join(keys[: depth - 1])
            if isinstance(node, list):
                if not (key.isascii() and key.isdecimal() and len(key) < 9 and int(key) < len(node)):
                    why = f"it has {len(node)} stages, counted from 0"
                    self.problems.append(Problem(path, f"{here} has no stage '{key}'", why, "see fedfm show"))
                    return
            elif not isinstance(node, dict):
                fix = f"set {here} to a mapping with a name" + _having(keys[depth - 2], key)
                self.problems.append(Problem(path, f"{here} is {str(node)[:80]!r}", "it has no keys", fix))
                return
            at: Any = int(key) if isinstance(node, list) else key
            if depth == len(keys):
                node[at] = _opened(value)
                self._gives_way(node, at, keys)
                return
            node = _inside(node, at)

    def _gives_way(self, node: Any, key: Any, path: tuple[str, ...]) -> None:
        """Whoever sets one of several alternatives unsets the others; to set two is a problem."""
        cls = _class_of(node)
        if cls is None or node[key] is None:
            return
        for group in alternatives(cls):
            if key not in group:
                continue
            self._told[".".join(path)] = node[key]
            for other in group:
                at = ".".join((*path[:-1], other))
                if other == key or node.get(other) is None:
                    continue
                if at in self._told:
                    why = f"{at}={node[other]!r} says the same thing in another way"
                    self.problems.append(
                        Problem(".".join(path), f"{at} is set too", why, "set one of the two")
                    )
                    continue
                self.notes.append(f"{at}={node[other]} gives way to {'.'.join(path)}={node[key]}")
                node[other] = None


def twice(over: Mapping[Any, Any], at: tuple[str, ...] = (), deep: bool = False) -> Iterator[Problem]:
    """Settings that a mapping says by a dotted path and in a nested mapping too; `deep`: where the dots are further in."""
    ways: dict[str, tuple[str, ...]] = {}
    dotted = {k.partition(".")[0] for k in over if isinstance(k, str) and "." in k}
    of_dotted = {k: v for k, v in over.items() if str(k).partition(".")[0] in dotted}
    for way, path in _leaves(over if deep else of_dotted, at):
        if ways.setdefault(path, way) != way:
            both = " and as ".join(" > ".join(w) for w in (ways[path], way))
            yield Problem(path, "it is set twice", f"it stands here as {both}", "keep one of the two")


def _leaves(node: Any, way: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every value that is no mapping or list: the keys on the way to it, and its dotted path."""
    if isinstance(node, Mapping | list) and node and not live(node):
        for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from _leaves(value, (*way, str(key)))
    else:
        yield way, ".".join(way)


def _having(slot: str, key: str) -> str:
    """The methods of a slot that have a field `key`."""
    found = [n for n, c in methods().items() if SLOT_OF.get(slot, slot) in c.slots and key in fields_of(n)]
    return f", e.g. {slot}={found[0]} ({', '.join(found)})" if found else ""


def _inside(node: Any, key: Any) -> Any:
    """What lies at `key`, made into something that can be changed: lists, mappings, and the fields of objects."""
    if isinstance(node, dict) and key not in node:
        node[key] = _default(node, key)
    value = node[key]
    if isinstance(value, str) and value in methods():
        node[key] = {"name": value}
    elif isinstance(value, Pipe):
        node[key] = list(value.stages)
    elif isinstance(value, tuple):
        node[key] = list(value)
    elif isinstance(value, Mapping) and not isinstance(value, dict):
        node[key] = dict(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        node[key] = Opened(value)
    return node[key]


def _same(over: Mapping[str, Any], old: dict[str, Any]) -> bool:
    """Does `over` change settings of the method that stands there, and does not name another?"""
    if isinstance(old, Opened):
        return "name" not in over or over["name"] == vars(type(old.was)).get("method_name")
    return bool(over.get("name", old.get("name")) == old.get("name"))


def _class_of(node: Any) -> type | None:
    if isinstance(node, Opened):
        return type(node.was)
    name = node.get("name") if isinstance(node, dict) else None
    return load(name) if isinstance(name, str) and name in methods() else None


def _default(node: dict[str, Any], key: str) -> Any:
    """The config of a field that a config leaves to its default; an empty mapping where there is none."""
    cls = _class_of(node)
    f = next((f for f in dataclasses.fields(cls) if f.name == key), None) if cls is not None else None
    if f is None or (value := default_of(f)) is dataclasses.MISSING:
        return {}
    return to_config(value)


def _opened(value: Any) -> Any:
    """The same data in lists and mappings of its own; live objects stay themselves."""
    if isinstance(value, Opened):
        return value
    if isinstance(value, Mapping):
        return {k: _opened(v) for k, v in value.items()}
    if isinstance(value, list) or (type(value) is tuple and not any(map(live, value))):
        return [_opened(v) for v in value]
    return value


def override(config: Any, settings: Mapping[str, Any]) -> Any:
    """`config` with the values of `settings` at their dotted paths."""
    made = Composition(config)
    for path in sorted(settings, key=lambda p: str(p).count(".")):  # a slot before its fields
        made.put(path, settings[path])
    return made.done()


def resolve(config: Mapping[str, Any]) -> Config:
    """A complete config from `recipe: NAME` plus overrides (nested, or by dotted path)."""
    return typing.cast(Config, resolved(config).done())


def resolved(config: Mapping[str, Any]) -> Composition:
    """The same, with notes of what gave way."""
    name = config.get("recipe")
    base = {} if name is None else {"recipe": name, **to_config(load(name, "recipe")())}
    made = Composition(base)
    made.lay(config)
    return made
