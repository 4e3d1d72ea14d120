"""`fedfm new SLOT NAME`: a method file that runs and keeps the laws from its first line, and its test."""

from __future__ import annotations

import dataclasses
import keyword
import re
import sys
from pathlib import Path
from typing import Any

from fedfm.cards.registry import SLOT_OF, methods
from fedfm.core.errors import ConfigError, Problem
from fedfm.core.federation import Federation
from fedfm.files import path as meant
from fedfm.scaffold.bodies import METHODS, Body
from fedfm.scaffold.facts import declared
from fedfm.scaffold.rooms import ROOMS
from fedfm.text import nearest

BODIES = {**METHODS, **ROOMS}
PACKAGE = Path(__file__).resolve().parents[1]

_METHOD = '''\
"""TITLE: say in a sentence what it is."""

from __future__ import annotations

IMPORTS

@method("NAME", slot="SLOT", section="SECTION", survey=(),
        paper="", departs="")
@dataclass(frozen=True)
class CLASS(BASE):
    """NOW

    Above stands the equation: write yours first, then code that looks like it. Here: arguments with range and unit,
    shapes, bytes a round, what it reduces to, and how it departs from the paper.
    """

CODE'''

_TEST = '''\
"""NAME keeps the laws of its slot; add what its numbers must be, with their derivation."""

from __future__ import annotations

IMPORTS


def test_it_keeps_the_laws() -> None:
    for spec in laws.examples(CLASS):
        laws.check(spec)
'''


_MARK = "# Begun by `fedfm new`, which adds each method that it writes here."
_MODULES = "py-modules = [\n"
_PROJECT = f"""\
{_MARK}
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "FOLDER-methods"
version = "0.1"

[tool.setuptools]
{_MODULES}]

[project.entry-points."fedfm.methods"]
"""


def new(slot: str, name: str, folder: str | Path = ".") -> list[Path]:
    """Write NAME.py and test_NAME.py for a method of `slot`; returns both paths.

    `name` is in kebab-case. Inside the package fedfm itself the test goes to that room of the checkout's
    `tests/`. Raises ConfigError with every problem: an unknown slot, a bad or taken name, a file that is there already.
    """
    here = meant(folder).resolve()
    stem, cls = name.replace("-", "_"), "".join(part.capitalize() for part in name.split("-"))
    inside = here == PACKAGE or PACKAGE in here.parents
    room = here.relative_to(PACKAGE).parts[:1] if inside else ()
    tests = (PACKAGE.parents[1] / "tests").joinpath(*room)
    paths = [here / f"{stem}.py", (tests if inside and tests.is_dir() else here) / f"test_{stem}.py"]
    slot = SLOT_OF.get(slot, slot)
    problems = _problems(slot, name, stem, cls, here, paths)
    if problems:
        raise ConfigError(problems)
    module = ".".join((*here.relative_to(PACKAGE.parent).parts, stem)) if inside else stem
    paths[0].write_text(_method(BODIES[slot], slot, name, cls), encoding="utf-8")
    lines = ["from fedfm import laws\n", f"from {module} import {cls}\n"]
    block = ("" if inside else "\n").join(lines)  # outside, a library and a module of one's own
    test = _TEST.replace("NAME", name).replace("IMPORTS\n", block).replace("CLASS", cls)
    paths[1].write_text(test, encoding="utf-8")
    return paths


def publish(name: str, paths: list[Path]) -> Path | None:
    """Write, or add to, the pyproject.toml that makes the files of `new` known by name; None if it is not ours to write.

    It is ours where no folder above has one, or the one beside the files is one that this function began.
    """
    here, stem = paths[0].resolve().parent, paths[0].stem
    if PACKAGE in paths[0].resolve().parents:
        return None
    path = here / "pyproject.toml"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if not text and any((parent / path.name).exists() for parent in here.parents):
        return None
    if text and not (text.startswith(_MARK) and _MODULES in text):
        return None
    text = text or _PROJECT.replace(
        "FOLDER", re.sub(r"[^a-z0-9]+", "-", here.name.lower()).strip("-") or "my"
    )
    text = text.replace(_MODULES, f'{_MODULES}    "{stem}",\n', 1)
    path.write_text(f'{text}{name} = "{stem}"\n', encoding="utf-8")
    return path


def hint(slot: str, name: str, paths: list[Path], published: Path | None = None) -> str:
    """What to do next with the files that `new` wrote."""
    stem = name.replace("-", "_")
    todo = f"python -m pytest {paths[1].name}   # the laws of its slot"
    if PACKAGE in paths[0].resolve().parents:
        return f"{todo}\nfedfm show {name}   # found by its card"
    if published is None:
        todo += (
            "\nTo use it by name, publish its module from your package, in its pyproject.toml, and install that again:"
            f'\n    [project.entry-points."fedfm.methods"]\n    {name} = "YOUR_PACKAGE.{stem}"'
        )
    else:
        todo += f"\npip install -e {published.parent}   # once, and again after the next `fedfm new`: known by its name"
    at = {"wire": "uplink"}.get(SLOT_OF.get(slot, slot), SLOT_OF.get(slot, slot))
    if at not in {f.name for f in dataclasses.fields(Federation)}:
        return f"{todo}\nfedfm show {name}"
    return f"{todo}\nfedfm check fedavg {at}={name}   # in a config file: `{at}: {name}`"


def _method(body: Body, slot: str, name: str, cls: str) -> str:
    at = ("from dataclasses import dataclass\n", *body.imports.splitlines(keepends=True))
    plain = sorted(
        (line for line in at if re.match(r"(import|from) (math|dataclasses|collections|typing)\b", line)),
        key=lambda line: (line.startswith("from"), line),
    )
    rest = "".join(line for line in at if line not in plain).strip("\n")
    words = {
        "TITLE": cls,
        "IMPORTS": f"{''.join(plain)}\n{rest}\n",
        "SECTION": body.section,
        "NOW": body.now,
        "CODE": _with_facts(body),
        "BASE": body.base,
        "SLOT": slot,
        "CLASS": cls,
        "NAME": name,
    }
    text = _METHOD
    for word, said in words.items():
        text = re.sub(rf"\b{word}\b", said.replace("\\", r"\\"), text)
    return text


def _with_facts(body: Body) -> str:
    """The body's code with all facts of its base: after the fields, before the functions."""
    scope: dict[str, Any] = {}
    exec(body.imports, scope)
    fields, functions = re.match(
        r"((?:    \w[^\n]*: [^\n]*knob\((?:[^\n]|\n     )*\n)*)\n?(.*)", body.code, re.S
    ).groups()  # type: ignore[union-attr]
    facts = declared(body.code, scope[body.base])
    return (fields + "\n" if fields else "") + facts + functions


def _problems(slot: str, name: str, stem: str, cls: str, folder: Path, paths: list[Path]) -> list[Problem]:
    found = []

    def no(where: str, what: str, why: str, fix: str) -> None:
        found.append(Problem(where, what, why, fix))

    if slot not in BODIES:
        no("SLOT", f"'{slot}' has no template", nearest(slot, BODIES), "use one of: " + ", ".join(BODIES))
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        no(
            "NAME",
            f"'{name}' is no name of a method",
            "names are in kebab-case",
            "write it like this: sign-scale",
        )
    elif keyword.iskeyword(stem) or stem in sys.stdlib_module_names:
        no(
            "NAME",
            f"{stem}.py would hide Python's own '{stem}'",
            "imports would find yours",
            "add a word to it",
        )
    elif slot in BODIES and re.search(rf"\b{cls}\b", BODIES[slot].imports):
        no(
            "NAME",
            f"the class would be called {cls}",
            "its file imports another one of that name",
            "add a word to it",
        )
    if name in methods():
        no("NAME", f"the name '{name}' is taken", f"{methods()[name].module} has it", "choose another name")
    if not folder.is_dir():
        no(
            "folder",
            f"there is no folder {folder}",
            "files are written into one that exists",
            "make it first",
        )
    for path in paths:
        if path.exists():
            no(
                "folder",
                f"{path.name} is there already",
                "nothing is overwritten",
                "choose another name or folder",
            )
    return found


__all__ = ["BODIES", "hint", "new", "publish"]
