"""Facts behind a guarantee are stated by whoever overrides what they speak of: those of a base class are of its own methods."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from fedfm.cards.registry import name_of
from fedfm.core.combine import stages_of
from fedfm.core.errors import Problem
from fedfm.core.protocols import Slot
from fedfm.core.spending import guards, noises

if TYPE_CHECKING:
    from fedfm.core.federation import Federation

# facts that nothing but noise on a sum is accounted by, and that masks are refused by too; all others stand behind any guarantee
NOISED = {"draws", "random_size", "independent", "loses", "counts", "divisor", "plain", "alpha_max", "alike"}
SUMMED = {"partial", "shares"}


def inherited(fed: Federation) -> Iterator[Problem]:
    """Under a guarantee: every fact that a method has from a class whose method, of which it speaks, it has replaced."""
    if not (stages := guards(fed)):
        return
    noised = any(s.after_sum for s in noises(fed))
    idle = set() if noised else NOISED if any(s.opaque for s in stages) else NOISED | SUMMED
    methods: dict[str, Any] = dict(fed.methods())
    methods |= {f"uplink.{i}": stage for i, stage in enumerate(stages_of(fed.uplink))}
    names = " and ".join(map(name_of, stages))
    for slot, method in methods.items():
        for inner in _within(method) if slot not in ("uplink", "downlink", "talk") else ():
            facts = {f: by for f, by in passed(type(inner)).items() if f not in idle}
            if facts:
                yield _problem(slot, inner, facts, names)


def passed(cls: type[Slot]) -> dict[str, tuple[str, type]]:
    """Facts that a class has from beyond a method of which they speak: fact -> that method, and whose the fact is."""
    found: dict[str, tuple[str, type]] = {}
    for fact, methods in cls.rests.items():
        owner = _owner(cls, fact)
        if owner.identity() and fact not in cls.bold:  # there it promises nothing
            continue
        line = cls.__mro__
        over = [m for m in methods if line.index(_owner(cls, m)) < line.index(owner)]
        if over:
            found[fact] = over[0], owner
    return found


def stated(facts: Mapping[str, tuple[str, type]]) -> str:
    """The lines that state them as they were."""
    return "; ".join(f"{fact} = {owner.__name__}.{fact}" for fact, (_, owner) in facts.items())


def _problem(slot: str, method: Slot, facts: Mapping[str, tuple[str, type]], guard: str) -> Problem:
    overridden = " and ".join(f"`{m}`" for m in dict.fromkeys(m for m, _ in facts.values()))
    owners = " and ".join(dict.fromkeys(o.__name__ for _, o in facts.values()))
    one = len(facts) == 1
    return Problem(
        slot,
        f"{name_of(method)} overrides {overridden} and has {', '.join(f'`{f}`' for f in facts)} from {owners}",
        f"the guarantee of {guard} rests on {'that fact' if one else 'these facts'}, and what was said of another "
        f"{overridden} need not be true of this one",
        f"state {'it' if one else 'them'} in class {type(method).__name__}; as before, if that is still true: {stated(facts)}",
    )


def _owner(cls: type, name: str) -> Any:
    return next(c for c in cls.__mro__ if name in vars(c) or name in inspect.get_annotations(c))


def _within(method: Any) -> Iterator[Slot]:
    """A method, and those that it is made of."""
    if isinstance(method, Slot):
        yield method
    if isinstance(method, Mapping):
        method = tuple(method.values())
    if isinstance(method, tuple):
        for part in method:
            yield from _within(part)
    elif is_dataclass(method) and not isinstance(method, type):
        for f in fields(method):
            yield from _within(getattr(method, f.name, None))
