"""Strings that name something: parties, phases and tensors that a federation does not have are problems."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fedfm.cards.knobs import settings
from fedfm.core.errors import Problem
from fedfm.core.federation import Federation
from fedfm.core.job import UPLOAD
from fedfm.text import nearest
from fedfm.vectors.layout import Layout
from fedfm.vectors.patterns import matches


def strange(fed: Federation, parties: Iterable[str], layout: Layout | None = None) -> list[Problem]:
    """Every name in a setting that nobody bears; those of tensors, once the model's `layout` is known.

    Which fields hold names is their own fact: `knob(names=...)`.
    """
    phases = dict.fromkeys((*fed.uplink.phases, *fed.serving.phases, UPLOAD))
    ids = list(parties)
    there = {"party": ids, "phase": list(phases), "parties": ids, "some parties": ids}
    found = list(_walk(fed, "", {k: v for k, v in there.items() if v}))
    if layout is not None:  # what travels up is not what travels down
        ways = ("uplink", fed.uplink, fed.client.gives), ("downlink", fed.downlink, fed.serving.gives)
        for slot, wire, gives in ways:
            names = [e.name for e in gives(layout).trained.entries]
            found += _walk(wire, slot, {"tensor": names, "tensors": names})
    return list(dict.fromkeys(found))


def _walk(spec: Any, where: str, there: Mapping[str, Sequence[str]]) -> Iterator[Problem]:
    for at, owner, f, value in settings(spec, where):
        if names := f.metadata.get("names"):
            acts = f.metadata.get("only")  # what has no effect anyway is another problem
            if not acts or getattr(owner, acts[0].partition(".")[0], True):
                yield from _field(value, names, at, there)


def _field(
    value: Any, names: str | tuple[str, str], at: str, there: Mapping[str, Sequence[str]]
) -> Iterator[Problem]:
    """One field's names: of a string, a list, or the keys and values of a mapping."""
    if not isinstance(value, Mapping):
        several = [value] if isinstance(value, str) else list(value or ())
        yield from (p for v in several if isinstance(v, str) for p in _one(v, str(names), at, there))
        return
    of_keys, of_values = names if isinstance(names, tuple) else (names, "")
    for key, inner in value.items():
        yield from _one(str(key), of_keys, f"{at}.{key}", there)
        if isinstance(inner, str):
            yield from _one(inner, of_values, f"{at}.{key}", there)
    if of_keys.endswith("s"):
        yield from _overtaken([str(key) for key in value], of_keys, at, there.get(of_keys))
    if of_keys in ("parties", "tensors") and value and of_keys in there:  # patterns must reach everybody
        left = [n for n in there[of_keys] if not any(matches(p, n) for p in value)]
        if left:
            what = f"no pattern matches {', '.join(left[:3])}" + (
                f" and {len(left) - 3} more" if left[3:] else ""
            )
            yield Problem(
                at, what, f"the patterns are {', '.join(map(str, value))}", "add '*' as the last one"
            )


def _overtaken(patterns: list[str], sort: str, at: str, known: Sequence[str] | None) -> Iterator[Problem]:
    """Rules that never act: all that they fit is taken by those before them. A closing '*' may wait for nobody."""
    for k, name in enumerate(patterns):
        before = patterns[:k]
        if known is None:
            takers, spoilt = [p for p in before if _covers(p, name)][:1], False
        else:
            fits = {n for n in known if matches(name, n)}
            of = {n: next((p for p in before if matches(p, n)), "") for n in known}
            takers = [p for p in before if any(of[n] == p for n in fits)] if all(of[n] for n in fits) else []
            spoilt = any(all(n in fits for n in known if of[n] == p) for p in takers)  # these would be next
        if name == "*" or not takers:
            continue
        first = before.index(takers[0])
        order = ", ".join(f"'{p}': ..." for p in (*before[:first], name, *before[first:], *patterns[k + 1 :]))
        yield Problem(
            f"{at}.{name}",
            f"'{name}' never acts: {' and '.join(repr(p) for p in takers[:3])}{' and others' if takers[3:] else ''} "
            f"{'stand' if takers[1:] else 'stands'} before it and {'take' if takers[1:] else 'takes'} every "
            f"{'tensor' if sort == 'tensors' else 'party'} that it fits",
            "the first pattern that fits wins",
            "drop it: each of these has a rule of its own"
            if spoilt
            else f"the narrower one first: {{{order}}}",
        )


def _covers(wide: str, narrow: str) -> bool:
    """Every name that `narrow` fits is fitted by `wide`, whatever names there are; false where that is not plain."""
    return not set(wide) & set("?[") and "[" not in narrow and matches(wide, narrow)


def _one(name: str, sort: str, at: str, there: Mapping[str, Sequence[str]]) -> Iterator[Problem]:
    known = there.get(sort)
    if known is None or (sort == "phase" and not name):
        return
    if sort.endswith("s"):
        if name != "*" and not any(matches(name, n) for n in known):
            kind = "tensor" if sort == "tensors" else "party"
            yield Problem(
                at, f"'{name}' matches no {kind}", nearest(name, known), f"correct the pattern, or drop {at}"
            )
    elif name not in known:
        yield Problem(
            at, f"there is no {sort} '{name}'", nearest(name, known), f"correct the name, or drop {at}"
        )
