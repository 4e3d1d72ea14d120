"""Cards: what fedfm knows about each method, read from the source so that listing imports nothing.

A method is one file with one frozen dataclass under `@method(...)`; a named system is a function under
`@recipe(...)`. The arguments of both are literals: `cards()` reads them with `ast`, which keeps
`fedfm list` fast and lets a config import only the modules that it names. Third parties publish modules
through the entry-point group `fedfm.methods`.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from fedfm.core.errors import ConfigError, Problem, nearest

T = TypeVar("T")
_elsewhere: dict[str, Path] = {}  # modules outside this package whose methods were imported
SLOT_OF = {
    "uplink": "wire",
    "downlink": "wire",
    "talk": "wire",
}  # slots of a federation that one kind of method fills


@dataclasses.dataclass(frozen=True)
class Card:
    """One registered method or recipe. `slots` are the slots of `Federation` (or of a spec) that it fits."""

    name: str
    kind: str  # "method" | "recipe"
    slots: tuple[str, ...]
    module: str
    qualname: str
    summary: str
    section: str  # of the survey, e.g. "IV.C"
    survey: tuple[int, ...] = ()  # reference numbers of the survey
    paper: str = ""
    reduces_to: str = ""  # "fedprox(mu=0) is local", a law test holds it to that
    departs: str = ""  # how it differs from the paper
    atlas: tuple[str, ...] = ()  # rows of the field's map that this fills

    @property
    def slot(self) -> str:
        return "/".join(self.slots)


def method(
    name: str,
    *,
    slot: str | tuple[str, ...],
    section: str,
    survey: tuple[int, ...] = (),
    paper: str = "",
    reduces_to: str = "",
    departs: str = "",
    atlas: tuple[str, ...] = (),
) -> Callable[[type[T]], type[T]]:
    """Register a frozen dataclass as a method. All arguments must be literals (they are read from source)."""

    def mark(cls: type[T]) -> type[T]:
        cls.method_name = name  # type: ignore[attr-defined]
        if not cls.__module__.startswith("fedfm."):  # a file of the user's own, or a package
            _elsewhere[cls.__module__] = Path(getattr(sys.modules[cls.__module__], "__file__", None) or "")
            cards.cache_clear()
            methods.cache_clear()
        return cls

    return mark


def recipe(
    name: str,
    *,
    section: str,
    survey: tuple[int, ...] = (),
    paper: str = "",
    departs: str = "",
    atlas: tuple[str, ...] = (),
) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Register a function without required arguments that returns a `Federation`."""
    return lambda fn: fn


def knob(
    default: Any = dataclasses.MISSING,
    doc: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    factory: Any = dataclasses.MISSING,
) -> Any:
    """A dataclass field with the sentence, range and choices that `show` prints and `config` enforces."""
    return dataclasses.field(
        default=default,
        default_factory=factory,
        metadata={"doc": doc, "low": low, "high": high, "choices": choices},
    )


@functools.cache
def cards() -> tuple[Card, ...]:
    """Every card, sorted by name. A recipe may carry the name of its method; two methods may not share one."""
    found: dict[tuple[str, str], Card] = {}
    for module, path in _modules():
        text = path.read_text(encoding="utf-8")
        for card in (
            _read(module, ast.parse(text, str(path))) if "@method(" in text or "@recipe(" in text else ()
        ):
            key = (card.name, card.kind)
            if key in found:
                raise ConfigError(
                    [
                        Problem(
                            card.module,
                            f"the name '{card.name}' is taken",
                            f"{found[key].module} has it",
                            "give the method another name",
                        )
                    ]
                )
            found[key] = card
    return tuple(found[k] for k in sorted(found))


@functools.cache
def methods() -> dict[str, Card]:
    return {c.name: c for c in cards() if c.kind == "method"}


@functools.cache
def recipes() -> dict[str, Card]:
    return {c.name: c for c in cards() if c.kind == "recipe"}


def find(name: str, slot: str | None = None) -> Card:
    """The card called `name` that fits `slot` ("recipe" for recipes); otherwise raises and names the nearest."""
    name = str(name)  # a config may hold anything
    known = (
        recipes()
        if slot == "recipe"
        else {n: c for n, c in methods().items() if slot is None or slot in c.slots}
    )
    if name in known:
        return known[name]
    if name in methods() and slot != "recipe":
        raise ConfigError(
            [
                Problem(
                    slot or "name",
                    f"'{name}' cannot fill this slot",
                    f"it fits {methods()[name].slot}, not {slot}",
                    "use one of: " + ", ".join(known),
                )
            ]
        )
    raise ConfigError(
        [
            Problem(
                slot or "name",
                f"there is no {'recipe' if slot == 'recipe' else 'method'} '{name}'",
                nearest(name, known),
                f"fedfm list{f' --slot {slot}' if slot else ''} shows all",
            )
        ]
    )


def load(name: str, slot: str | None = None) -> Any:
    """Import and return the class or recipe function called `name`."""
    card = find(name, slot)
    return getattr(importlib.import_module(card.module), card.qualname)


def name_of(spec: Any) -> str:
    """The registered name of a method's instance; its class's name if it has none."""
    return str(getattr(spec, "method_name", type(spec).__name__))


def _modules() -> Iterator[tuple[str, Path]]:
    root = Path(__file__).resolve().parents[1]
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path
    for entry in importlib.metadata.entry_points(group="fedfm.methods"):
        with contextlib.suppress(ModuleNotFoundError):  # an entry point whose package is gone
            if (spec := importlib.util.find_spec(entry.module)) and (spec.origin or "").endswith(".py"):
                _elsewhere[entry.module] = Path(str(spec.origin))
    yield from ((module, path) for module, path in _elsewhere.items() if path.is_file())


def _read(module: str, tree: ast.Module) -> Iterator[Card]:
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef):
            continue
        for call in node.decorator_list:
            if not (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Name)
                and call.func.id in ("method", "recipe")
            ):
                continue
            args = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg}
            slot = args.pop("slot", "recipe")
            yield Card(
                ast.literal_eval(call.args[0]),
                call.func.id,
                slot if isinstance(slot, tuple) else (slot,),
                module,
                node.name,
                (ast.get_docstring(node) or "").split("\n")[0],
                **args,
            )
