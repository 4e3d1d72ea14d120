"""fedfm: federated learning with foundation models.

`fedfm.run("quickstart")` runs a recipe; `fedfm.replace(recipe, uplink=...)` fills a slot otherwise; every registered
method is an attribute by its class name (`fedfm.TopK(0.01)`). Nothing heavy is imported before it is used. What a type
checker sees is `__init__.pyi`, which scripts/make_stubs.py writes from the cards.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

NAMES = {
    **dict.fromkeys(("run", "probe", "resume", "recipe_of"), "fedfm.running.entry"),
    "audit": "fedfm.running.audits",
    "patch": "fedfm.tasks.hosted.patch",
    "party": "fedfm.tasks.hosted.script",
    **dict.fromkeys(("Federation", "replace"), "fedfm.core.federation"),
    **dict.fromkeys(("method", "recipe", "knob"), "fedfm.cards.registry"),
    **dict.fromkeys(("Ctx", "Terms"), "fedfm.core.context"),
    **dict.fromkeys(("FedfmError", "ConfigError", "RunFailed"), "fedfm.core.errors"),
    "Layout": "fedfm.vectors.layout",
    "Message": "fedfm.core.message",
    "check": "fedfm.checks.rules",
    **dict.fromkeys(
        ("Adversary", "Aggregator", "Audit", "Client", "Detector", "Evaluator", "Pace")
        + ("Reward", "Selector", "Server", "Task", "Valuer", "Wire"),
        "fedfm.core.protocols",
    ),
}  # beside the methods


def __getattr__(name: str) -> Any:
    from fedfm.lent import undrawn

    with undrawn():
        return _found(name)


def _found(name: str) -> Any:
    if name in NAMES:
        return getattr(importlib.import_module(NAMES[name]), name)
    if name[:1].isupper():
        from fedfm.cards.registry import load, methods

        for card in methods().values():
            if card.qualname == name:
                return load(card.name)
    if not name.startswith("_"):
        try:
            return importlib.import_module(f"fedfm.{name}")
        except ModuleNotFoundError as e:
            if e.name != f"fedfm.{name}":
                raise
    raise AttributeError(
        f"fedfm has no '{name}'{'' if name.startswith('_') else _meant(name)}; dir(fedfm) shows every method"
    )


def _meant(name: str) -> str:
    """The class of the method that is called so in a config, or elsewhere; else of a name that is spelled alike."""
    import difflib
    import re

    from fedfm.cards.registry import methods

    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).casefold().replace("_", "-")
    flat, classes = plain.replace("-", ""), [c for c in methods().values() if "." not in c.qualname]
    for names in (lambda c: (c.name,), lambda c: c.also):
        if found := [c for c in classes if flat in [n.replace("-", "") for n in names(c)]]:
            return ": " + " or ".join(f"'{c.name}' is fedfm.{c.qualname}" for c in found)
    near = difflib.get_close_matches(name, [*NAMES, *(c.qualname for c in classes)], n=1, cutoff=0.7)
    return f": did you mean fedfm.{near[0]}?" if near else ""


def __dir__() -> list[str]:
    import pkgutil

    from fedfm.cards.registry import methods

    classes = [c.qualname for c in methods().values() if "." not in c.qualname]
    return sorted({*globals(), *NAMES, *classes, *(m.name for m in pkgutil.iter_modules(__path__))})
