"""What a law is: a promise that everything in a slot keeps, as a function that raises when it is broken."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fedfm.core.blame import place
from fedfm.core.errors import FedfmError, words_of
from fedfm.core.federation import Federation


def _always(spec: Any) -> bool:
    return True


@dataclass(frozen=True)
class Law:
    """One promise. `test(spec, within)` raises AssertionError when `spec` breaks it.

    It binds a spec of the class `protocol` for which `when(spec)` holds. `within` is the federation that the spec
    is tried in; None: a small one that the laws choose.
    """

    name: str
    doc: str
    protocol: type
    when: Callable[[Any], bool]
    test: Callable[[Any, Federation | None], None]

    def binds(self, spec: Any) -> bool:
        return isinstance(spec, self.protocol) and self.when(spec)

    def broken(self, spec: Any, within: Federation | None = None) -> str:
        """Why `spec` breaks this law; empty when it keeps it. A crash breaks it too."""
        try:
            self.test(spec, within)
        except AssertionError as e:
            return str(e) or "it does not hold"
        except Exception as e:  # noqa: BLE001 - a method that crashes where a law tries it breaks the law
            return words_of(e) if isinstance(e, FedfmError) else f"{words_of(e)} ({place(e)})"
        return ""


def law(
    protocol: type, when: Callable[[Any], bool] = _always
) -> Callable[[Callable[[Any, Federation | None], None]], Law]:
    """Make a law of a function `(spec, within)`: its name and docstring are the law's."""

    def mark(test: Callable[[Any, Federation | None], None]) -> Law:
        return Law(test.__name__.replace("_", " "), inspect.getdoc(test) or "", protocol, when, test)

    return mark


def hold(condition: bool, otherwise: str) -> None:
    """Raise AssertionError unless `condition` (an `assert` would vanish under `python -O`)."""
    if not condition:
        raise AssertionError(otherwise)
