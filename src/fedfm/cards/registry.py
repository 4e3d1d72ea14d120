"""Cards: what fedfm knows about each method.

A method is one frozen dataclass under `@method(...)`; a named system is a function under `@recipe(...)`. Both are
registered when they run, wherever that is: a module, a script, a notebook's cell, a function. What is not imported
yet is listed from its source, read with `ast`: fedfm's own package, and modules that third parties publish through
the entry-point group `fedfm.methods`. So `fedfm list` imports nothing, and a config imports only what it names.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fedfm.cards.knobs import exclude
from fedfm.cards.knobs import knob as knob
from fedfm.cards.listing import SLOT_OF as SLOT_OF
from fedfm.cards.listing import Card as Card
from fedfm.cards.listing import card_of, clashes, faults_of, packaged, published
from fedfm.core.errors import ConfigError, FedfmError, Problem, words_of
from fedfm.text import nearest

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class _Entry:
    """What a decorator has registered; `home` is where it was written: file (or module) and qualified name."""

    card: Card
    thing: Any
    home: tuple[str, str]


_live: dict[tuple[str, str], _Entry] = {}  # (name, kind) -> what was registered in this process


def method(
    name: str,
    *,
    slot: str | tuple[str, ...],
    section: str = "own",
    survey: tuple[int, ...] = (),
    paper: str = "",
    reduces_to: str = "",
    departs: str = "",
    atlas: tuple[str, ...] = (),
    also: tuple[str, ...] = (),
) -> Callable[[type[T]], type[T]]:
    """Register a frozen dataclass as a method of a slot. In a published module all arguments are literals.

    `also`: what others call it; who asks for it by such a name is told the one here.

    The same class written again (a cell that is run again, a module that is reloaded) replaces the former one.
    Raises ConfigError for a name or a class name that another method has, and for a card that is wrong.
    """

    def mark(cls: type[T]) -> type[T]:
        if not dataclasses.is_dataclass(cls):
            fix = "write @dataclass(frozen=True) between @method and the class"
            raise ConfigError([Problem(name, f"{cls.__name__} is no dataclass", "its fields are knobs", fix)])
        words = {"survey": survey, "paper": paper, "reduces_to": reduces_to, "departs": departs}
        _register(cls, name, "method", slot, section, **words, atlas=atlas, also=also)
        cls.method_name = name  # type: ignore[attr-defined]
        exclude(cls)
        return cls

    return mark


def recipe(
    name: str,
    *,
    section: str = "own",
    survey: tuple[int, ...] = (),
    paper: str = "",
    departs: str = "",
    atlas: tuple[str, ...] = (),
) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Register a function without required arguments that returns a `Federation`."""

    def mark(fn: Callable[..., T]) -> Callable[..., T]:
        _register(
            fn, name, "recipe", "recipe", section, survey=survey, paper=paper, departs=departs, atlas=atlas
        )
        return fn

    return mark


# ---- what is registered, and what is listed -------------------------------------------------------------------
def _register(thing: Any, name: Any, kind: str, slot: Any, section: Any, **more: Any) -> None:
    module, qualname = thing.__module__, thing.__qualname__
    card = card_of(thing.__doc__, name, kind, slot, module, qualname, section=section, **more)
    faults = list(faults_of(card, f"{module}.{qualname}"))
    home = (str(getattr(sys.modules.get(module), "__file__", None) or module), qualname)
    again = {
        key for key, e in _live.items() if e.home == home and (key[0] == name or "<locals>" not in qualname)
    }
    others = [e.card for key, e in _live.items() if key not in again]
    if not module.startswith("fedfm."):
        others += packaged()[0]
    faults += clashes(card, others)
    if faults:
        raise ConfigError(faults)
    for key in again:
        forget(*key)
    _live[name, kind] = _Entry(card, thing, home)
    for cached in (cards, methods, recipes):
        cached.cache_clear()


def forget(name: str, kind: str = "method") -> None:
    """Take back a registration of this process."""
    _live.pop((name, kind), None)
    for cached in (cards, methods, recipes):
        cached.cache_clear()


@functools.cache
def cards() -> tuple[Card, ...]:
    """Every card, sorted by name. A recipe may carry the name of its method; two methods may not share one."""
    found = {key: e.card for key, e in _live.items()}
    for card in (*packaged()[0], *published()[0]):
        found.setdefault((card.name, card.kind), card)
    return tuple(found[k] for k in sorted(found))


def problems() -> tuple[Problem, ...]:
    """What keeps cards from being listed: a source that cannot be read, an argument that is no literal, a name twice."""
    return (*packaged()[1], *published()[1])


@functools.cache
def methods() -> dict[str, Card]:
    return {c.name: c for c in cards() if c.kind == "method"}


@functools.cache
def recipes() -> dict[str, Card]:
    return {c.name: c for c in cards() if c.kind == "recipe"}


def find(name: str, slot: str | None = None) -> Card:
    """The card called `name` that fits `slot` ("recipe" for recipes); otherwise raises and names the nearest."""
    name = str(name)  # a config may hold anything
    if twice := [p for p in problems() if f"the name '{name}' is taken" in p.what]:
        raise ConfigError(twice)
    known = (
        recipes()
        if slot == "recipe"
        else {n: c for n, c in methods().items() if slot is None or slot in c.slots}
    )
    if name in known:
        return known[name]
    if name in methods() and slot != "recipe":
        why = f"it fits {methods()[name].slot}, not {slot}"
        fix = "use one of: " + ", ".join(known)
        raise ConfigError([Problem(slot or "name", f"'{name}' cannot fill this slot", why, fix)])
    what = f"there is no {'recipe' if slot == 'recipe' else 'method'} '{name}'"
    fix = (
        f"fedfm list{f' --slot {slot}' if slot else ''} shows all; one of your own is known once it is imported, \
or by the entry point that `fedfm new` writes and `pip install` reads (docs/adding.md)"
    )
    if slot == "data" and ("/" in name or "." in name):
        fix = f"a file or folder of yours: data=files data.path={name}"
    raise ConfigError([Problem(slot or "name", what, likely(name, known), fix), *problems()])


def likely(name: str, known: Mapping[str, Card]) -> str:
    """What somebody may mean by a name that is not known: what is called so elsewhere, else what is spelled alike."""
    plain = name.casefold().replace("_", "-")
    called = " or ".join(f"'{n}'" for n, c in known.items() if plain == n or plain in c.also)
    return f"here it is called {called}" if called else nearest(name, known)


def load(name: str, slot: str | None = None) -> Any:
    """Import and return the class or recipe function called `name`."""
    card = find(name, slot)
    if (entry := _live.get((card.name, card.kind))) is not None:
        return entry.thing
    try:
        found: Any = importlib.import_module(card.module)
        for part in card.qualname.split("."):
            found = getattr(found, part)
    except FedfmError:
        raise
    except (Exception, SystemExit) as e:  # a script that ends itself too
        from fedfm.core.blame import place  # which reads this module

        why = f"{words_of(e)} ({place(e)})"
        fix = "mend or remove the package that publishes it"
        raise ConfigError([Problem(slot or "name", f"{card.module} cannot be imported", why, fix)]) from e
    return found


def registered(cls: type) -> str | None:
    """The name under which a config finds this very class; None for a subclass without a card of its own."""
    name = vars(cls).get("method_name")
    entry = _live.get((str(name), "method"))
    return entry.card.name if entry is not None and entry.thing is cls else None


def name_of(spec: Any) -> str:
    """The registered name of a method's instance; its class's name if it has none of its own."""
    return str(vars(type(spec)).get("method_name") or type(spec).__name__)
