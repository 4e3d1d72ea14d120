"""Wrappers: one base a protocol that holds `inner` and passes on every fact and every call of it.

A wrapper overrides what it changes and nothing else, so no fact is lost on the way; a law compares the rest.
"""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

from fedfm.core.protocols import Adversary, Aggregator, Client, Pace, Selector, Server, Wire

T = TypeVar("T")
KEPT = {"identity", "rests", "bold"}  # of the class itself


def facts(protocol: type) -> list[str]:
    """The names of a protocol's facts: what it declares that is no call."""
    return [
        n
        for n, v in _members(protocol).items()
        if not inspect.isfunction(v) and not isinstance(v, classmethod)
    ]


def _members(protocol: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for cls in reversed(protocol.__mro__[:-1]):
        found |= {n: v for n, v in vars(cls).items() if not n.startswith("_")}
    return {n: v for n, v in found.items() if n not in KEPT}


def _passed_on(name: str, member: Any) -> Any:
    if inspect.isfunction(member):

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            return getattr(self.inner, name)(*args, **kwargs)

        call.__name__, call.__doc__ = name, member.__doc__
        return call
    return property(lambda self: getattr(self.inner, name))


def _forwards(cls: type[T]) -> type[T]:
    """Give `cls` a property for every fact of its protocol and a method for every call, each `inner`'s own."""
    for name, member in _members(cls.__mro__[1]).items():
        setattr(cls, name, _passed_on(name, member))
    return cls


@_forwards
class AroundClient(Client):
    """A client in another's coat."""

    inner: Client


@_forwards
class AroundServer(Server):
    """A server in another's coat."""

    inner: Server


@_forwards
class AroundAggregator(Aggregator):
    """An aggregator in another's coat."""

    inner: Aggregator


@_forwards
class AroundWire(Wire):
    """A stage in another's coat; its states are the inner's own."""

    inner: Wire


@_forwards
class AroundSelector(Selector):
    """A selector in another's coat; its state is the inner's own."""

    inner: Selector


@_forwards
class AroundPace(Pace):
    """A pace in another's coat."""

    inner: Pace


@_forwards
class AroundAdversary(Adversary):
    """An adversary in another's coat."""

    inner: Adversary
