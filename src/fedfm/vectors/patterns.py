"""Patterns over names: of tensors, and of parties."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable


def matches(pattern: str, name: str) -> bool:
    """Does a pattern of a setting (`*`, `?`, `[...]`) mean this name? One that is the name, letter for letter, does:
    `rows[1]` is a party's name before it is a pattern."""
    return name == pattern or fnmatch.fnmatchcase(name, pattern)


def first(patterns: Iterable[str], name: str, rule: str) -> str:
    """The first pattern that means this name; KeyError, in the name of `rule`, where none does."""
    for pattern in patterns:
        if matches(pattern, name):
            return pattern
    raise KeyError(f"{rule}: no pattern of {list(patterns)} matches '{name}'; add '*'")
