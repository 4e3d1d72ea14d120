"""How much of what parties sent a clip took away: a norm far above the clip leaves directions, and little of them."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any

from fedfm.core.combine import stages_of
from fedfm.core.federation import Federation
from fedfm.ledger.events import Line, Upload

FAR, MOST = 10.0, 0.9  # norms so many times the clip, in more than this share of the uploads, are a finding


def clipped(fed: Federation, events: Iterable[Line]) -> dict[str, Any] | None:
    """The smallest clip of the uplink beside the norms before it (simulated runs know them); None without either."""
    limits = [float(s.clip_norm) for s in stages_of(fed.uplink) if hasattr(s, "clip_norm")]
    norms = [e["norm"] for e in events if e["kind"] == Upload.kind and e.get("norm") is not None]
    if not limits or not norms:
        return None
    clip = min(limits)
    return {
        "clip_norm": clip,
        "median_norm": median(norms),
        "share": sum(n > clip for n in norms) / len(norms),
        "far": sum(n > FAR * clip for n in norms) / len(norms),
    }


def finding(told: dict[str, Any] | None) -> str:
    """A clip that takes nearly everything away, in words; empty: it does not."""
    if told is None or told["far"] <= MOST:
        return ""
    return (
        f"nearly all of every update is clipped away: {told['far']:.0%} of the uploads were more than {FAR:g} times "
        f"uplink.clip_norm={told['clip_norm']:g} long (median {told['median_norm']:.3g} before clipping); a larger one (the "
        "noise grows with it), or a smaller learning rate, may learn more"
    )
