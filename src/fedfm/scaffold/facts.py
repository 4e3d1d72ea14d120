"""The facts of a slot, read from its base class: name, default and meaning, so that a template follows the base."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass

from fedfm.around import KEPT

WIDTH = 110  # of a line


@dataclass(frozen=True)
class Fact:
    """One class attribute (or property) of a base class that `check`, the loop and the laws read."""

    name: str
    default: str  # as it is written; empty for a property
    meaning: str


def facts(base: type) -> list[Fact]:
    """The facts of `base` and of what it inherits within fedfm, each once, the slot's own first."""
    found: dict[str, Fact] = {}
    for cls in base.__mro__:
        if cls.__module__.startswith("fedfm."):
            for fact in _own(cls):
                found.setdefault(fact.name, fact)
    return list(found.values())


def declared(code: str, base: type) -> str:
    """The facts that `code` leaves to the base, written out with their meaning; empty where there are none."""
    lines = []
    for fact in facts(base):
        if re.search(rf"^    (def )?{fact.name}\b", code, re.M):
            continue
        if not fact.default:
            lines += _comment(f"{fact.name}, a property: {fact.meaning}")
            continue
        line, more = f"    {fact.name} = {fact.default}", f"  # {fact.meaning}" if fact.meaning else ""
        lines += [line + more] if len(line + more) <= WIDTH else [*_comment(fact.meaning), line]
    if not lines:
        return ""
    return (
        "\n".join(
            [
                "    # Facts, each at what the slot's base says: change what is not so; the laws try them.",
                *lines,
            ]
        )
        + "\n\n"
    )


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="    # ", subsequent_indent="    #   ")


def _own(cls: type) -> Iterator[Fact]:
    source = textwrap.dedent(inspect.getsource(cls))
    comments = {
        t.start[0]: t.string.lstrip("# ")
        for t in tokenize.generate_tokens(io.StringIO(source).readline)
        if t.type == tokenize.COMMENT
    }
    lines = source.split("\n")
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    module = inspect.getmodule(cls)
    fields = {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            name = node.target.id
            if name in fields or name.startswith("_") or name in KEPT:
                continue
            first, last = node.lineno, node.end_lineno or node.lineno
            while lines[first - 2].lstrip().startswith("#"):  # what stands above it
                first -= 1
            told = [comments[n] for n in range(first, last + 1) if n in comments]
            value = getattr(module, node.value.id, None) if isinstance(node.value, ast.Name) else None
            default = ast.unparse(node.value) if value is None else repr(value)
            yield Fact(name, default.replace("'", '"'), " ".join(told) or f"see {cls.__name__}")
        elif isinstance(node, ast.FunctionDef) and any(
            ast.unparse(d) == "property" for d in node.decorator_list
        ):
            yield Fact(node.name, "", (ast.get_docstring(node) or "see the base class").split("\n")[0])
