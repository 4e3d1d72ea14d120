"""The law of the special case: what a card says a method reduces to, it is, bit for bit.

A card says `NAME[(field=value, ...)] is TARGET`. TARGET is another method with settings, `everybody` (the identity of
the slot), or `its FIELD ...` (what the spec wraps); any other words are for people, and nothing is run. A single
letter as a value stands for the number of parties.
"""

from __future__ import annotations

import ast
import dataclasses
from typing import Any

import torch

from fedfm.cards.registry import load, methods
from fedfm.core.federation import Federation, replace
from fedfm.core.protocols import Selector
from fedfm.laws.homes import play, quadratics, slot_of
from fedfm.laws.law import hold, law


def _card(spec: Any) -> Any:
    return methods().get(getattr(type(spec), "method_name", ""))


def parsed(text: str) -> tuple[str, dict[str, Any], str]:
    """Name, settings and the words after `is`; raises AssertionError when the card's sentence has another form."""
    left, is_, right = text.partition(" is ")
    name, settings = called(left.strip())
    hold(bool(is_) and name != "", f"'{text}' does not read `NAME(field=value) is TARGET`")
    return name, settings, right.strip()


def called(text: str) -> tuple[str, dict[str, Any]]:
    """`name` or `name(field=value, ...)`; an empty name for any other words."""
    name, bracket, rest = text.partition("(")
    if not name or " " in name or (bracket and not rest.endswith(")")):
        return "", {}
    try:
        call = ast.parse(f"f({rest[:-1]})" if bracket else "f()", mode="eval").body
        assert isinstance(call, ast.Call) and not call.args
        return name, {
            k.arg or "": k.value.id if isinstance(k.value, ast.Name) else ast.literal_eval(k.value)
            for k in call.keywords
        }
    except (SyntaxError, ValueError, AssertionError):
        return "", {}


def special(spec: Any) -> Any:
    """The spec of the same class with the card's settings."""
    card = _card(spec)
    name, settings, _ = parsed(card.reduces_to)
    hold(name == card.name, f"the card of {card.name} says what {name} reduces to")
    known = {f.name: f for f in dataclasses.fields(spec)}
    hold(set(settings) <= set(known), f"{sorted(set(settings) - set(known))} are no fields of {name}")
    required = {
        n: getattr(spec, n)
        for n, f in known.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    return type(spec)(**required | {k: _number(v) for k, v in settings.items()})


def target(spec: Any) -> Any:
    """What it is said to be then; None when the card tells it in words only."""
    card = _card(spec)
    _, _, words = parsed(card.reduces_to)
    if words == "everybody":
        return Selector()
    if words.startswith("its "):
        return getattr(spec, words.split()[1], None)
    name, settings = called(words)
    if name not in methods() or not set(methods()[name].slots) & set(card.slots):
        return None
    inside = [
        v for f in dataclasses.fields(spec) if getattr(v := getattr(spec, f.name), "method_name", "") == name
    ]
    return dataclasses.replace(inside[0], **settings) if inside else load(name)(**settings)


def _number(value: Any) -> Any:
    parties = len(quadratics().data.a)
    return parties if isinstance(value, str) and len(value) == 1 else value


@law(object, when=lambda spec: _card(spec) is not None and bool(_card(spec).reduces_to))
def it_is_its_special_case(spec: Any, within: Federation | None) -> None:
    """Two runs on the quadratics, in the special case and as its target, end in the same bits."""
    one, slot = special(spec), slot_of(spec)
    two = target(one)
    if two is None or not slot:
        return
    fed = replace(within if within is not None else quadratics(), fold="fixed" if slot == "pace" else "float")
    a, b = play(replace(fed, **{slot: one})), play(replace(fed, **{slot: two}))
    hold(not a.failed, f"rounds failed: {a.failed}")
    hold(torch.equal(a.model, b.model), f"{one!r} gives {a.model.tolist()}, {two!r} {b.model.tolist()}")
    hold(
        [r.get("clients") for r in a.records] == [r.get("clients") for r in b.records],
        "other parties took part",
    )
