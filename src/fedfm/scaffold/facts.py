"""The facts of a slot as comments: what a new method has not declared, at the value that promises least."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator

from fedfm.core import protocols
from fedfm.core.around import facts
from fedfm.core.protocols import Slot

HEAD = "Facts, at the values that promise least (`check` refuses what meets one); declare what holds:"


def comments(base: str, code: str, width: int = 110) -> str:
    """Lines of comments, one fact each, for a class of this base with this body; empty where the base has none."""
    protocol = getattr(protocols, base, None)
    if protocol is None:
        return ""
    declared = set(re.findall(r"^    (?:def )?(\w+)\b", code, re.M))
    meant = {name: line for cls in (Slot, protocol) for name, line in _meanings(cls)}
    names = sorted((n for n in facts(protocol) if n not in declared), key=list(meant).index)
    lines = [HEAD, *(meant[n] for n in names)]
    wrapped = (
        textwrap.wrap(line, width, initial_indent="    # ", subsequent_indent="    #     ") for line in lines
    )
    return "\n".join(line for part in wrapped for line in part) + "\n\n"


def _meanings(cls: type) -> Iterator[tuple[str, str]]:
    """(name, what it says) of each fact in the source of a protocol: its comment, or its docstring."""
    source = textwrap.dedent(inspect.getsource(cls))
    lines = source.splitlines()
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            said = " ".join(lines[node.lineno - 1 : node.end_lineno]).partition("  # ")[2]
            said = re.sub(r"\s+\)$", "", said)
            yield (
                node.target.id,
                f"{node.target.id} = {ast.unparse(node.value)}".replace("NOTHING", "frozenset()")
                + (f": {said}" if said else ""),
            )
        elif isinstance(node, ast.FunctionDef) and node.decorator_list:
            doc = (ast.get_docstring(node) or "").split("\n")[0]
            yield node.name, f"{node.name} (a property): {doc.rstrip('.')}"
