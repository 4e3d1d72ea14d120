"""What the text tasks ask of an opened model on a few real rows, before any work."""

from __future__ import annotations

from typing import Any

from fedfm.core.errors import Problem


def dialogues(bound: Any, rows: Any) -> list[Problem]:
    return []


def texts(bound: Any, rows: Any) -> list[Problem]:
    return []
