"""YAML of strangers: bounded in size, depth and aliases, no key twice, numbers and words as YAML 1.2 has them.

PyYAML's safe loader runs no code; it still follows an alias into itself, takes the last of two equal keys, reads
`no` as false, `1:30` as 90 and `2024-99-99` as an error of the calendar.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode, SequenceNode

LONGEST = 1_000_000  # characters
DEEPEST = 50
LARGEST = 100_000  # values, with what aliases stand for


class _Loader(yaml.SafeLoader):
    """Refuses by YAMLError, so that every complaint has its line."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        alias = self.check_event(yaml.AliasEvent)
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.MarkedYAMLError(None, None, f"nested deeper than {DEEPEST}", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if alias:
            size = self._sizes.get(id(node), 0)
            if not size:
                raise yaml.MarkedYAMLError(None, None, "an alias stands inside what it names", mark)
        else:
            size = 1
            if isinstance(node, MappingNode):
                size += sum(self._size(k) + self._size(v) for k, v in node.value)
            elif isinstance(node, SequenceNode):
                size += sum(map(self._size, node.value))
            self._sizes[id(node)] = size
        if size > LARGEST:
            raise yaml.MarkedYAMLError(None, None, f"more than {LARGEST:,} values", mark)
        return node

    def _size(self, node: Node) -> int:
        return self._sizes.get(id(node), 1)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        if not isinstance(node, MappingNode):  # a tag may say of anything that it is one
            raise yaml.MarkedYAMLError(None, None, "this is no mapping, as its tag says", node.start_mark)
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if not isinstance(key, ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                said = key.value if isinstance(key, ScalarNode) else "a list or mapping"
                raise yaml.MarkedYAMLError(
                    None,
                    None,
                    f"the key {str(said)[:40]} is no text: put it in quotation marks",
                    key.start_mark,
                )
            if key.value in seen:
                what = f"the key '{key.value[:40]}' stands here twice (first on line {seen[key.value]})"
                raise yaml.MarkedYAMLError(None, None, what, key.start_mark)
            seen[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep=deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep=deep)
            if isinstance(value, str):
                value.encode()
            return value
        except UnicodeEncodeError:
            raise yaml.MarkedYAMLError(
                None, None, "half a character (a lone surrogate)", node.start_mark
            ) from None
        except (ValueError, OverflowError, TypeError, AttributeError, LookupError, RecursionError) as e:
            said = (
                str(e).split(";")[0]
                if isinstance(node, CollectionNode)
                else f"'{node.value[:40]}' is no value"
            )
            raise yaml.MarkedYAMLError(
                None, None, f"{said} ({node.tag.rpartition(':')[2]})", node.start_mark
            ) from None


for tag, pattern, first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), [c if c != "\0" else "" for c in first]
    )


def _int(loader: _Loader, node: ScalarNode) -> int:
    text = numeral(loader.construct_scalar(node))
    return int(text, 16) if text.startswith("0x") else int(text)


def _float(loader: _Loader, node: ScalarNode) -> float:
    numeral(loader.construct_scalar(node))
    return float(loader.construct_yaml_float(node))


def numeral(text: str) -> str:
    """Itself, a number as YAML 1.2 writes them. Raises ValueError for what only Python reads: `1_0`, digits of other scripts."""
    if not text.isascii() or "_" in text:
        raise ValueError(f"{text[:40]!r} is no number")
    return text


_Loader.yaml_constructors = {
    tag: make
    for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or str(tag).rpartition(":")[2] in ("str", "bool", "null", "seq", "map")
}  # no bytes, dates, sets: nothing that a setting could be
_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)


def read(text: str) -> Any:
    """What YAML text says; raises `yaml.YAMLError` for all that it will not read."""
    if len(text) > LONGEST:
        raise yaml.YAMLError(f"{len(text):,} characters: at most {LONGEST:,} are read")
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


class _Dumper(yaml.SafeDumper):
    """Writes every value where it stands, so that what is read back has no aliases; quotes what either version reads."""

    yaml_implicit_resolvers = {
        first: [
            *yaml.SafeDumper.yaml_implicit_resolvers.get(first, ()),
            *_Loader.yaml_implicit_resolvers.get(first, ()),
        ]
        for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
