"""Other clients for other parties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.combine import union
from fedfm.core.context import Ctx
from fedfm.core.message import Message
from fedfm.core.protocols import Bound, Client, Server, State
from fedfm.vectors.layout import Layout
from fedfm.vectors.patterns import first


@method("by-client", slot="client", section="IV.A")
@dataclass(frozen=True)
class ByClient(Client):
    """Other clients for other parties: `{"party-0": FedProx(), "*": Local()}`; the first pattern that matches wins."""

    rules: Mapping[str, Client] = knob(
        factory=dict, doc="pattern of parties -> client", names=("parties", "")
    )

    @property
    def dialect(self) -> str:  # type: ignore[override]
        return " and ".join(sorted({c.dialect for c in self.rules.values()}))

    @property
    def makes(self) -> str:
        return " and ".join(sorted({c.makes for c in self.rules.values()}))

    @property
    def per_step(self) -> int:
        return max(c.per_step for c in self.rules.values())

    @property
    def info(self) -> frozenset[str]:  # type: ignore[override]
        return union(c.info for c in self.rules.values())

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return union(c.needs for c in self.rules.values())

    remembers = property(lambda self: any(c.remembers for c in self.rules.values()))
    alternates = property(lambda self: any(c.alternates for c in self.rules.values()))
    mixed = property(lambda self: any(c.mixed for c in self.rules.values()))
    exact = property(lambda self: tuple(sorted({n for c in self.rules.values() for n in c.exact})))
    units = property(lambda self: max((c.units for c in self.rules.values()), key=len, default=()))

    def feasible(self, parties: int, bound: Bound) -> str:
        return next((why for c in self.rules.values() if (why := c.feasible(parties, bound))), "")

    def server_half(self) -> Server | None:
        return next((half for c in self.rules.values() if (half := c.server_half()) is not None), None)

    def alone(self) -> Client:
        return ByClient({p: c.alone() for p, c in self.rules.items()})

    def steps_for(self, rows: int) -> int:
        return max(c.steps_for(rows) for c in self.rules.values())

    def gives(self, layout: Layout) -> Layout:
        if len(given := {c.gives(layout) for c in self.rules.values()}) != 1:
            raise ValueError("by-client: all clients of one federation must give messages of one layout")
        return given.pop()

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Any) -> Any:
        return self.of(ctx.client).work(brief, data, state, ctx, bound)

    def own(self, brief: Message, state: State, ctx: Ctx, bound: Any) -> Tensor:
        return self.of(ctx.client).own(brief, state, ctx, bound)

    def of(self, party: str) -> Client:
        """The client of one party."""
        return self.rules[first(self.rules, party, "by-client")]
