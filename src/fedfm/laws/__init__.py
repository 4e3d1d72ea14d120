"""The laws: what everything in a slot promises, checked on any spec, registered or not.

    from fedfm import laws
    laws.check(MyCodec(bits=3))             # raises AssertionError with the name of every law that it breaks
    [law.name for law in laws.laws_of(x)]   # the laws that bind x, chosen by its protocol and its declared facts

A law test of a new method is one line; `examples(cls)` gives specs of a class to try it with.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from fedfm.core.federation import Federation
from fedfm.laws.examples import examples
from fedfm.laws.homes import play
from fedfm.laws.law import Law, hold, law


def every() -> list[Law]:
    """All laws, those of every spec first."""
    modules = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]
    found = {id(v): v for module in modules for v in vars(module).values() if isinstance(v, Law)}
    return sorted(found.values(), key=lambda found: found.protocol is not object)


def laws_of(spec: Any) -> list[Law]:
    """The laws that bind `spec`, by its protocol and the facts that it declares."""
    return [found for found in every() if found.binds(spec)]


def check(spec: Any, within: Federation | None = None) -> None:
    """Raise AssertionError naming every law that `spec` breaks.

    `within`: a federation to try it in, for a method that needs a model or data of its own; its slot is filled
    with `spec`.
    """
    broken = [f"{found.name}: {why}" for found in laws_of(spec) if (why := found.broken(spec, within))]
    if broken:
        raise AssertionError(
            "\n".join(
                [
                    f"{spec!r} breaks {len(broken)} of {len(laws_of(spec))} laws",
                    *(f"  {line}" for line in broken),
                ]
            )
        )


__all__ = ["Law", "check", "every", "examples", "hold", "law", "laws_of", "play"]
