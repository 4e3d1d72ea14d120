"""Patterns over names: of tensors, and of parties."""

from __future__ import annotations

import fnmatch


def matches(pattern: str, name: str) -> bool:
    """Does a pattern of a setting (`*`, `?`, `[...]`) mean this name? One that is the name, letter for letter, does:
    `rows[1]` is a party's name before it is a pattern."""
    return name == pattern or fnmatch.fnmatchcase(name, pattern)
