"""Privacy spent: a fold over the ledger, and the only place where an epsilon is computed.

Each release (a `privacy` event, of failed rounds too) is joined with how its round's cohort was drawn (the
`sampling` of the `plan` event) and composed with dp-accounting. What is not understood is refused.

- gaussian; everybody, or each party with probability `rate`: add or remove one party, by privacy loss
  distributions (PLD).
- gaussian; `count` of N without replacement: replace one party, by Renyi divergences (RDP; Wang, Balle,
  Kasiviswanathan 2019).
- local-gaussian: replace one party, sensitivity 2C, PLD; no amplification, because the server sees who took part.
"""

from __future__ import annotations

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fedfm.core.context import Event
from fedfm.core.errors import FedfmError, MissingExtra

CENTRAL, LOCAL = "gaussian", "local-gaussian"
RELATIONS = {"add": "add or remove one party", "replace": "replace one party"}
POINTS = 64  # rounds of a long ledger whose cumulative epsilon is computed
STEP = 2.0**-11  # of the discretised privacy loss; the estimate is pessimistic, at 1,000 rounds by about 2e-4


@dataclass(frozen=True)
class Spent:
    """(epsilon, delta)-DP of what has been released, under the neighbouring `relation`, after `rounds` releases."""

    epsilon: float
    delta: float
    mechanism: str
    accountant: str  # "PLD" | "RDP"
    relation: str
    rounds: int
    note: str = ""


@dataclass(frozen=True)
class Draw:
    """One Gaussian release: noise in units of the clip norm, and how its cohort was drawn."""

    kind: Literal["all", "poisson", "uniform"]
    noise: float
    rate: float = 1.0  # of "poisson"
    count: int = 0  # of "uniform": count of `of`
    of: int = 0


Draws = Counter[Draw]


def spent(
    events: Iterable[Event],
    delta: float,
    *,
    parties: int | None = None,
    accountant: Literal["auto", "rdp"] = "auto",
) -> Spent | None:
    """What the ledger's releases have cost; None when nothing was released under a guarantee.

    `parties` is the population N, only to warn of a delta above 1/N. `accountant="rdp"` forces the looser Renyi
    bound, for comparison. Raises FedfmError on a mechanism or a sampling that it does not know.
    """
    ledger = _Fold(events)
    if ledger.empty:
        return None
    mechanism, relation, draws = ledger.worst()
    epsilon, name = _epsilon(frozenset(draws.items()), relation, _checked(delta), accountant)
    return Spent(
        epsilon, delta, mechanism, name, RELATIONS[relation], draws.total(), ledger.note(delta, parties)
    )


def per_round(events: Iterable[Event], delta: float) -> list[float]:
    """Epsilon spent after each round of the ledger, from round 0 to its last; [] when nothing was released.

    Of a long ledger 64 rounds are computed; a round between has the figure of the next of them, so never too small.
    """
    ledger = _Fold(events)
    if ledger.empty:
        return []
    series, delta = list[float](), _checked(delta)
    for upto in sorted({round(k * ledger.last / (POINTS - 1)) for k in range(POINTS)}):
        _, relation, draws = ledger.worst(upto)
        cost = _epsilon(frozenset(draws.items()), relation, delta, "auto")[0] if draws else 0.0
        series += [cost] * (upto + 1 - len(series))
    return series


def calibrate(
    epsilon: float, delta: float, rounds: int, sampling: Mapping[str, Any], *, mechanism: str = CENTRAL
) -> float:
    """The smallest noise multiplier (to 1e-4 of itself, rounded up) that keeps `rounds` rounds within `epsilon`."""
    if not epsilon > 0 or rounds < 1:
        raise FedfmError(
            f"no noise reaches epsilon {epsilon} in {rounds} rounds; give a positive epsilon "
            "and 1 round or more"
        )

    def cost(noise: float) -> float:
        draw, relation = Draw("all", noise), "replace"
        if mechanism == CENTRAL:
            draw = _draw(sampling, noise, "calibrate")
            relation = "replace" if draw.kind == "uniform" else "add"
        elif mechanism != LOCAL:
            raise FedfmError(_unknown(mechanism))
        return _epsilon(frozenset({(draw, rounds)}), relation, _checked(delta), "auto")[0]

    high = 1.0
    while cost(high) > epsilon:
        high *= 2.0
    while high > 2.0**-6 and cost(high / 2.0) <= epsilon:
        high /= 2.0
    low = high / 2.0
    while high - low > 1e-4 * high:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if cost(middle) <= epsilon else (middle, high)
    return high


# ---- the ledger --------------------------------------------------------------------------------------------
class _Fold:
    """Plans and releases by round."""

    def __init__(self, events: Iterable[Event]):
        plans: dict[int, Event] = {}
        central: dict[int, list[float]] = defaultdict(list)
        self.local: dict[str, dict[int, list[float]]] = {}
        self.simulated, self.last = False, 0
        for e in events:
            kind, t = e.get("kind"), int(e.get("round", 0))
            if kind == "plan":
                if t in plans and plans[t].get("sampling") != e.get("sampling"):
                    raise FedfmError(
                        f"round {t} was planned twice with different sampling; its releases "
                        "have no one amplification"
                    )
                plans[t], self.last = e, max(self.last, t)
            elif kind == "privacy":
                noise = float(e.get("noise_multiplier", 0.0))
                if not 0.0 < noise < math.inf:
                    raise FedfmError(
                        f"round {t}: a release with noise multiplier {noise} has no guarantee; "
                        "epsilon is infinite"
                    )
                if e.get("mechanism") == CENTRAL:
                    central[t].append(noise)
                elif e.get("mechanism") == LOCAL:
                    self.local.setdefault(str(e.get("client")), {}).setdefault(t, []).append(noise)
                else:
                    raise FedfmError(_unknown(e.get("mechanism")))
                self.simulated |= bool(e.get("simulated", True))
                self.last = max(self.last, t)
        if self.local and set(central) - {t for mine in self.local.values() for t in mine}:
            raise FedfmError(
                "some rounds released a sum with central noise alone, others updates with local noise; "
                "these guard against different observers and have no common epsilon"
            )
        self.central = {
            t: _joined(plans.get(t), noises, t) for t, noises in sorted(central.items()) if not self.local
        }
        self.empty = not (self.local or self.central)

    def worst(self, upto: int | None = None) -> tuple[str, str, Draws]:
        """Mechanism, relation and releases up to a round; under local noise, those of the party that spent most."""
        end = self.last if upto is None else upto
        if self.local:
            each = [
                Counter(Draw("all", _together(noises)) for t, noises in mine.items() if t <= end)
                for mine in self.local.values()
            ]
            return LOCAL, "replace", max(each, key=lambda d: sum(n / draw.noise**2 for draw, n in d.items()))
        draws = Counter(draw for t, draw in self.central.items() if t <= end)
        kinds = {d.kind for d in self.central.values()}
        if {"uniform", "poisson"} <= kinds:
            raise FedfmError(
                "some rounds drew each party with a rate, others a fixed number; their neighbouring "
                "relations differ and have no common epsilon: keep one way of sampling in a run"
            )
        return CENTRAL, "replace" if "uniform" in kinds else "add", draws

    def note(self, delta: float, parties: int | None) -> str:
        notes = []
        if self.simulated:
            notes.append("simulated: the noise came from the run's seed; a real run would spend this")
        if self.local:
            notes.append("against the server; the party that spent most")
        if parties and delta >= 1.0 / parties:
            notes.append(f"delta {delta:g} is not below 1/{parties}: it allows exposing one party")
        return "; ".join(notes)


def _joined(plan: Event | None, noises: list[float], t: int) -> Draw:
    """A round's releases as one: they share a cohort, so their noise is combined before the sampling is applied."""
    if plan is None:
        raise FedfmError(
            f"round {t} released a sum, but the ledger has no plan of that round: its sampling is unknown"
        )
    draw = _draw(plan.get("sampling") or {}, _together(noises), f"round {t}")
    if draw.kind == "uniform" and "clients" in plan and len(plan["clients"]) != draw.count:
        raise FedfmError(
            f"round {t} says that it drew {draw.count} parties and planned "
            f"{len(plan['clients'])}; a cohort cut or filled up after sampling has no known amplification"
        )
    return draw


def _draw(sampling: Mapping[str, Any], noise: float, where: str) -> Draw:
    kind = sampling.get("kind")
    if kind == "all":
        return Draw("all", noise)
    if kind == "poisson" and 0.0 < float(sampling.get("rate", 0.0)) <= 1.0:
        rate = float(sampling["rate"])
        return Draw("poisson", noise, rate=rate) if rate < 1.0 else Draw("all", noise)
    if kind == "uniform" and 1 <= int(sampling.get("count", 0)) <= int(sampling.get("of", 0)):
        count, of = int(sampling["count"]), int(sampling["of"])
        return Draw("uniform", noise, count=count, of=of) if count < of else Draw("all", noise)
    raise FedfmError(
        f"{where}: no amplification is known for the sampling {dict(sampling)}; central "
        "noise needs {kind: all}, {kind: poisson, rate: q} or {kind: uniform, count: m, of: N}"
    )


def _unknown(mechanism: Any) -> str:
    return (
        f"the accountant does not know the mechanism '{mechanism}' (it knows {CENTRAL}, {LOCAL}); it will "
        "not guess an epsilon"
    )


def _together(noises: list[float]) -> float:
    """Several Gaussian releases of the same data are one with this noise multiplier."""
    return noises[0] if len(noises) == 1 else sum(z**-2 for z in noises) ** -0.5


def _checked(delta: float) -> float:
    if not 0.0 < delta < 1.0:
        raise FedfmError(f"delta is {delta}; a guarantee needs 0 < delta < 1, well below 1 / parties")
    return delta


# ---- composition -------------------------------------------------------------------------------------------
@functools.cache
def _library() -> tuple[Any, Any, Any]:
    try:
        import dp_accounting
        from dp_accounting import rdp
        from dp_accounting.pld import privacy_loss_distribution
    except ImportError:
        raise MissingExtra("dp-accounting", "privacy", "the privacy accountant") from None
    return dp_accounting, rdp, privacy_loss_distribution


@functools.lru_cache(maxsize=4096)
def _epsilon(
    groups: frozenset[tuple[Draw, int]], relation: str, delta: float, accountant: str
) -> tuple[float, str]:
    if accountant == "rdp" or any(draw.kind == "uniform" for draw, _ in groups):
        return _renyi(groups, relation, delta), "RDP"
    return _loss(groups, relation, delta), "PLD"


def _loss(groups: frozenset[tuple[Draw, int]], relation: str, delta: float) -> float:
    """By privacy loss distributions: equal releases by self-composition, unsampled ones in closed form."""
    sampled = sorted(((d, n) for d, n in groups if d.kind == "poisson"), key=repr)
    whole = math.sqrt(sum(n / d.noise**2 for d, n in groups if d.kind == "all"))
    spread = max([whole, *(1.0 / d.noise for d, _ in sampled)])
    most = max([1, *(n for _, n in sampled)])
    finer = max(0, math.ceil(math.log(most / 1000, 4)))  # the error grows with rounds * step^2
    step = STEP * 2.0 ** (max(0, math.ceil(math.log2(spread))) - finer)  # as fine as the loss is wide
    parts = [_one(1.0 / whole, 1.0, relation, step)] if whole else []
    parts += [_one(d.noise, d.rate, relation, step).self_compose(n) for d, n in sampled]
    return float(functools.reduce(lambda a, b: a.compose(b), parts).get_epsilon_for_delta(delta))


@functools.lru_cache(maxsize=8)
def _one(noise: float, rate: float, relation: str, step: float) -> Any:
    dpa, _, pld = _library()
    which = (
        dpa.NeighboringRelation.ADD_OR_REMOVE_ONE
        if relation == "add"
        else dpa.NeighboringRelation.REPLACE_ONE
    )
    return pld.from_gaussian_mechanism(
        noise, value_discretization_interval=step, sampling_prob=rate, neighboring_relation=which
    )


def _renyi(groups: frozenset[tuple[Draw, int]], relation: str, delta: float) -> float:
    _, rdp, _ = _library()
    pairs = [(n, *_curve(draw, relation)) for draw, n in groups]
    return float(rdp.compute_epsilon(pairs[0][1], sum(n * curve for n, _, curve in pairs), delta)[0])


@functools.lru_cache(maxsize=64)
def _curve(draw: Draw, relation: str) -> tuple[Any, Any]:
    """Orders and Renyi divergences of one release.

    dp-accounting's Gaussian event takes its noise relative to the norm bound C, but its curve without replacement
    relative to the sensitivity, which replacing one party makes 2C: hence the halved multiplier.
    """
    dpa, rdp, _ = _library()
    if draw.kind == "poisson":
        if relation == "replace":
            raise FedfmError("no Renyi bound is known for Poisson sampling under replace-one")
        event, which = (
            dpa.PoissonSampledDpEvent(draw.rate, dpa.GaussianDpEvent(draw.noise)),
            "ADD_OR_REMOVE_ONE",
        )
    elif relation == "replace":
        event, which = dpa.GaussianDpEvent(draw.noise / 2.0), "REPLACE_ONE"
        if draw.kind == "uniform":
            event = dpa.SampledWithoutReplacementDpEvent(draw.of, draw.count, event)
    else:
        event, which = dpa.GaussianDpEvent(draw.noise), "ADD_OR_REMOVE_ONE"
    one = rdp.RdpAccountant(neighboring_relation=dpa.NeighboringRelation[which]).compose(event)
    return np.array(one._orders), np.array(one._rdp)  # the library hands its curve out in no other way
