"""Fields of a method: each with its sentence, its range, and what else a config must know of it."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import Any


def knob(
    default: Any = dataclasses.MISSING,
    doc: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
    alternative: str = "",
    only: tuple[str | tuple[str, ...], Any] | None = None,
    names: str | tuple[str, str] = "",
    fitted: bool = False,
    place: str = "",
    stays: str = "",
    live: bool = False,
    factory: Any = dataclasses.MISSING,
) -> Any:
    """A dataclass field with the sentence and the facts that `show` prints and a config enforces.

    `low`, `high`: the range, ends included; `above`, `below`: without the end. `alternative`: fields of one spec that
    share this word say one thing in several ways; one of them is set, the others are None. `only=(field, value)`: it
    has an effect only where that field (a dotted path may lead into it; of several: one of them) has this value (a
    tuple: one of these; True: any that is not zero or empty). `names`: the strings name something that the federation must have ("party",
    "phase"; for patterns "parties" or "tensors", which reach everybody, or "some parties"; of a mapping: what
    keys and values name). `fitted`: people take its value from rows, which
    no guarantee covers unless it was agreed beforehand. `place`: it says where "rows" lie, or names a "folder" or what is known by
    a name; a run that goes on may find them elsewhere. `stays`: what is learnt is learnt under this value, and who goes on
    from it under another one is "refused" (it is another function), or "told". `live`: holds what a config
    cannot say; it is recorded by its digest and never written out.
    """
    facts = {"low": low, "high": high, "above": above, "below": below, "choices": choices}
    more = {
        "alternative": alternative,
        "only": only,
        "names": names,
        "fitted": fitted,
        "place": place,
        "stays": stays,
    }
    return dataclasses.field(
        default=default, default_factory=factory, repr=not live, metadata={"doc": doc, **facts, **more}
    )


def settings(node: Any, where: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any], Any]]:
    """Every setting of a spec, at any depth: dotted path, owner, field and value. Rows in memory (`live`) are none."""
    if isinstance(node, Mapping | tuple | list):
        for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from settings(value, f"{where}.{key}")
    if not dataclasses.is_dataclass(node) or isinstance(node, type):
        return
    for f in dataclasses.fields(node):
        if f.init and f.repr:
            at, value = f"{where}.{f.name}" if where else f.name, getattr(node, f.name)
            yield at, node, f, value
            yield from settings(value, at)


def alternatives(cls: type) -> tuple[tuple[str, ...], ...]:
    """The groups of fields of `cls` of which one is set and the others are None."""
    groups: dict[str, list[str]] = {}
    for f in dataclasses.fields(cls):
        if word := f.metadata.get("alternative"):
            groups.setdefault(word, []).append(f.name)
    return tuple(map(tuple, groups.values()))


def exclude(cls: Any) -> None:
    """Let `cls(...)` set to None what an alternative that was given replaces; two that are given are a ValueError."""
    groups, make = alternatives(cls), vars(cls).get("__init__")
    if not groups or make is None:  # none, or the parent's, which does it
        return
    signature = inspect.signature(make)
    defaults = {f.name: f.default for f in dataclasses.fields(cls)}

    @functools.wraps(make)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(self, *args, **kwargs).arguments
        for group in groups:
            said = [name for name in group if given.get(name) is not None]
            if len(said) > 1:
                raise ValueError(
                    f"{' and '.join(said)} are two ways to say one thing: set one, the other to None"
                )
            if said:
                kwargs |= {name: None for name in group if name not in given}
            elif any(defaults[n] is not None for n in group) and all(
                given.get(n, defaults[n]) is None for n in group
            ):
                raise ValueError(f"one of {', '.join(group)} must be set")
        make(self, *args, **kwargs)

    cls.__init__ = init
