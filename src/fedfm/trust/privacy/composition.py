"""What a draw and a relation make of a release, and what many releases cost together.

A release is a tree of dp-accounting's events as data: `{"GaussianDpEvent": {"noise_multiplier": z}}`, the noise in
units of the bound C on one party's contribution to the sum; any other event is taken as its mechanism states it, for
the relation that it names. What the library cannot compose is refused. Two traps of the library
(google/differential-privacy#378): its Gaussian event under replace-one takes z relative to C in the PLD accountant
and relative to the sensitivity 2C in the Renyi one, and so does its sampling without replacement.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fedfm.core.errors import FedfmError, MissingExtra

Release = str  # a tree of events, as canonical JSON
STEP = 2.0**-11  # of the discretised privacy loss; the estimate is pessimistic, at 1,000 rounds by about 2e-4
HOPELESS = 1e6  # standard deviations between neighbours, beyond which no epsilon is worked out
LIBRARY = {"add-or-remove": "ADD_OR_REMOVE_ONE", "replace-one": "REPLACE_ONE", "zero-out": "REPLACE_SPECIAL"}


@dataclass(frozen=True)
class Draw:
    """How a cohort was drawn, and by what a party that joins takes another one's place."""

    kind: Literal["all", "poisson", "uniform", "truncated"] = "all"
    rate: float = 1.0  # of "poisson" and "truncated"
    count: int = 0  # of "uniform": count of `of`; of "truncated": the room, cut at random
    of: int = 0
    displaces: Literal["", "draw", "arrival"] = ""

    @property
    def public(self) -> Draw:
        """The same cohort, seen by the observer: nothing is amplified."""
        return Draw(displaces=self.displaces or ("draw" if self.kind in ("uniform", "truncated") else ""))

    def moves(self, change: str) -> float:
        """By how many times C one party moves the sum, beyond what the relation says of everybody's sum.

        A draw knows nothing of data: it differs between the two worlds only when the roster does. An arrival may.
        """
        return (
            2.0
            if self.displaces == "arrival"
            and change != "replace-one"
            or self.displaces
            and change == "add-or-remove"
            else 1.0
        )


def drawn(sampling: Mapping[str, Any], where: str = "this selector") -> Draw:
    """The draw that a plan's `sampling` describes; raises FedfmError on what nobody can account for."""
    kind, displaces = sampling.get("kind"), sampling.get("displaces", "")
    try:
        rate, count, of = (
            float(sampling.get("rate", 0.0)),
            *(int(sampling.get(k, 0)) for k in ("count", "of")),
        )
    except (TypeError, ValueError):
        rate, count, of = 0.0, 0, 0
    if displaces not in ("", "draw", "arrival"):
        kind = None
    if kind == "all":
        return Draw(displaces=displaces)
    if kind == "poisson" and 0.0 < rate <= 1.0 and not displaces:
        return Draw("poisson", rate) if rate < 1.0 else Draw()
    if kind == "truncated" and 0.0 < rate <= 1.0 and count >= 1 and of >= 1 and sampling.get("random"):
        return Draw("truncated", rate, count, of)
    if kind == "uniform" and 1 <= count <= of:
        return Draw("uniform", count=count, of=of) if count < of else Draw(displaces=displaces)
    raise FedfmError(
        f"{where}: no amplification is known for the sampling {dict(sampling)}; noise on a sum needs {{kind: all}}, "
        "{kind: poisson, rate: q}, {kind: uniform, count: m, of: N}, or {kind: truncated, ..., random: true}"
    )


def gaussian(noise: float) -> Release:
    """A Gaussian release of this noise multiplier."""
    return written({"GaussianDpEvent": {"noise_multiplier": noise}})


def written(data: Any) -> Release:
    """A tree of events as canonical text; raises FedfmError on what is none."""
    if not (isinstance(data, Mapping) and len(data) == 1 and isinstance(next(iter(data.values())), Mapping)):
        raise FedfmError(
            f"a release was recorded without its event ({data!r}); its epsilon cannot be computed"
        )
    text = json.dumps(data, sort_keys=True)
    if (z := noise_of(text)) is not None and not 0.0 < z < math.inf:
        raise FedfmError(f"a release with noise multiplier {z} has no guarantee; epsilon is infinite")
    return text


def noise_of(release: Release) -> float | None:
    """The noise multiplier of a Gaussian release; None for other events."""
    fields = json.loads(release).get("GaussianDpEvent")
    return None if fields is None else float(fields["noise_multiplier"])


def together(releases: Sequence[Release], where: str) -> Release:
    """Several releases of one cohort as one: Gaussian ones are one Gaussian, drawn once."""
    if len(releases) == 1:
        return releases[0]
    noises = [noise_of(r) for r in releases]
    if any(z is None for z in noises):
        raise FedfmError(
            f"{where}: releases of several kinds from one cohort have no known joint amplification"
        )
    return gaussian(sum(z**-2 for z in noises if z is not None) ** -0.5)


# ---- epsilon -----------------------------------------------------------------------------------------------
def epsilon(
    groups: frozenset[tuple[Release, Draw, int]], change: str, delta: float, accountant: str = "auto"
) -> tuple[float, str]:
    """Epsilon of (release, draw, how often) under a relation, and the accountant ("PLD" or "RDP") that gave it.

    The smallest of the valid bounds: loss distributions, Renyi divergences, and for fixed-size draws loss
    distributions without amplification. Raises FedfmError when there is none.
    """
    found: list[tuple[float, str]] = []
    fixed = any(d.kind == "uniform" for _, d, _ in groups)
    if accountant == "auto" and (parts := _booked(groups, change, _by_loss)) is not None:
        found.append((_losses(parts, change, delta), "PLD"))
    if accountant == "auto" and fixed:
        parts = _booked(frozenset((r, d.public, n) for r, d, n in groups), change, _by_loss)
        found += [] if parts is None else [(_losses(parts, change, delta), "PLD")]
    if (not found or (fixed and change == "replace-one")) and (
        parts := _booked(groups, change, _by_renyi)
    ) is not None:
        found.append((_renyi(parts, change, delta), "RDP"))
    if not found:
        raise FedfmError(
            f"no accountant knows {sorted({next(iter(json.loads(r))) for r, _, _ in groups})} under {change} "
            f"with the draws {sorted({d.kind for _, d, _ in groups})}; it will not guess an epsilon"
        )
    return min(found)


Parts = frozenset[tuple[Any, int]]


def _booked(groups: frozenset[tuple[Release, Draw, int]], change: str, book: Any) -> Parts | None:
    parts = [(book(r, d, change), n) for r, d, n in groups]
    return None if any(e is None for e, _ in parts) else frozenset(parts)


def _by_loss(release: Release, draw: Draw, change: str) -> Any:
    """The event for the PLD accountant, which takes noise relative to C under every relation."""
    dpa, z = _library()[0], noise_of(release)
    if z is None:
        event = tree(release)
        whole = draw.kind == "all" and draw.moves(change) == 1.0
        return event if whole and _supports("PLD", event, change) else None
    if draw.kind == "all":
        return dpa.GaussianDpEvent(z / draw.moves(change))
    if draw.kind == "poisson":
        return dpa.PoissonSampledDpEvent(draw.rate, dpa.GaussianDpEvent(z))
    if (
        draw.kind == "uniform" and change == "add-or-remove"
    ):  # who is drawn takes somebody's place: 2C, m/N of the time
        return dpa.PoissonSampledDpEvent(draw.count / draw.of, dpa.GaussianDpEvent(z / 2.0))
    rate = 1.0 if draw.kind == "uniform" else draw.rate
    return _library()[3].TruncatedSubsampledGaussianDpEvent(draw.of, rate, draw.count, z)


def _by_renyi(release: Release, draw: Draw, change: str) -> Any:
    """The event for the Renyi accountant, which takes noise relative to the sensitivity."""
    dpa, z = _library()[0], noise_of(release)
    if z is None:
        event = tree(release)
        whole = draw.kind == "all" and draw.moves(change) == 1.0
        return event if whole and _supports("RDP", event, change) else None
    if draw.kind == "all":
        return dpa.GaussianDpEvent(z / 2.0 if change == "replace-one" else z / draw.moves(change))
    if draw.kind == "poisson" and change != "replace-one":
        return dpa.PoissonSampledDpEvent(draw.rate, dpa.GaussianDpEvent(z))
    if draw.kind == "uniform" and change == "add-or-remove":
        return dpa.PoissonSampledDpEvent(draw.count / draw.of, dpa.GaussianDpEvent(z / 2.0))
    if draw.kind == "uniform" and change == "replace-one":
        return dpa.SampledWithoutReplacementDpEvent(draw.of, draw.count, dpa.GaussianDpEvent(z / 2.0))
    return None


def _losses(parts: Parts, change: str, delta: float) -> float:
    """By privacy loss distributions: equal releases by self-composition, whole Gaussian ones in closed form."""
    dpa = _library()[0]
    whole = math.hypot(
        *(math.sqrt(n) / e.noise_multiplier for e, n in parts if isinstance(e, dpa.GaussianDpEvent))
    )
    rest = sorted(((e, n) for e, n in parts if not isinstance(e, dpa.GaussianDpEvent)), key=repr)
    widths = [1.0 / float(getattr(getattr(e, "event", e), "noise_multiplier", 1.0)) for e, _ in rest]
    widest, total = max([whole, *widths]), whole + sum(w * n for w, (_, n) in zip(widths, rest, strict=True))
    if total <= delta:  # no two outcomes' probabilities differ by more, so delta alone covers it
        return 0.0
    if total > HOPELESS:
        return math.inf
    most = max([1, *(n for _, n in rest)])
    finer = max(0, math.ceil(math.log(most / 1000, 4)))  # the error grows with rounds * step^2
    step = STEP * 2.0 ** (max(0, math.ceil(math.log2(widest))) - finer)  # as fine as the loss is wide
    each = [_loss(dpa.GaussianDpEvent(1.0 / whole), change, step)] if whole else []
    each += [_loss(e, change, step).self_compose(n) for e, n in rest]
    return float(functools.reduce(lambda a, b: a.compose(b), each).get_epsilon_for_delta(delta))


@functools.lru_cache(maxsize=16)
def _loss(event: Any, change: str, step: float) -> Any:
    one = _library()[2].PLDAccountant(_relation(change), step).compose(event)
    return one._pld  # the library hands its distribution out in no other way


def _renyi(parts: Parts, change: str, delta: float) -> float:
    pairs = [(n, *_curve(e, change)) for e, n in parts]
    return float(
        _library()[1].compute_epsilon(pairs[0][1], sum(n * curve for n, _, curve in pairs), delta)[0]
    )


@functools.lru_cache(maxsize=64)
def _curve(event: Any, change: str) -> tuple[Any, Any]:
    """Orders and Renyi divergences of one release."""
    one = _library()[1].RdpAccountant(neighboring_relation=_relation(change)).compose(event)
    return np.array(one._orders), np.array(one._rdp)  # nor its curve


# ---- the library -------------------------------------------------------------------------------------------
@functools.cache
def _library() -> tuple[Any, Any, Any, Any]:
    try:
        import dp_accounting
        from dp_accounting import dp_event, pld, rdp
    except ImportError:
        raise MissingExtra("dp-accounting", "privacy", "the privacy accountant") from None
    return dp_accounting, rdp, pld, dp_event


def _relation(change: str) -> Any:
    return _library()[0].NeighboringRelation[LIBRARY[change]]


def _supports(accountant: str, event: Any, change: str) -> bool:
    _, rdp, pld, _ = _library()
    one = (
        rdp.RdpAccountant(neighboring_relation=_relation(change))
        if accountant == "RDP"
        else pld.PLDAccountant(_relation(change))
    )
    return bool(one.supports(event))


@functools.lru_cache(maxsize=256)
def tree(release: Release) -> Any:
    """The library's event of a release; raises FedfmError on an event that the library does not have."""
    events = _library()[3]

    def build(node: Any) -> Any:
        if isinstance(node, list):
            return tuple(map(build, node))
        if not isinstance(node, dict):
            return node
        (name, fields), *more = node.items()
        kind = getattr(events, name, None)
        if more or not (
            isinstance(kind, type) and issubclass(kind, events.DpEvent) and isinstance(fields, dict)
        ):
            raise FedfmError(f"dp-accounting has no event '{name}'; it will not guess an epsilon")
        try:
            return kind(**{k: build(v) for k, v in fields.items()})
        except TypeError as e:
            raise FedfmError(f"the event '{name}' of a release cannot be read: {e}") from e

    return build(json.loads(release))
