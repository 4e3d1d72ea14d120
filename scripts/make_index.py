"""Write the method table of README.md from the cards and the map of the field; nothing in it is kept by hand.

    python scripts/make_index.py            # write it
    python scripts/make_index.py --check    # only say whether README.md has it as it should be

A card's `atlas` names the rows of `docs/atlas.csv` that its method fills; rows that nobody names are the gaps.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from fedfm.cards.registry import Card, cards

ROOT = Path(__file__).resolve().parents[1]
README, ATLAS = ROOT / "README.md", ROOT / "docs" / "atlas.csv"
OPEN, CLOSE = "<!-- methods -->", "<!-- /methods -->"
Row = dict[str, str]


def rows(path: Path = ATLAS) -> list[Row]:
    """The rows of the map: id, refs, pillar, kind, name, what must run."""
    with path.open(encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))


def filled(atlas: Iterable[Row], known: Iterable[Card]) -> dict[str, list[str]]:
    """Row id -> names of the methods and recipes that fill it, sorted."""
    found: dict[str, set[str]] = {row["id"]: set() for row in atlas}
    for card in known:
        for id in card.atlas:
            found.get(id, set()).add(card.name)
    return {id: sorted(names) for id, names in found.items()}


def strangers(atlas: Iterable[Row], known: Iterable[Card]) -> list[str]:
    """Complaints about cards that name rows which are not on the map."""
    ids = {row["id"] for row in atlas}
    return [
        f"{c.module}: the card of '{c.name}' names the row '{id}', which docs/atlas.csv has not"
        for c in known
        for id in c.atlas
        if id not in ids
    ]


def table(atlas: list[Row], known: Iterable[Card]) -> str:
    """The Markdown between the markers: filled of all by pillar, every row of the map, and what is not on the map."""
    known = tuple(known)
    names = filled(atlas, known)
    pillars = [(p, [r for r in atlas if r["pillar"] == p]) for p in dict.fromkeys(r["pillar"] for r in atlas)]
    done = sum(map(bool, names.values()))
    out = [
        "| pillar | filled | of |",
        "|---|---:|---:|",
        *(f"| {p} | {sum(bool(names[r['id']]) for r in of)} | {len(of)} |" for p, of in pillars),
        f"| **all** | **{done}** | **{len(atlas)}** |",
        "",
    ]
    for pillar, of in pillars:
        out += [
            "<details>",
            f"<summary>{pillar}: {sum(bool(names[r['id']]) for r in of)} of {len(of)}</summary>",
            "",
            "| on the map | references | in fedfm |",
            "|---|---|---|",
            *(f"| {r['name']} | {r['refs'].replace(';', ', ')} | {_names(names[r['id']])} |" for r in of),
            "",
            "</details>",
            "",
        ]
    spare = [c for c in known if not any(c.name in n for n in names.values())]
    spare.sort(key=lambda c: (c.slots[0], c.name))
    out += [
        "Registered besides, because the rest stands on them:",
        "",
        *(
            f"- {slot}: {_names([c.name for c in of])}"
            for slot, of in groupby(spare, key=lambda c: c.slots[0])
        ),
    ]
    return "\n".join(out)


def render(text: str, body: str) -> str:
    """`text` with `body` between the markers; raises ValueError when they are not there."""
    head, found, rest = text.partition(OPEN)
    _, closed, tail = rest.partition(CLOSE)
    if not (found and closed):
        raise ValueError(f"README.md has no {OPEN} ... {CLOSE}")
    return f"{head}{OPEN}\n{body}\n{CLOSE}{tail}"


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{n}`" for n in names) or "—"


def main() -> int:
    old = README.read_text(encoding="utf-8")
    new = render(old, table(rows(), cards()))
    if lost := strangers(rows(), cards()):
        print(*lost, sep="\n", file=sys.stderr)
    if "--check" in sys.argv[1:]:
        return int(new != old)
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
