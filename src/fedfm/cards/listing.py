"""Cards of what is not imported: read from source with `ast`, so that `fedfm list` imports nothing.

These are fedfm's own methods, and modules that third parties publish through the entry-point group `fedfm.methods`.
A source that cannot be read, or a card that is wrong, is a `Problem`, and no obstacle to all others.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import importlib.metadata
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedfm.core.errors import Problem
from fedfm.text import nearest

SLOT_OF = {
    "uplink": "wire",
    "downlink": "wire",
    "talk": "wire",
}  # slots of a federation that one kind of method fills
_SECTION = re.compile(r"(own|core|[IVX]+(\.[A-Z])?(\.[0-9]+)?)(/[IVX]+(\.[A-Z])?(\.[0-9]+)?)*")
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


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
    also: tuple[str, ...] = ()  # what others call it: the answer to a name that is not known here

    @property
    def slot(self) -> str:
        return "/".join(self.slots)


def card_of(
    doc: str | None, name: Any, kind: str, slot: Any, module: str, qualname: str, **more: Any
) -> Card:
    slots: tuple[Any, ...] = slot if isinstance(slot, tuple) else (slot,)
    slots = tuple(SLOT_OF.get(s, s) for s in slots)
    return Card(name, kind, slots, module, qualname, inspect.cleandoc(doc or "").split("\n")[0], **more)


def faults_of(card: Card, where: str) -> Iterator[Problem]:
    """What is wrong with a card by itself."""

    def wrong(what: str, why: str, fix: str) -> Problem:
        return Problem(where, f"the card of '{card.name}': {what}", why, fix)

    if not isinstance(card.name, str) or not _NAME.fullmatch(card.name):
        yield wrong(
            "its name is no name of a method", "names are in kebab-case", "write it like this: sign-scale"
        )
    if not isinstance(card.section, str) or not _SECTION.fullmatch(card.section):
        yield wrong(
            f"{card.section!r} is no section", 'sections read "IV.C"; your own: "own"', "correct the section"
        )
    if not isinstance(card.survey, tuple) or not all(type(n) is int and n > 0 for n in card.survey):
        yield wrong("survey is no tuple of numbers", "it holds the survey's references", "e.g. survey=(25,)")
    if not isinstance(card.also, tuple) or not all(
        isinstance(a, str) and _NAME.fullmatch(a) for a in card.also
    ):
        yield wrong("also is no tuple of names", f"it is {card.also!r}", 'e.g. also=("multi-krum",)')
    for key in ("paper", "reduces_to", "departs"):
        if not isinstance(getattr(card, key), str):
            yield wrong(f"{key} is no text", f"it is {getattr(card, key)!r}", "put it in quotation marks")
    for slot in card.slots:
        known = {s for c in packaged()[0] for s in c.slots} if not card.module.startswith("fedfm.") else ()
        if not isinstance(slot, str) or (
            slot not in known and difflib.get_close_matches(slot, known, n=1, cutoff=0.8)
        ):
            yield wrong(f"there is no slot {slot!r}", nearest(str(slot), known), "correct the slot")


def clashes(card: Card, others: list[Card] | tuple[Card, ...]) -> Iterator[Problem]:
    """Other methods of this name, or of this class name (`fedfm.NAME` could mean either)."""
    for other in others:
        if (other.name, other.kind) == (card.name, card.kind):
            what, fix = f"the name '{card.name}' is taken", f"give the {card.kind} another name"
        elif (
            card.kind == other.kind == "method"
            and card.qualname == other.qualname
            and "." not in card.qualname
        ):
            what, fix = f"a class named {card.qualname} is registered", "give the class another name"
        else:
            continue
        yield Problem(f"{card.module}.{card.qualname}", what, f"{other.module} has it ('{other.name}')", fix)


@functools.cache
def packaged() -> tuple[tuple[Card, ...], tuple[Problem, ...]]:
    """The cards of fedfm itself, and what is wrong with them."""
    root = Path(__file__).resolve().parents[1]
    sources = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        sources.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return _scan(sources, ())


@functools.cache
def published() -> tuple[tuple[Card, ...], tuple[Problem, ...]]:
    """The cards of modules that other packages publish."""
    sources, faults = [], []
    for entry in importlib.metadata.entry_points(group="fedfm.methods"):
        try:
            spec = importlib.util.find_spec(entry.module)
        except ModuleNotFoundError:  # an entry point whose package is gone
            continue
        except Exception as e:
            fix = "mend or remove that package"
            faults.append(
                Problem(entry.module, "its package cannot be imported", f"{type(e).__name__}: {e}", fix)
            )
            continue
        if spec is not None and (spec.origin or "").endswith(".py"):
            sources.append((entry.module, Path(str(spec.origin))))
    found, more = _scan(sources, packaged()[0])
    return found, (*faults, *more)


def _scan(
    sources: list[tuple[str, Path]], others: tuple[Card, ...]
) -> tuple[tuple[Card, ...], tuple[Problem, ...]]:
    found: list[Card] = []
    faults: list[Problem] = []
    for module, path in dict(sources).items():
        try:
            text = path.read_text(encoding="utf-8")
            read = (
                list(_read(module, ast.parse(text), path)) if "method(" in text or "recipe(" in text else []
            )
        except (OSError, ValueError, SyntaxError) as e:
            faults.append(Problem(str(path), "this source cannot be read", str(e), "mend it"))
            continue
        for card in read:
            wrong = (
                [card]
                if isinstance(card, Problem)
                else [*faults_of(card, str(path)), *clashes(card, [*others, *found])]
            )
            faults += wrong
            found += [] if wrong else [card]  # type: ignore[list-item]
    return tuple(found), tuple(faults)


def _read(module: str, tree: ast.Module, path: Path) -> Iterator[Card | Problem]:
    """The cards of a module's classes (also of classes inside them) and functions; not of what a function makes."""
    inside: list[tuple[str, ast.stmt]] = [("", node) for node in tree.body]
    for prefix, node in inside:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef):
            continue
        qualname = prefix + node.name
        if isinstance(node, ast.ClassDef):
            inside += [(f"{qualname}.", n) for n in node.body]
        for call in node.decorator_list:
            if not isinstance(call, ast.Call):
                continue
            kind = getattr(call.func, "id", getattr(call.func, "attr", ""))  # @method, @fedfm.method
            if kind not in ("method", "recipe"):
                continue
            try:
                args = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg}
                name = ast.literal_eval(call.args[0]) if call.args else args.pop("name")
                slot, section = args.pop("slot", "recipe"), args.pop("section", "own")
                yield card_of(
                    ast.get_docstring(node), name, kind, slot, module, qualname, section=section, **args
                )
            except (ValueError, KeyError, TypeError, IndexError) as e:
                where = f"{path}:{call.lineno}"
                why = f"cards are read without import, so their arguments are literals ({e})"
                fix = "write the value itself; the method can be used as soon as its module is imported"
                yield Problem(where, f"the card of {qualname} cannot be read", why, fix)
