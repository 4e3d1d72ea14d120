"""What `fedfm list` and `fedfm show` say of a method: its record, its fields, its docstring."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from typing import Any

from fedfm.cards.registry import Card


def record(card: Card) -> dict[str, Any]:
    """The public record of `fedfm list --json`."""
    keys = ("name", "kind", "slot", "section", "survey", "paper", "summary")
    return {k: list(v) if isinstance(v := getattr(card, k), tuple) else v for k in keys}


def describe(cls: Any) -> list[dict[str, Any]]:
    """Fields of a method with default, range and sentence, for `fedfm show` and the docs."""
    rows = []
    for f in dataclasses.fields(cls):
        if not f.init:
            continue
        default = (
            f.default
            if f.default is not dataclasses.MISSING
            else (f.default_factory() if f.default_factory is not dataclasses.MISSING else "required")
        )
        rows.append(
            {
                "name": f.name,
                "type": str(f.type),
                "default": default,
                **{
                    k: f.metadata.get(k)
                    for k in ("doc", "low", "high", "above", "below", "choices", "alternative")
                },
            }
        )
    return rows


def span(row: dict[str, Any]) -> str:
    """The range of a field in a few letters: `0 .. 1`, `> 0`, `sgd|adamw`; beside what it is an alternative to."""
    if row["choices"]:
        return "|".join(row["choices"])
    if row["low"] is not None and row["high"] is not None:
        ends = [f"{row['low']:g} .. {row['high']:g}"]
    else:
        ends = [
            f"{sign} {row[end]:g}" for sign, end in ((">=", "low"), ("<=", "high")) if row[end] is not None
        ]
    ends += [f"{sign} {row[end]:g}" for sign, end in ((">", "above"), ("<", "below")) if row[end] is not None]
    return ", ".join([*ends, *(["or null"] if row["alternative"] else [])])


def doc(card: Card) -> str:
    """The whole docstring of the card's class or function."""
    return inspect.getdoc(getattr(importlib.import_module(card.module), card.qualname)) or ""
