"""From plain data to the Python object (`fedfm.config.text` reads YAML, `fedfm.config.record` goes the other way).

A config is `recipe: NAME` plus overrides, or a whole federation; a slot's value is `{name: topk, fraction: 0.01}`,
a list of those is a pipe, null is the identity. From Python any value may be the object itself. Unknown keys, wrong
types and values out of range are problems that name the nearest valid key; all are collected before anything is raised.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedfm.cards.registry import SLOT_OF, load, methods
from fedfm.config.compose import Opened
from fedfm.config.hints import EXPECTED, SHORT, UNKNOWN, misspelt, told
from fedfm.config.limits import out_of_range, unfit
from fedfm.config.marker import live, plain_scalar, refusal
from fedfm.config.stages import completed
from fedfm.config.yaml import numeral
from fedfm.core.combine import Pipe
from fedfm.core.errors import ConfigError, Problem
from fedfm.core.federation import Federation
from fedfm.core.protocols import Aggregator, Client, Task, Wire
from fedfm.text import nearest

_SCALARS: dict[Any, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}
_LISTS = (tuple, list, Sequence)
TOLD = 100  # problems
_HOLDERS = (*_LISTS, dict, Mapping)


def from_config(config: Mapping[str, Any]) -> Federation:
    """Build the federation; raises ConfigError with every problem found."""
    problems = _Told()
    try:
        fed: Federation = _fields(Federation, completed(config, problems), "", problems)
    except _Enough:
        what, why = f"more than {TOLD} problems", f"the first {TOLD} are told"
        rest = Problem("the config", what, why, "mend these, and ask again")
        raise ConfigError([*misspelt(problems[:TOLD], config), rest]) from None
    if problems:
        raise ConfigError(misspelt(problems, config))
    return fed


class _Enough(Exception):
    """Nobody reads more problems, and each costs a search for what was meant."""


class _Told(list[Problem]):
    def append(self, problem: Problem) -> None:
        self += [problem]

    def __iadd__(self, more: Iterable[Problem]) -> _Told:  # type: ignore[override,misc]
        super().extend(more)
        if len(self) > TOLD:
            raise _Enough
        return self


def build(hint: Any, value: Any, where: str, problems: list[Problem], slot: str = "") -> Any:
    """What the type `hint` of a field asks for, from plain data; adds to `problems` what is wrong with it."""
    value = plain_scalar(value)
    args = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    plain = (*_SCALARS, *_HOLDERS, type(None), object, Any)
    specs = tuple(h for h in args if isinstance(h, type) and h not in plain)
    kinds = {typing.get_origin(h) or h for h in args}
    if live(value) or isinstance(value, Opened):
        return _live(args, value, where, problems, slot)
    if value is None and type(None) in args:
        return None
    if (
        value is None
        and specs
        and specs[0].__module__.startswith("fedfm.core.protocols")
        and specs[0] not in (Task, Client, Aggregator)
    ):
        return specs[0]()
    if Federation in specs and isinstance(value, Mapping):  # a stage
        return _fields(Federation, value, where, problems)
    if isinstance(value, list | tuple) and Wire in specs:
        return Pipe(*(build(Wire, stage, f"{where}.{i}", problems, "wire") for i, stage in enumerate(value)))
    if isinstance(value, dict) and isinstance(value.get("object"), str):
        problems.append(refusal(where, value["object"]))
        return None
    if specs or slot or (Any in kinds and isinstance(value, dict) and "name" in value):
        named = {"name": value} if isinstance(value, str) else value
        return _spec(specs, named, where, problems, SLOT_OF.get(slot, slot))
    if isinstance(value, dict) and kinds & {dict, Mapping, Any}:
        inner = (*next((i for h in args if (i := typing.get_args(h))), ()), Any, Any)[1]
        return {k: build(inner, v, f"{where}.{k}", problems) for k, v in value.items()}
    if isinstance(value, list | tuple) and kinds & {*_LISTS, Any}:
        of = next(
            (i for h in args if typing.get_origin(h) in _LISTS and (i := typing.get_args(h))), (Any, ...)
        )
        each = of if len(of) == len(value) and ... not in of else (of[0],) * len(value)
        made = [
            build(h, v, f"{where}.{i}", problems) for i, (h, v) in enumerate(zip(each, value, strict=True))
        ]
        return made if list in kinds else tuple(made)
    wanted = [h for h in args if h in _SCALARS]
    if float in wanted and str not in wanted and isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        with contextlib.suppress(ValueError):
            value = float(numeral(value))
    if not kinds & {Any, typing.Literal} and not any(type(value) in _SCALARS[h] for h in wanted):
        named = sorted(kinds, key=lambda h: h.__name__)
        expected = " or ".join("null" if h is type(None) else h.__name__ for h in named)
        what = f"{str(value)[:80]!r} is {type(value).__name__}"
        if value is None:
            what = "nothing is given (null, or nothing behind the =)"
        problems.append(
            Problem(where, what, f"{expected} {EXPECTED}", _written(value, kinds, where, expected))
        )
    if float in wanted and int not in wanted and type(value) is int:
        with contextlib.suppress(OverflowError):  # its size is a problem of its own
            value = float(value)
    return value


SAID = {"yes": True, "y": True, "on": True, "1": True, "no": False, "n": False, "off": False, "0": False}


def _written(value: Any, kinds: Any, where: str, expected: str) -> str:
    """How it is to be written, where that can be told from what was."""
    if tuple in kinds and isinstance(value, str):
        parts = ", ".join(p.strip(" '\"") for p in value.strip("[]() ").split(","))
        return f"a list: '{where}=[{parts}]'"
    if type(None) in kinds and str(value).strip() == "None":
        return f"{where}=null"
    if bool in kinds and str(value).strip().lower() in SAID:
        return f"{where}={str(SAID[str(value).strip().lower()]).lower()}"
    if kinds & {int, float} and isinstance(value, str):
        with contextlib.suppress(ValueError):  # as Python alone reads it
            return f"{where}={float(value):.15g}, in digits alone"
    if int in kinds and isinstance(value, float) and value.is_integer():
        return f"{where}={int(value)}"
    return f"give {expected}"


def _live(args: tuple[Any, ...], value: Any, where: str, problems: list[Problem], slot: str) -> Any:
    """An object that was given: it stands here itself if it can stand here."""
    made = value.was if isinstance(value, Opened) else value
    closed = all(
        isinstance(h, type) and typing.get_origin(h) is None and h not in (object, Any) for h in args
    )
    wanted = tuple(h for h in args if h is not type(None)) if closed else ()
    words = " or ".join(h.__name__ for h in wanted) or f"what fills '{slot}'"
    of_slot = f" --slot {SLOT_OF.get(slot, slot)}" if slot else ""
    if isinstance(made, type) and (wanted or slot):
        fix = f"make one: {made.__name__}(...)"
        problems.append(Problem(where, f"{made.__name__} is a class", "an object of it is expected", fix))
    elif wanted and not _is_one(made, wanted):
        fix = f"give {words}" + (f"; fedfm list{of_slot} shows what there is" if slot else "")
        if any(c.__module__.startswith("torch.nn") for c in type(made).__mro__):
            fix = "wrap it: task=fedfm.Torch(module, ...)"
        what = f"{type(made).__name__} cannot stand here"
        problems.append(Problem(where, what, f"it is no {words}", fix))
    elif isinstance(value, Opened) and value.changed:
        return _fields(type(made), value, where, problems)
    else:
        examine(made, where, problems)
    return made


def _is_one(value: Any, wanted: tuple[type, ...]) -> bool:
    try:
        return isinstance(value, wanted)
    except TypeError:  # a protocol that cannot be asked
        return True


def examine(spec: Any, where: str, problems: list[Problem]) -> None:
    """Add what is wrong with an object that somebody made, and with what is inside it."""
    if (
        not dataclasses.is_dataclass(spec)
        or isinstance(spec, type)
        or type(spec).__module__.startswith("fedfm.core.protocols")
    ):
        return
    hints, slots = hints_of(type(spec)), _slots()
    given = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec) if f.init}
    for f in dataclasses.fields(spec):
        if f.init and f.repr:
            at = f"{where}.{f.name}" if where else f.name
            slot = f.name if f.name in slots else ""
            since = len(problems)
            meant = build(hints.get(f.name, Any), given[f.name], at, problems, slot)
            told(problems, since, f, at)
            if (said := _as_text(given[f.name], meant)) is not None:  # an object keeps its text
                fix = f"{f.name}={float(said):g}, as a number"
                problems.append(Problem(at, f"{said!r} is text", "a number is expected", fix))
                continue
            problems += out_of_range(f, given[f.name], at)
    problems += unfit(type(spec), given, where)


def _as_text(given: Any, meant: Any) -> str | None:
    """The first text in a value that was read as a number."""
    if isinstance(given, str):
        return given if isinstance(meant, float) else None
    if isinstance(given, Mapping) and isinstance(meant, Mapping):
        pairs = [(v, meant.get(k)) for k, v in given.items()]
    elif isinstance(given, list | tuple) and isinstance(meant, list | tuple):
        pairs = list(zip(given, meant, strict=False))
    else:
        return None
    return next((found for g, m in pairs if (found := _as_text(g, m)) is not None), None)


def _spec(specs: tuple[type, ...], value: Any, where: str, problems: list[Problem], slot: str) -> Any:
    """A method (of one of the classes `specs`, if any) from its mapping."""
    before, of_slot = len(problems), f" --slot {slot}" if slot else ""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        what = f"{value if value is None else str(value)[:80]} names no method"
        fix = f"{{name: ..., ...}}; fedfm list{of_slot} shows the names"
        problems.append(Problem(where, what, "a method is a mapping with a name", fix))
        return None
    try:
        cls = load(value["name"], slot or None)
    except ConfigError as e:
        asked, *others = e.problems  # the others keep cards from being read, each where it says
        if value["name"] == "None":
            asked = dataclasses.replace(asked, why="nothing is written null", fix=f"{where}=null")
        problems += [dataclasses.replace(asked, where=where), *others]
        return None
    built = _fields(cls, {k: v for k, v in value.items() if k != "name"}, where, problems)
    if len(problems) == before and specs and not isinstance(built, specs):
        fitting = [n for n in methods() if isinstance(load(n), type) and issubclass(load(n), specs)]
        what = f"'{value['name']}' cannot stand here"
        fix = "use one of: " + ", ".join(fitting)
        problems.append(Problem(where, what, f"it is no {specs[0].__name__}", fix))
    return built


def _meant(key: str, known: Mapping[str, dataclasses.Field[Any]]) -> str:
    """The one key whose description begins with the words of this one (`learning_rate`: lr), else the nearest."""
    words = " ".join(re.findall(r"[a-z]+", key.lower()))
    begins = re.compile(rf"{re.escape(words)}\b")
    of_words = [
        n for n, f in known.items() if len(words) > SHORT and begins.match(str(f.metadata.get("doc", "")))
    ]
    return f"did you mean '{of_words[0]}'?" if len(of_words) == 1 else nearest(key, known)


def _fields(cls: Any, config: Mapping[str, Any], where: str, problems: list[Problem]) -> Any:
    hints = hints_of(cls)
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}
    slots = _slots()
    given: dict[str, Any] = {}
    before = len(problems)
    for key, value in config.items():
        at = f"{where}.{key}" if where else str(key) or "''"
        if key == "recipe" and cls is Federation:
            continue
        if key not in known:
            fix = "rename or remove it"
            problems.append(Problem(at, f"{UNKNOWN} '{key}'", _meant(str(key), known), fix))
            continue
        since = len(problems)
        given[key] = build(hints.get(key, Any), value, at, problems, key if key in slots else "")
        told(problems, since, known[key], at)
        if isinstance(config, Opened) and value is getattr(config.was, key, None):
            given[key] = value  # nobody touched it
        problems += out_of_range(known[key], given[key], at)
    problems += unfit(cls, given, where)
    for name, f in known.items():
        if f.default is f.default_factory and name not in given:  # both missing
            at = f"{where}.{name}" if where else name
            problems.append(Problem(at, "is missing", "it has no default", "set it"))
    if len(problems) > before:
        return None
    if isinstance(config, Opened) and not config.changed:
        return config.was
    try:
        return cls(**given)
    except (ValueError, TypeError, OverflowError) as e:
        what = f"{vars(cls).get('method_name') or cls.__name__} does not take these values"
        problems.append(Problem(where or "federation", what, str(e) or type(e).__name__, "change them"))
        return None


def _slots() -> set[str]:
    return {*SLOT_OF, *(s for c in methods().values() for s in c.slots)}


@functools.cache
def hints_of(cls: Any) -> dict[str, Any]:
    """The types of a class's fields; Any where an annotation names what only a function knew."""
    try:
        return typing.get_type_hints(cls)
    except NameError:
        found: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            scope = {**vars(typing), **vars(sys.modules.get(base.__module__, types)), **vars(base)}
            for name, text in vars(base).get("__annotations__", {}).items():
                try:
                    found[name] = eval(text, scope) if isinstance(text, str) else text
                except Exception:  # an annotation of a stranger
                    found[name] = Any
        return found
