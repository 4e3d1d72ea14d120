"""Epsilon by measurement: neighbouring federations are played many times, and all that leaves is attacked.

A server that never moves makes every T rounds an independent federation of T rounds, so one run is many plays. The
attacker knows both worlds, sees every channel of its observer, picks the best of its scores and thresholds on some plays
and is judged on the others: Clopper and Pearson bound its rates of true and false alarms (2.5 % each), so with 95 %
confidence epsilon >= ln((p - delta) / f).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any, ClassVar

import torch
from epsilon_oracle import whole
from torch import Tensor

from fedfm.core.combine import stages_of
from fedfm.core.context import Ctx
from fedfm.core.federation import Federation
from fedfm.core.loop import Run
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregate, Aggregator, Client, Server, State
from fedfm.core.spending import noises, schedule
from fedfm.evaluation.held_out import HeldOut
from fedfm.laws.homes import play
from fedfm.tasks.quadratic import Quadratic, Quadratics
from fedfm.trust.privacy.accountant import cost

DELTA, TRIED = 1e-5, 60  # plays on which the attacker chooses
CANARY = "party-0"


@dataclass(frozen=True)
class Sends(Client):
    """The canary a length in the first direction; the others one clip norm each, in the second or against it."""

    canary: float = 1.0
    against: bool = False

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Any) -> Any:
        x = torch.zeros(bound.layout.size)
        if ctx.client == CANARY:
            x[0] = self.canary
        else:
            x[0 if self.against else 1] = -1.0 if self.against else 1.0
        return Message(x, mass=1.0), state


@dataclass(frozen=True)
class Watches(Server):
    """Keeps every aggregate, and never moves."""

    counts: ClassVar[bool] = False
    elastic: ClassVar[bool] = True

    def step(self, state: State, agg: Aggregate, ctx: Ctx) -> State:
        return state | {"seen": torch.cat([state.get("seen", torch.empty(0, agg.x.numel())), agg.x[None]])}


@dataclass(frozen=True)
class Picks(Aggregator):
    """What the server makes of the canary's message; zero where there is none."""

    form = "all"

    def combine(self, messages: Sequence[Message], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        mine = [m.x for m in messages if m.sender == CANARY]
        return (mine[0] if mine else torch.zeros_like(messages[0].x)).float(), state


@dataclass(frozen=True)
class Trial:
    """A federation of T rounds that promises an epsilon, and how its two worlds differ."""

    fed: Federation
    rounds: int = 1
    parties: int = 3
    length: float = 1.0  # what the canary sends in the first world, in clip norms

    @property
    def relation(self) -> str:
        return noises(self.fed)[0].relation

    @property
    def other(self) -> float | None:
        """What the canary sends in the second world; None: it is not there."""
        return {"zero-out": 0.0, "replace-one": -self.length, "add-or-remove": None}[self.relation]

    @property
    def claim(self) -> float:
        """The epsilon that is told, of T rounds."""
        return cost(noises(self.fed), schedule(self.fed, self.parties, self.rounds))

    @property
    def whole(self) -> bool:
        """Are its releases Gaussian ones of everybody's sum, or of a party's own message?"""
        seen_by_server = noises(self.fed)[0].against == "server"
        return seen_by_server or all(
            s["kind"] == "all" for s in schedule(self.fed, self.parties, self.rounds)
        )

    def world(self, canary: float | None, plays: int, seed: int) -> Federation:
        n, absent = self.parties, canary is None
        ones = (1.0,) * n
        client = replace(self.fed.client, canary=0.0 if canary is None else canary)
        data = Quadratics(ones, ones) if not absent else Without(ones, ones)
        return replace(self.fed, client=client, data=data, rounds=plays * self.rounds, seed=seed)


@dataclass(frozen=True)
class Without(Quadratics):
    """The same parties but for the canary."""

    def read(self, seed: int, columns: Any) -> Any:
        whole = super().read(seed, columns)
        return replace(whole, shards=tuple(s for s in whole.shards if s.party != CANARY))


def trial(
    uplink: Any, *, rounds: int = 1, parties: int = 3, length: float = 1.0, dim: int = 8, **slots: Any
) -> Trial:
    """On the quadratic fixture; the canary's length is in units of the clip norm, which is 1."""
    ones = (1.0,) * parties
    base = {
        "client": Sends(against=slots.pop("against", False)),
        "server": Watches(),
        "evaluate": HeldOut(every=10**6, parts=1),
    }
    fed = Federation(Quadratic(dim=dim), Quadratics(ones, ones), uplink=uplink, **base | slots)
    return Trial(fed, rounds, parties, length)


# ---- what is seen ------------------------------------------------------------------------------------------
def seen(fed: Federation, folder: Path) -> Iterator[dict[str, float]]:
    """What each round shows to the observer, as numbers with names."""
    uploads: dict[int, dict[str, Message]] = {}

    def tap(run: Run) -> None:
        decoded = run._decoded

        def tapped(m: Message, job: Any, r: Any, there: Any) -> Message:
            uploads.setdefault(r.ctx.round, {})[job.id] = replace(m, x=m.x.clone())
            return decoded(m, job, r, there)

        run._decoded = tapped  # type: ignore[method-assign]

    played = play(fed, folder, around=tap)
    assert not played.failed, played.failed[0]
    everything = any(s.against == "server" for s in stages_of(fed.uplink))
    for t, x in enumerate(played.run.state.server["seen"].double()):
        found = {
            "first": float(x[0]),
            "second": float(x[1]),
            "spread": float(x[2:].std()),
            "norm": float(x.norm()),
        }
        if everything:
            found |= _message(uploads.get(t, {}).get(CANARY)) | {"uploads": float(len(uploads.get(t, {})))}
        yield found


def _message(m: Message | None) -> dict[str, float]:
    if m is None:
        return {}
    found = {"bytes": float(m.nbytes), "mass": m.mass, "length": float(m.x.numel())}
    for name, t in {"x": m.x, **m.side}.items():
        if t.numel():
            flat = t.reshape(-1).double()
            found |= {
                f"{name}/sum": float(flat.sum()),
                f"{name}/first": float(flat[0]),
                f"{name}/last": float(flat[-1]),
            }
    return found | {f"info/{k}": float(v) for k, v in m.info.items() if isinstance(v, int | float)}


# ---- the attack --------------------------------------------------------------------------------------------
Means = Sequence[
    tuple[float, tuple[float, float]]
]  # probability, and where the sum lies in the two directions


def means(trial: Trial, canary: float | None) -> Means:
    """Of a sum on which central noise lies: who is drawn, and what that adds up to."""
    (sampling,), n = schedule(trial.fed, trial.parties, 1), trial.parties
    others = n - 1
    mine = 0.0 if canary is None else max(-1.0, min(1.0, canary))  # clipped

    def at(here: bool, k: int) -> tuple[float, float]:
        first = mine if here else 0.0
        return (first - k, 0.0) if trial.fed.client.against else (first, float(k))  # type: ignore[attr-defined]

    if sampling["kind"] == "poisson":
        q = sampling["rate"]
        many = [(k, math.comb(others, k) * q**k * (1 - q) ** (others - k)) for k in range(others + 1)]
        both = ((True, q), (False, 1 - q)) if canary is not None else ((False, 1.0),)
        return [(p * c, at(here, k)) for here, p in both for k, c in many]
    if sampling["kind"] == "uniform":
        m = sampling["count"]
        q = m / n if canary is not None else 0.0
        return [(p, at(here, m - here)) for here, p in ((True, q), (False, 1 - q)) if p]
    return [(1.0, at(canary is not None, others))]


def likelihood(trial: Trial, round_: Mapping[str, float]) -> float:
    """The logarithm of how much more likely one round is in the first world, if only the sum could be seen."""
    (stage,), divisor = noises(trial.fed), getattr(trial.fed.aggregate, "denominator", 0.0) or 1.0
    z, at = stage.noise, (round_["first"] * divisor, round_["second"] * divisor)  # type: ignore[attr-defined]
    if stage.against == "server" and not stage.after_sum:  # one message
        worlds: list[Means] = [
            [(1.0, (max(-1.0, min(1.0, c)), 0.0))] for c in (trial.length, trial.other or 0.0)
        ]
    else:
        worlds = [means(trial, c) for c in (trial.length, trial.other)]
    density = [
        math.log(
            sum(
                p * math.exp(-sum((a - b) ** 2 for a, b in zip(at, m, strict=True)) / (2 * z * z))
                for p, m in w
            )
            + 1e-300
        )
        for w in worlds
    ]
    return density[0] - density[1]


def scores(trial: Trial, canary: float | None, plays: int, folder: Path, seed: int) -> dict[str, Tensor]:
    """Every score of every play, (plays,)."""
    rounds = list(seen(trial.world(canary, plays, seed), folder))
    for r in rounds:
        r["likelihood"] = likelihood(trial, r)
    names = dict.fromkeys(n for r in rounds for n in r)
    return {
        n: torch.tensor([r.get(n, 0.0) for r in rounds], dtype=torch.float64)
        .reshape(plays, trial.rounds)
        .sum(1)
        for n in names
    }


def bound(trial: Trial, folder: Path, plays: int = 200, seed: int = 0) -> float:
    """The lower bound of epsilon that the best test can prove."""
    one = scores(trial, trial.length, plays, folder / "one", 2 * seed + 1)
    two = scores(trial, trial.other, plays, folder / "two", 2 * seed + 2)
    proved = partial(_proved, whole_ones=trial.whole)
    zero = torch.zeros(plays, dtype=torch.float64)
    chosen = (one["likelihood"], two["likelihood"], 0.0)  # the best test, if the sum is all that is seen
    best = proved(*(v[:TRIED] for v in chosen[:2]), 0.0)
    for name in one.keys() | two.keys():
        for sign in (1.0, -1.0):
            x, y = (sign * w.get(name, zero) for w in (one, two))
            both = torch.cat([x[:TRIED], y[:TRIED]])
            for cut in torch.quantile(both, torch.linspace(0.02, 0.98, 25, dtype=torch.float64)).tolist():
                if (worth := proved(x[:TRIED], y[:TRIED], cut)) > best:
                    best, chosen = worth, (x, y, cut)
    return proved(chosen[0][TRIED:], chosen[1][TRIED:], chosen[2])


def _proved(with_it: Tensor, without: Tensor, threshold: float, whole_ones: bool) -> float:
    shown = told_apart(with_it, without, threshold)
    return max(shown, _gaussian(with_it, without, threshold)) if whole_ones else shown


def _gaussian(with_it: Tensor, without: Tensor, threshold: float) -> float:
    """The same for whole Gaussian releases, of which more is claimed: no test has more power than mu-GDP allows.

    Phi^-1(p) - Phi^-1(f) <= mu for every test, so a bound of mu from below is one of epsilon.
    """
    p, _ = alarms(int((with_it > threshold).sum()), len(with_it))
    _, f = alarms(int((without > threshold).sum()), len(without))
    inverse = NormalDist().inv_cdf
    mu = inverse(max(p, 1e-12)) - inverse(min(f, 1 - 1e-12))
    return whole(1.0, 1.0 / mu, 1, DELTA) if mu > 1e-3 else 0.0


def _ratio(p: Tensor, f: Tensor) -> float:
    """How telling a pair of rates is, in the middle of what so few plays allow."""
    soft = 1.0 / TRIED
    return max(
        math.log((float(p) + soft) / (float(f) + soft)),
        math.log((1 - float(f) + soft) / (1 - float(p) + soft)),
    )


@functools.cache
def alarms(count: int, of: int) -> tuple[float, float]:
    """Clopper and Pearson's 97.5 % bounds from below and above of a rate, by bisection on the binomial tail."""

    def tail(p: float, k: int) -> float:  # P(X >= k)
        return math.fsum(math.comb(of, j) * p**j * (1 - p) ** (of - j) for j in range(k, of + 1))

    def root(f: Callable[[float], bool]) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if f(middle) else (middle, high)
        return low

    lower = 0.0 if count == 0 else root(lambda p: tail(p, count) > 0.025)
    upper = 1.0 if count == of else root(lambda p: 1 - tail(p, count + 1) < 0.025)
    return lower, upper


def told_apart(with_it: Tensor, without: Tensor, threshold: float) -> float:
    """The lower bound of epsilon from scores in either world, alarms above the threshold."""
    p, _ = alarms(int((with_it > threshold).sum()), len(with_it))
    _, f = alarms(int((without > threshold).sum()), len(without))
    q, _ = alarms(int((without <= threshold).sum()), len(without))
    _, g = alarms(int((with_it <= threshold).sum()), len(with_it))
    return max([0.0, *(math.log((a - DELTA) / b) for a, b in ((p, f), (q, g)) if a > DELTA)])
