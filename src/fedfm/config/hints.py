"""Where a misspelt or misplaced key belongs: the whole path, not only the nearest name beside it."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fedfm.cards.registry import load, methods
from fedfm.core.errors import FedfmError, Problem
from fedfm.core.federation import Federation
from fedfm.data.kinds import Group, Label
from fedfm.text import alien

EXPECTED = "is expected"  # ends why a value of another type is refused
SHORT = 3  # letters of a name that other keys hold by chance
UNKNOWN = "unknown key"  # begins what a problem of one says
OPTIONS = {  # of a command, not of a federation: what fedfm.run calls it
    "baselines": "baselines",
    "keep_rounds": "keep_rounds",
    "out": "out",
    "repeats": "",
    "strict": "strict",
    "tracker": "trackers",
}

ELSEWHERE = {  # what other libraries call a setting: scikit-learn, Keras
    **dict.fromkeys(
        ("test_size", "test_split", "val_split", "val_size", "validation_split"), "test_fraction"
    ),
}


def misspelt(problems: Iterable[Problem], config: Mapping[str, Any]) -> list[Problem]:
    """The problems, with a better hint for each key that is known somewhere else."""
    known: list[str] = []
    found = []
    for p in problems:
        if p.what.startswith(UNKNOWN) and (option := p.where.replace("-", "_")) in OPTIONS:
            why = "it says how to run, not what: a config does not hold it"
            fix = f"--{option.replace('_', '-')} on the command line"
            fix += f", or {OPTIONS[option]}= of fedfm.run" if OPTIONS[option] else ""
            p = dataclasses.replace(p, why=why, fix=fix)
        elif p.what.startswith(UNKNOWN):
            known = known or sorted(set(paths(config)))
            parent, _, last = p.where.replace("-", "_").rpartition(".")
            if (
                other := ".".join(filter(None, (parent, ELSEWHERE.get(last, ""))))
            ) != parent and other in known:
                p = dataclasses.replace(p, why=_ask([other]), fix=_filled(other))
            elif named := _worded(p.where, known):
                p = dataclasses.replace(p, why=_ask([named]), fix=_filled(named))
            else:
                p = dataclasses.replace(p, why=_hint(p, config, known) or p.why)
        found.append(p)
    return found


def paths(node: Any, where: str = "", cls: type | None = Federation) -> Iterator[str]:
    """Every dotted path that a config has or leaves to its default."""
    for field in [f for f in dataclasses.fields(cls) if f.init] if cls is not None else ():
        key = field.name
        at = f"{where}.{key}" if where else key
        yield at
        if not isinstance(node, Mapping):
            value = getattr(node, key, None)
        elif key in node or field.default_factory is dataclasses.MISSING:
            value = node.get(key)
        else:
            value = field.default_factory()  # a part that is not named is there all the same
        name = value.get("name") if isinstance(value, Mapping) else value
        if isinstance(name, str) and name in methods():
            yield from paths(value if isinstance(value, Mapping) else {}, at, load(name))
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from paths(value, at, type(value))
        elif isinstance(
            value, Mapping | list
        ):  # by names, as rules are, or one after the other, as in a pipe
            for named, v in value.items() if isinstance(value, Mapping) else enumerate(value):
                if isinstance(v, Mapping) and str(v.get("name")) in methods() and "." not in str(named):
                    yield from paths(v, f"{at}.{named}", load(v["name"]))


def _hint(p: Problem, config: Mapping[str, Any], known: list[str]) -> str:
    wanted = p.where
    node: Any = config
    for key in p.where.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    while (
        isinstance(node, Mapping) and len(node) == 1 and "name" not in node
    ):  # made on the way by a dotted path
        ((key, node),) = node.items()
        wanted += f".{key}"
    parent, _, last = p.where.rpartition(".")
    if exact := [k for k in known if k.endswith(f".{wanted}")]:
        return _ask(exact)
    if inside := [k for k in known if parent and k.startswith(f"{parent}.") and k.endswith(f".{last}")]:
        return _ask(inside)
    here = [k for k in known if k.rpartition(".")[0] == parent]
    if difflib.get_close_matches(p.where, here, n=1, cutoff=0.75):
        return ""  # the name beside it is near
    if having := [n for n in _beside(config, parent) if last in fields_of(n)]:
        return f"{' and '.join(having[:3])} has it: set {parent}={having[0]}"
    names = {k.rpartition(".")[2] for k in known}
    if near := difflib.get_close_matches(wanted.rpartition(".")[2], names, n=1, cutoff=0.8):
        return _ask([k for k in known if k.rpartition(".")[2] == near[0] and k != p.where]) + alien(
            last, near[0]
        )
    return ""


def _worded(where: str, known: list[str]) -> str:
    """The setting here or further inside whose name is a word of this key, as other tools add units to it: warmup_steps."""
    parent, _, key = where.rpartition(".")
    words = key.lower().replace("-", "_").split("_")
    for word in words[: len(words) - 1]:  # the last one is the unit, or the thing itself
        inside = [k for k in known if k.startswith(f"{parent}." * bool(parent)) and k.endswith(f".{word}")]
        if len(word) > SHORT and inside:
            return min(inside, key=lambda k: k.count("."))
    return ""


def _filled(path: str) -> str:
    """The setting at this path with what its value counts, and the other methods of its slot that have it."""
    parent, _, last = path.rpartition(".")
    slot = parent.rpartition(".")[2]
    having = [n for n, c in methods().items() if slot in c.slots and last in fields_of(n)]
    doc = next(
        (d for n in having for f in dataclasses.fields(load(n)) if f.name == last and (d := said(f))), ""
    )
    first = doc.partition(" ")[0]
    unit = first.upper() if first.endswith("s") else "VALUE"
    others = "".join(f", or {parent}={{name: {n}, {last}: {unit}}}" for n in having[1:])
    return f"{path}={unit}{others}" + f" ({doc})" * bool(doc)


def said(f: dataclasses.Field[Any]) -> str:
    """What a field is, in the words that its owner gave."""
    return str(f.metadata.get("doc") or "")


def told(problems: list[Problem], since: int, f: dataclasses.Field[Any], where: str) -> None:
    """Say what a field is, so in what unit, where a value of another type was given to it."""
    for i, p in enumerate(problems[since:], since):
        if p.where == where and p.fix.startswith("give ") and p.why.endswith(EXPECTED) and said(f):
            problems[i] = dataclasses.replace(p, fix=f"{p.fix} ({said(f)})")


def _ask(found: list[str]) -> str:
    return "did you mean " + " or ".join(f"'{k}'" for k in found[:3]) + "?"


def _beside(config: Mapping[str, Any], parent: str) -> list[str]:
    """The other methods that could stand where `parent` stands."""
    node: Any = config
    for key in filter(None, parent.split(".")):
        node = node.get(key) if isinstance(node, Mapping) else None
    name = node.get("name") if isinstance(node, Mapping) else None
    if not isinstance(name, str) or name not in methods():
        return []
    slots, reads = set(methods()[name].slots), _reads(name)
    others = [n for n, c in methods().items() if slots & set(c.slots) and n != name]
    return [n for n in others if not reads or reads & _reads(n)]


def _reads(name: str) -> set[type]:
    """The kinds of columns that a task reads besides names: one for texts cannot stand where pictures are."""
    columns = getattr(load(name), "columns", ())
    return {type(c.kind) for c in columns} - {Label, Group} if isinstance(columns, tuple) else set()


def fields_of(name: str) -> set[str]:
    try:
        return {f.name for f in dataclasses.fields(load(name))}
    except (FedfmError, ImportError):
        return set()
