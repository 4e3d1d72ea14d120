"""The natural partition: a column says whose row it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedfm.cards.registry import knob, method
from fedfm.core.errors import DataError
from fedfm.data.source import Partition
from fedfm.text import natural, nearest


@method("by-field", slot="partition", section="II.B", survey=(13,))
@dataclass(frozen=True)
class ByField(Partition):
    """One party per value of a column: a hospital, a maintainer, a user, a topic. A row without one is refused."""

    field: str = knob("label", "the column whose value names the party")

    def split(
        self, rows: Sequence[Mapping[str, Any]], labels: Sequence[str] | None, generator_seed: int
    ) -> dict[str, list[int]]:
        """Row numbers per value, in the order of the names; raises `DataError` when a row has no value."""
        if not rows:
            raise DataError("by-field: there are no rows to divide")
        without = [i for i, row in enumerate(rows) if row.get(self.field) in (None, "")]
        if len(without) == len(rows):
            raise DataError(f"by-field: no row has the column '{self.field}': {nearest(self.field, rows[0])}")
        if without:
            raise DataError(
                f"by-field: {len(without)} of {len(rows)} rows have no '{self.field}' "
                f"(the first is row {without[0]}); fill the column or leave those rows out"
            )
        found: dict[str, list[int]] = {}
        for i, row in enumerate(rows):
            found.setdefault(str(row[self.field]), []).append(i)
        return {party: found[party] for party in sorted(found, key=natural)}
