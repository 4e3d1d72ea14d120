"""Laws of every spec: a frozen record that prints, compares, serialises and explains itself; and of partitions."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from fedfm.cards.registry import load, methods, registered
from fedfm.checks.inherited import passed, stated
from fedfm.config.building import build, from_config
from fedfm.config.limits import out_of_range, unfit
from fedfm.config.record import to_config
from fedfm.config.text import dump, parse
from fedfm.core.errors import Problem
from fedfm.core.federation import Federation
from fedfm.core.protocols import Slot
from fedfm.data.source import Partition
from fedfm.laws.homes import quadratics, slot_of
from fedfm.laws.law import hold, law


def _registered(spec: Any) -> bool:
    return registered(type(spec)) is not None


@law(object)
def it_is_a_frozen_dataclass(spec: Any, within: Federation | None) -> None:
    """Fields only: nothing changes after construction."""
    own = "__dataclass_fields__" in vars(type(spec)) or type(spec).__module__.startswith(
        "fedfm.core.protocols"
    )  # an identity has no fields
    hold(own, "put @dataclass(frozen=True) above the class")
    hold(bool(type(spec).__dataclass_params__.frozen), "the dataclass is not frozen")


@law(object)
def it_equals_its_like_and_hashes_alike(spec: Any, within: Federation | None) -> None:
    """Equal fields make equal specs; where all fields are hashable, equal hashes too."""
    if any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(type(spec)).parameters.values()):
        again = type(spec)(*spec.stages)
    else:
        again = dataclasses.replace(spec)
    hold(again == spec, f"{again!r} != {spec!r}: it must be equal by fields (dataclass eq)")
    try:
        number = hash(spec)
    except TypeError:
        return  # a field is a mapping
    hold(number == hash(again), "equal specs, different hashes")


@law(object, when=lambda spec: isinstance(spec, Slot))
def a_fact_behind_a_guarantee_is_of_the_method_that_it_speaks_of(
    spec: Any, within: Federation | None
) -> None:
    """Who overrides a method states anew what a guarantee reads of it: what a base class says is of its own."""
    facts = passed(type(spec))
    hold(not facts, f"facts of methods that it has replaced; if they are still true: {stated(facts)}")


@law(object, when=_registered)
def its_repr_is_the_expression_that_makes_it(spec: Any, within: Federation | None) -> None:
    """`eval(repr(x)) == x` with the registered classes in scope."""
    names: dict[str, Any] = {c.qualname: load(c.name) for c in methods().values()}
    names |= {base.__name__: base for cls in (*names.values(), type(spec)) for base in cls.__mro__}
    try:
        again = eval(repr(spec), names)  # noqa: S307 - the repr of our own spec
    except Exception as e:  # noqa: BLE001
        raise AssertionError(f"{spec!r} is no expression: {type(e).__name__}: {e}") from e
    hold(again == spec, f"{spec!r} evaluates to {again!r}")


@law(object, when=_registered)
def its_config_makes_it_again(spec: Any, within: Federation | None) -> None:
    """Spec -> plain data -> YAML -> plain data -> spec is the identity."""
    slot = slot_of(spec)
    fed = quadratics(**({slot: spec} if slot else {}))
    plain = to_config(fed)
    if not slot:  # a part of a slot
        plain["part"] = to_config(spec)
    read = parse(dump(plain), "the law")
    hold(read == plain, f"YAML changes {plain.get(slot or 'part')} to {read.get(slot or 'part')}")
    problems: list[Problem] = []
    part = read.pop("part", None)
    got = getattr(from_config(read), slot) if slot else build(type(spec), part, "part", problems)
    hold(not problems, "; ".join(map(str, problems)))
    hold(got == spec, f"the config gives {got!r}")
    hold(to_config(got) == to_config(spec), "the config of the config differs")


@law(object)
def it_says_what_it_is(spec: Any, within: Federation | None) -> None:
    """The docstring opens with one line that ends in a full stop (or goes on to an equation with a colon)."""
    text = type(spec).__dict__.get("__doc__") or ""
    first = text.strip().split("\n")[0].strip()
    hold(
        bool(text) and not text.startswith(type(spec).__name__ + "("), "the class has no docstring of its own"
    )
    hold(first.endswith((".", ":")) and " " in first, f"'{first}' is no sentence")


@law(object)
def every_field_says_what_it_is(spec: Any, within: Federation | None) -> None:
    """Each field is a `knob` with its sentence, and its default lies in the declared range."""
    for f in dataclasses.fields(spec):
        if not f.init or "rules" in f.name or "stages" in f.name:
            continue  # the combinators explain their one field in the docstring
        hold(
            bool(f.metadata.get("doc", "").strip()),
            f"the field '{f.name}' has no sentence: declare it with knob()",
        )
        for problem in out_of_range(f, getattr(spec, f.name), f.name):
            hold(False, str(problem))
    for problem in unfit(type(spec), {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)}, "it"):
        hold(False, str(problem))


# ---- partitions -----------------------------------------------------------------------------------------------
ROWS = 120
LABELS = [f"c{i * 7 % 5}" for i in range(ROWS)]


def _dealt(spec: Any, seed: int) -> dict[str, list[int]]:
    rows = [{"text": f"row {i}", "label": label, "field": label} for i, label in enumerate(LABELS)]
    found: dict[str, list[int]] = spec.split(rows, LABELS, seed)
    return found


def _tried(spec: Any) -> bool:
    """A spec that names a column of its own cannot be tried on rows that lack it."""
    return getattr(spec, "field", "label") in ("label", "field")


@law(Partition, when=_tried)
def nobody_has_a_row_twice_and_nobody_has_none(spec: Any, within: Federation | None) -> None:
    """Row numbers are plain, ascending, of the pool, of one party each; every party has some."""
    for seed in range(3):
        dealt = _dealt(spec, seed)
        all_ = [i for part in dealt.values() for i in part]
        hold(bool(dealt) and all(dealt.values()), "a party without a row")
        hold(all(type(i) is int and 0 <= i < ROWS for i in all_), "a row number that is none")
        hold(len(set(all_)) == len(all_), "a row of two parties")
        hold(all(part == sorted(part) for part in dealt.values()), "row numbers must ascend")


@law(Partition, when=lambda spec: spec.whole and _tried(spec))
def whole_means_every_row(spec: Any, within: Federation | None) -> None:
    """A partition that declares `whole` deals every row to somebody."""
    left = ROWS - sum(map(len, _dealt(spec, 0).values()))
    hold(left == 0, f"{left} of {ROWS} rows are dealt to nobody; declare whole = False")


@law(Partition, when=_tried)
def one_seed_is_one_deal(spec: Any, within: Federation | None) -> None:
    """The same seed deals the same rows, in the same order of parties."""
    one, two = _dealt(spec, 5), _dealt(spec, 5)
    hold(list(one.items()) == list(two.items()), "the same seed gave another deal")
