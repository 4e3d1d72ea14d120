"""Whose messages an aggregator that chooses counted, from the facts that it notes; whoever it never did is told of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from fedfm.ledger.events import Line, Upload, counted


@dataclass
class Choices:
    """Read event by event, in the order of the ledger."""

    by: str = ""  # the kind of the events that name everybody who counted
    chosen: set[str] = field(default_factory=set)
    void: Counter[str] = field(default_factory=Counter)  # a party's messages that counted nothing
    voided: str = ""
    came: int = 0  # uploads since the last choice
    chance: float = 1.0  # of never being chosen, were all alike

    def see(self, e: Line) -> None:
        """One more event."""
        self.came += e["kind"] == Upload.kind
        if (named := counted(e)) is None:
            return
        if e.get("client") is None:
            self.by = str(e["kind"])
            self.chosen.update(named)
            self.chance *= 1 - len(named) / max(self.came, len(named), 1)
            self.came = 0
        elif not named:
            self.void[e["client"]] += 1
            self.voided = f"the aggregator ({e['kind']})"

    def passed(self, i: str, used: int) -> str:
        """Who never counted a party that delivered in so many rounds; empty: it counted."""
        if used and self.by and i not in self.chosen:
            return self.by
        return self.voided if used and self.void[i] >= used else ""
