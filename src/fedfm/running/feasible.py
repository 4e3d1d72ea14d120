"""What only the data can tell: whether there are parties enough for a round."""

from __future__ import annotations

from typing import Any

from fedfm.core.combine import stages_of
from fedfm.core.errors import Problem
from fedfm.core.federation import Federation
from fedfm.core.registry import name_of


def feasible(fed: Federation, parties: int) -> list[Problem]:
    """Every method that needs more contributors than a round can have; such a federation would fail in every round."""
    most = fed.select.most(parties)
    why = (
        f"{parties} parties"
        if most == parties
        else f"{name_of(fed.select)} takes {most} of {parties} parties"
    )
    wants: list[tuple[str, Any, int]] = [("aggregate", fed.aggregate, fed.aggregate.least)]
    wants += [(f"uplink.{i}", stage, stage.least) for i, stage in enumerate(stages_of(fed.uplink))]
    wants += [("pace", fed.pace, fed.pace.quorum(most))]
    return [
        Problem(
            slot,
            f"{name_of(method)} needs {n} contributors, a round has {most} at most",
            why,
            f"more parties, a larger cohort, or other settings of {name_of(method)} (fedfm show {name_of(method)})",
        )
        for slot, method, n in wants
        if n > most
    ]
