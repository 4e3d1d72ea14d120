"""Privacy spent: a fold over the ledger, and the only place where an epsilon is told.

A mechanism notes each release (a `privacy` event, of failed rounds too) with its event as data, the relation, the
observer and where its noise came from. Each is joined with how its round's cohort was drawn (the `sampling` of the
`plan` event) and composed (`composition.py`). Releases of a party's own count by party, without amplification, because
the server sees who took part; the party that spent most counts. What is not understood is refused.
"""

from __future__ import annotations

import functools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from fedfm.core.errors import FedfmError
from fedfm.core.spending import Relation, Sampling
from fedfm.ledger.events import Line
from fedfm.trust.privacy.composition import Draw, Release, drawn, epsilon, together, written

POINTS = 64  # rounds of a long ledger whose cumulative epsilon is computed
WHOM = {
    "recipients": "against whoever gets the model and the public files; the server is trusted",
    "server": "against the server, and so against everybody",
}
SEEDED = "would be spent with secret noise and a secret draw: this noise is predictable, it follows from the run's seed"


@dataclass(frozen=True)
class Spent:
    """(epsilon, delta)-DP of what was released, under `relation`, against `observer`, after `rounds` releases."""

    epsilon: float
    delta: float
    mechanism: str
    accountant: str  # "PLD" | "RDP"
    relation: Relation
    observer: str
    rounds: int
    seeded: bool  # the noise can be drawn again by whoever knows the seed
    note: str = ""

    def __str__(self) -> str:
        """The number with its definition: never shown without it."""
        head = f"epsilon {self.epsilon:.2f} at delta {self.delta:g} for a whole {self.relation.unit}"
        return "; ".join([head, WHOM[self.observer], str(self.relation), *filter(None, [self.note])])


Draws = Counter[tuple[Release, Draw]]


def spent(
    events: Iterable[Line],
    delta: float | None = None,
    *,
    parties: int | None = None,
    accountant: Literal["auto", "rdp"] = "auto",
) -> Spent | None:
    """What the ledger's releases have cost; None when nothing was released under a guarantee.

    `delta`: by default the one that the mechanisms were asked for. `parties` is the population N, only to warn of a
    delta above 1/N. `accountant="rdp"` forces the looser Renyi bound, for comparison. Raises FedfmError on what no
    accountant knows.
    """
    ledger = _Fold(events)
    if ledger.empty:
        return None
    delta, draws = _checked(ledger.delta if delta is None else delta), ledger.worst()
    cost, name = _cost(draws, ledger.change, delta, accountant)
    return Spent(
        cost,
        delta,
        ledger.mechanism,
        name,
        Relation(ledger.change),
        ledger.observer,
        draws.total(),
        ledger.seeded,
        ledger.note(delta, parties),
    )


def composed(ledgers: Sequence[Iterable[Line]]) -> Spent:
    """What runs on the same rows have cost together, for whoever sees all they released; of the parties' own releases those of
    the party that spent most in each run. Raises FedfmError where they have no common epsilon."""
    each = [fold for fold in map(_Fold, ledgers) if not fold.empty]
    if len(each) < 2 or len({(fold.change, fold.observer, fold.own) for fold in each}) > 1:
        raise FedfmError("their epsilons are of different promises")
    first, delta = each[0], _checked(max(fold.delta for fold in each))
    draws = sum((fold.worst() for fold in each), Draws())
    cost, name = _cost(draws, first.change, delta)
    names = " and ".join(dict.fromkeys(fold.mechanism for fold in each))
    relation, seeded = Relation(first.change), any(fold.seeded for fold in each)
    return Spent(
        cost, delta, names, name, relation, first.observer, draws.total(), seeded, first.note(delta, None)
    )


def per_round(events: Iterable[Line], delta: float | None = None) -> list[float]:
    """Epsilon spent after each round of the ledger, from round 0 to its last; [] when nothing was released.

    Of a long ledger 64 rounds are computed; a round between has the figure of the next of them, so never too small.
    """
    ledger = _Fold(events)
    if ledger.empty:
        return []
    series, delta = list[float](), _checked(ledger.delta if delta is None else delta)
    for upto in sorted({round(k * ledger.last / (POINTS - 1)) for k in range(POINTS)}):
        draws = ledger.worst(upto)
        cost = _cost(draws, ledger.change, delta)[0] if draws else 0.0
        series += [cost] * (upto + 1 - len(series))
    return series


def statement(
    stages: Sequence[Any], events: Iterable[Line], outside: Mapping[str, str], parties: int
) -> dict[str, Any] | None:
    """What terminal, summary and page say of a run's privacy: the numbers, whom they protect, what is not covered.

    `stages`: the protections of the uplink; `outside`: channel -> why it is in no account. None without a protection.
    A ledger that no accountant knows gives no epsilon, and the reason.
    """
    if not (names := [str(getattr(s, "method_name", type(s).__name__)) for s in stages]):
        return None
    facts = [e for e in events if e.get("kind") in ("privacy", "plan")]
    told: dict[str, Any] = {"epsilon": None, "mechanism": names[0], "outside": dict(outside), "per_round": []}
    try:
        if (found := spent(facts, parties=parties)) is None:
            what = " and ".join(
                f"{n} hides single updates from the server; its sum is exact"
                if s.opaque
                else f"{n} only clips or perturbs"
                for n, s in zip(names, stages, strict=True)
            )
            return told | {"sentence": f"{what}: no guarantee of differential privacy", "note": ""}
        told |= {
            "epsilon": found.epsilon, "delta": found.delta, "mechanism": found.mechanism, "accountant": found.accountant,
            "relation": str(found.relation), "unit": found.relation.unit, "observer": WHOM[found.observer],
            "note": found.note, "seeded": found.seeded, "rounds": found.rounds, "per_round": per_round(facts),
        }  # fmt: skip
        return told | {"sentence": str(found)}
    except FedfmError as e:
        return told | {"sentence": f"no epsilon: {e}", "note": str(e)}


# ---- before a run ------------------------------------------------------------------------------------------
def plan(stages: Sequence[Any], samplings: Sequence[Sampling]) -> list[Line]:
    """The ledger that a plan would leave: so many rounds, drawn like this, nobody missing."""
    return [e for t, sampling in enumerate(samplings) for e in _round(stages, t, sampling)]


EACH = "each party"  # of a plan


def _round(stages: Sequence[Any], t: int, sampling: Sampling) -> list[Line]:
    central = {"kind": "plan", "round": t, "sampling": dict(sampling)}
    noises = [dict(s.release()) for s in stages]
    return [central] + [
        {
            "kind": "privacy",
            "round": t,
            "client": None if s.after_sum else EACH,
            **n,
            "noise": "system",
            "secret": sampling.get("secret", True),
        }
        for s, n in zip(stages, noises, strict=True)
    ]


def cost(stages: Sequence[Any], samplings: Sequence[Sampling]) -> float:
    """Epsilon of a plan, with secret noise and a secret draw."""
    found = spent(plan(stages, samplings))
    return 0.0 if found is None else found.epsilon


def planned(stage: Any, samplings: Sequence[Sampling]) -> Any:
    """The stage with the noise that its epsilon needs over these rounds; itself when it names its noise."""
    if stage.epsilon is None or not samplings:
        return stage
    return at(stage, _noise(stage, tuple(json.dumps(s, sort_keys=True) for s in samplings)))


@functools.lru_cache(maxsize=64)
def _noise(stage: Any, samplings: tuple[str, ...]) -> float:
    draws = [json.loads(s) for s in samplings]
    return calibrate(stage.epsilon, lambda z: cost([at(stage, z)], draws))


def at(stage: Any, noise: float) -> Any:
    """The stage with this noise multiplier instead of an epsilon."""
    return replace(stage, epsilon=None, noise_multiplier=noise)


def calibrate(target: float, cost: Callable[[float], float]) -> float:
    """The smallest noise multiplier (to 1e-4 of itself, rounded up) whose `cost` is at most `target`."""
    if not 0.0 < target < math.inf:
        raise FedfmError(f"no noise reaches epsilon {target}; give a positive one")
    high = 1.0
    while cost(high) > target:
        high *= 2.0
        if high > 2.0**40:
            raise FedfmError(f"no noise reaches epsilon {target} in this plan")
    while high > 2.0**-6 and cost(high / 2.0) <= target:
        high /= 2.0
    low = high / 2.0
    while high - low > 1e-4 * high:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if cost(middle) <= target else (middle, high)
    return high


def overspends(stages: Sequence[Any], events: Iterable[Line], sampling: Sampling) -> str:
    """Why one more round would exceed a stage's budget; empty: it would not.

    Noise and draw are those of the plan, so the rounds that fit are known beforehand and the stop says nothing new.
    """
    if not (budgets := [s.budget for s in stages if s.budget is not None]):
        return ""
    facts = [e for e in events if e.get("kind") in ("privacy", "plan")]
    last = max((int(e.get("round", 0)) for e in facts), default=-1)
    known = list(dict.fromkeys(str(who) for e in facts if (who := e.get("client")) is not None)) or [EACH]
    more = [
        e | ({"client": who} if e.get("client") == EACH else {})
        for e in _round(stages, last + 1, sampling)
        for who in (known if e.get("client") == EACH else [EACH])
    ]  # whoever spent most may take part again
    total = spent([*facts, *more])
    if total is None or total.epsilon <= min(budgets):
        return ""
    return f"one more round would spend epsilon {total.epsilon:.2f}, the budget is {min(budgets):g}"


# ---- the ledger --------------------------------------------------------------------------------------------
class _Fold:
    """Plans and releases by round."""

    def __init__(self, events: Iterable[Line]):
        plans: dict[int, Line] = {}
        central: dict[int, list[Line]] = defaultdict(list)
        own: dict[str, dict[int, list[Line]]] = {}
        releases: list[Line] = []
        self.last = 0
        for e in events:
            kind, t = e.get("kind"), int(e.get("round", 0))
            if kind == "plan":
                if t in plans and plans[t].get("sampling") != e.get("sampling"):
                    raise FedfmError(
                        f"round {t} was planned twice with different sampling; its releases have no one amplification"
                    )
                plans[t] = e
            elif kind == "privacy":
                releases.append(e)
                who = e.get("client")
                (central[t] if who is None else own.setdefault(str(who), {}).setdefault(t, [])).append(e)
            else:
                continue
            self.last = max(self.last, t)
        self.empty, self.own = not releases, bool(own)
        if self.empty:
            return
        self.change = _same(releases, "relation", "neighbouring relations")
        self.observer = _same(releases, "observer", "observers")
        self.mechanism = " and ".join(dict.fromkeys(str(e.get("mechanism")) for e in releases))
        self.delta = max(float(e.get("delta", 1e-5)) for e in releases)
        self.seeded = any(e.get("noise") != "system" for e in releases)
        if self.own and central:
            raise FedfmError(
                "some rounds released a sum with noise of its own, others updates with local noise; these guard against "
                "different observers and have no common epsilon"
            )
        if central and (silent := [t for t, p in plans.items() if t not in central and _coins(p)]):
            raise FedfmError(
                f"round {silent[0]} drew its cohort at random and released nothing, so its size is known; an empty or failed "
                "cohort must release noise, or no epsilon is known"
            )
        self.rounds = (
            [{t: (_joined(e, t), Draw()) for t, e in mine.items()} for mine in own.values()]
            if self.own
            else [{t: (_joined(e, t), _cohort(plans.get(t), e, t)) for t, e in sorted(central.items())}]
        )

    def worst(self, upto: int | None = None) -> Draws:
        """Releases up to a round; of the parties' own, those of the party that spent most."""
        end = self.last if upto is None else upto
        each = {
            frozenset(d.items()): d
            for d in (Counter(r for t, r in mine.items() if t <= end) for mine in self.rounds)
        }
        if len(each) == 1:
            return next(iter(each.values()))
        return max(each.values(), key=lambda d: _cost(d, self.change, self.delta)[0] if d else 0.0)

    def note(self, delta: float, parties: int | None) -> str:
        notes = [SEEDED] if self.seeded else []
        if self.own:
            notes.append("of the party that spent most")
        if (
            parties and self.change != "add-or-remove" and delta >= 1.0 / parties
        ):  # else their number is private
            notes.append(f"delta {delta:g} is not below 1/{parties}: it allows exposing one party")
        return "; ".join(notes)


def _same(releases: Sequence[Line], key: str, what: str) -> Any:
    if len(found := {str(e.get(key)) for e in releases}) != 1 or found == {"None"}:
        raise FedfmError(
            f"the releases of this ledger have no one {key} ({', '.join(sorted(found))}): different {what}"
        )
    return found.pop()


def _joined(releases: Sequence[Line], t: int) -> Release:
    return together([written(e.get("event")) for e in releases], f"round {t}")


def _coins(plan: Line) -> bool:
    return (plan.get("sampling") or {}).get("kind") in ("poisson", "truncated")


def _cohort(plan: Line | None, releases: Sequence[Line], t: int) -> Draw:
    """How a round's cohort was drawn; a draw from a public seed amplifies nothing once the noise is real."""
    if plan is None:
        raise FedfmError(
            f"round {t} released a sum, but the ledger has no plan of that round: its sampling is unknown"
        )
    sampling = plan.get("sampling") or {}
    draw = drawn(sampling, f"round {t}")
    if draw.kind == "uniform" and "clients" in plan and len(plan["clients"]) != draw.count:
        raise FedfmError(
            f"round {t} says that it drew {draw.count} parties and planned {len(plan['clients'])}; a cohort cut or filled "
            "up after sampling has no known amplification"
        )
    real = any(e.get("noise") == "system" for e in releases)
    secret = bool(sampling.get("secret")) or all(e.get("secret") for e in releases)
    seen = any(e.get("observer") == "server" for e in releases)  # who is protected from sees who took part
    return draw.public if seen or (real and not secret) else draw


def _checked(delta: float) -> float:
    if not 0.0 < delta < 1.0:
        raise FedfmError(f"delta is {delta}; a guarantee needs 0 < delta < 1, well below 1 / parties")
    return delta


def _cost(draws: Draws, change: str, delta: float, accountant: str = "auto") -> tuple[float, str]:
    kinds = {d.kind for _, d in draws}
    if {"uniform", "poisson"} <= kinds:
        raise FedfmError(
            "some rounds drew each party with a rate, others a fixed number; these have no common analysis: keep one "
            "way of sampling in a run"
        )
    return epsilon(frozenset((r, d, n) for (r, d), n in draws.items()), change, delta, accountant)
