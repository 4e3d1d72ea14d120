"""Which colour stands for which score and for which run, all over the page."""

from __future__ import annotations

from fedfm.report.drawing.blocks import Tag
from fedfm.report.rundir import Run

ROLES = {"base": "c8", "local": "c2", "federated": "c1", "pooled": "c3"}
RUN_COLOURS = ("c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8")


def colour(index: int) -> str:
    """The colour class of the index-th run."""
    return RUN_COLOURS[index % len(RUN_COLOURS)]


def tag(run: Run, index: int, of: int) -> Tag | None:
    """The run's name tag, when there are several."""
    return Tag(run.label, colour(index)) if of > 1 else None
