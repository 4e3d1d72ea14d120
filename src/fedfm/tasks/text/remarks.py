"""What a person should know of encoded rows before the work: those that are cut, and what the task itself remarks."""

from __future__ import annotations

from collections import Counter
from typing import Any

from fedfm.core.context import Terms
from fedfm.tasks.probing import SPLITS, encoded


def remarks(site: Any) -> list[str]:
    """One sentence for each split and reason, with the rows that it is true of among all of the split."""
    said = list[str]()
    found = [(who, split, rows) for who, split, rows in encoded(site) if len(rows)]
    for split, kind, _ in SPLITS:
        kind = kind.replace("rows", "texts")
        mine = [(_objective(site, who), rows) for who, s, rows in found if s == split]
        n, cut, reasons = sum(len(rows) for _, rows in mine), 0, Counter[str]()
        for objective, rows in mine:
            cut += getattr(rows, "cut", 0)
            reasons.update(getattr(objective, "remarks", _nothing)(rows, split))
        if cut:
            room = next((r for o, _ in mine if (r := getattr(o, "room", ""))), "task.max_tokens")
            more = ": a larger task.max_tokens changes nothing, another task.model or shorter texts do"
            said.append(
                f"{cut:,} of {n:,} {kind} are longer than {room} and are cut"
                + more * ("task.max_tokens is" in room)
            )
        said += [f"{k:,} of {n:,} {kind} {why}" for why, k in reasons.items() if k]
    return said


def _objective(site: Any, who: str) -> Any:
    """Of the model that these rows are for: the party's own, where each has one."""
    return (site.bound.at(who, Terms()) if who in site.parties.ids else site.home.bound).objective


def _nothing(rows: Any, split: str) -> dict[str, int]:
    return {}
