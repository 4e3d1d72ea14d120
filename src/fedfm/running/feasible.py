"""What only the data can tell: parties enough for a round, weights that fit, an adversary that has members."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from fedfm.config.names import strange
from fedfm.core.combine import stages_of
from fedfm.core.context import Ctx
from fedfm.core.errors import Problem
from fedfm.core.federation import Federation
from fedfm.core.message import Message
from fedfm.core.protocols import Adversary
from fedfm.core.registry import name_of


def feasible(fed: Federation, rows: Mapping[str, int]) -> list[Problem]:
    """What would fail in every round, or do nothing in any, with these parties and their numbers of rows."""
    return [*strange(fed, rows), *_few(fed, len(rows)), *_nobody(fed, rows), *_heavy(fed, rows)]


def _few(fed: Federation, parties: int) -> Iterator[Problem]:
    """Every method that needs more contributors than a round can have."""
    most = fed.select.most(parties)
    why = (
        f"{parties} parties"
        if most == parties
        else f"{name_of(fed.select)} takes {most} of {parties} parties"
    )
    wants: list[tuple[str, Any, int]] = [("aggregate", fed.aggregate, fed.aggregate.least)]
    wants += [(f"uplink.{i}", stage, stage.least) for i, stage in enumerate(stages_of(fed.uplink))]
    wants += [("pace", fed.pace, fed.pace.quorum(most))]
    for slot, method, n in wants:
        if n > most:
            yield Problem(
                slot,
                f"{name_of(method)} needs {n} contributors, a round has {most} at most",
                why,
                f"more parties, a larger cohort, or other settings of {name_of(method)} "
                f"(fedfm show {name_of(method)})",
            )


def _nobody(fed: Federation, rows: Mapping[str, int]) -> Iterator[Problem]:
    """An attack that no party carries out."""
    if type(fed.adversary) is not Adversary and not fed.adversary.members(tuple(rows), Ctx(fed.seed)):
        name = name_of(fed.adversary)
        yield Problem(
            "adversary",
            f"{name} has no malicious party",
            f"its share of {len(rows)} parties is less than one",
            f"adversary.count=1, a larger adversary.fraction, or adversary=null (fedfm show {name})",
        )


def _heavy(fed: Federation, rows: Mapping[str, int]) -> Iterator[Problem]:
    """A party whose weight does not fit into the range of a stage that hides messages: it could never take part."""
    import torch

    stage: Any
    for i, stage in enumerate(stages_of(fed.uplink)):
        if not stage.opaque or getattr(stage, "range_bound", None) is None:
            continue  # no fact says yet how heavy a weight may be that travels behind a hidden update
        weights = {}
        for party, n in rows.items():
            lift = fed.aggregate.lift(Message(torch.zeros(1), mass=float(n)), Ctx(fed.seed))
            weights[party] = float(torch.as_tensor(lift.mass).max())
        if not (over := [p for p, w in weights.items() if w > stage.range_bound]):
            continue
        fits = 2.0 ** max(1, (int(max(weights.values())) - 1).bit_length())
        wide = dataclasses.replace(stage, range_bound=fits)
        enough = getattr(wide, "capacity", len(rows)) >= len(rows)
        yield Problem(
            f"uplink.{i}.range_bound",
            f"{len(over)} of {len(rows)} parties weigh more than {stage.range_bound:g}",
            f"their weights travel behind the update, so {', '.join(over[:5])} would fail in every round",
            f"uplink.{i}.range_bound={fits:g}"
            + ("" if enough else " and fewer bits, for the sum of all parties must fit too")
            + ", or weigh all parties alike (aggregate.weights=equal)",
        )
