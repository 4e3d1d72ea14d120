"""Laws of selectors, paces and rewards: who works, when a round closes, who is paid."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedfm.around import AroundSelector
from fedfm.core.context import Ctx, Terms
from fedfm.core.federation import Federation, replace
from fedfm.core.message import Message
from fedfm.core.protocols import Load, Pace, Plan, Reward, Selector
from fedfm.efficiency.communication.codec.qsgd import QSGD
from fedfm.efficiency.training.local import Local
from fedfm.laws.compare import kept, same
from fedfm.laws.homes import Home, play, quadratics, slot_of
from fedfm.laws.law import hold, law
from fedfm.ledger.events import Line, Planned

POOLS = (5, 2, 1, 0)  # the empty one last: who fails there is told first what is wrong elsewhere


def _home(spec: Any, within: Federation | None, folder: str) -> Home:
    fed = within if within is not None else quadratics()
    return Home(replace(fed, **{slot_of(spec): spec}), Path(folder))


def _planned(
    s: Selector, home: Home, pool: Mapping[str, int], ctx: Ctx
) -> tuple[Plan, dict[str, Any], dict[str, Message]]:
    """Ask, then plan, as the loop does; the state begins with the whole population."""
    state = s.init({i: len(home.parties.train(i)) for i in home.ids}, ctx)
    answers: dict[str, Message] = {}
    if s.asks:
        asked = s.candidates(pool, state, ctx)
        hold(len(set(asked)) == len(asked) and set(asked) <= set(pool), f"it asks {asked} of {list(pool)}")
        question = s.question(Message(home.bound.init, "weights"), pool, state, ctx)
        answers = {i: s.answer(question, home.site.data(i), ctx.at(client=i), home.bound) for i in asked}
    plan, new = s.select(pool, state, ctx, answers)
    return plan, new, answers


@law(Selector)
def plans_name_free_parties_once(s: Selector, within: Federation | None) -> None:
    """From pools of 5, 2, 1 and 0 parties: only they are planned, each once, and promised only if planned."""
    with tempfile.TemporaryDirectory() as folder:
        home = _home(s, within, folder)
        for n in POOLS:
            for t in range(4):
                pool = {i: len(home.parties.train(i)) for i in home.ids[:n]}
                plan, _, _ = _planned(s, home, pool, Ctx(7, t, events=[]))
                ids = [i for i, _ in plan.jobs]
                hold(
                    set(ids) <= set(pool) and len(set(ids)) == len(ids), f"{ids} were planned of {list(pool)}"
                )
                hold(all(isinstance(terms, Terms) for _, terms in plan.jobs), "a plan is (id, Terms) pairs")
                hold(set(plan.promised) <= set(ids), "somebody outside the plan was promised money")
                json.dumps(dict(plan.sampling))


@law(Selector)
def a_plan_follows_from_its_context(s: Selector, within: Federation | None) -> None:
    """The same pool, state and context give the same plan; pool and state are left as they were."""
    with tempfile.TemporaryDirectory() as folder:
        home = _home(s, within, folder)
        pool = {i: len(home.parties.train(i)) for i in home.ids}
        ctx = Ctx(7, 2, events=[])
        one, state, answers = _planned(s, home, pool, ctx)
        two, _, _ = _planned(s, home, pool, ctx)
        hold(one == two, f"{one} and {two} in one context")
        before = kept((dict(pool), state))
        s.select(pool, state, ctx.at(round=3), answers)
        hold(same((dict(pool), state), before), "it changed the pool or its state in place")


class _Curious(Selector):
    """Asks for losses, of a cohort of random size."""

    asks = random_size = True


@law(Selector, when=lambda s: isinstance(s, AroundSelector))
def a_wrapper_says_what_its_inner_selector_does(s: Selector, within: Federation | None) -> None:
    """`check` refuses by these facts; one that is lost inside a wrapper is a promise that is silently broken."""
    wrapped = dataclasses.replace(s, inner=_Curious())  # type: ignore[call-arg]
    for fact in ("asks", "releases", "random_size"):
        hold(getattr(wrapped, fact), f"its inner selector's `{fact}` is not its own")


@law(Selector)
def codecs_do_not_change_who_is_selected(s: Selector, within: Federation | None) -> None:
    """Streams are named, so a stage that draws random numbers leaves the cohorts as they were."""
    fed = replace(within if within is not None else quadratics(), select=s, client=Local(lr=0.0), rounds=3)
    plans = [
        [e["clients"] for e in sorted(_events(f), key=lambda e: e["round"])]
        for f in (fed, replace(fed, uplink=QSGD()))
    ]
    hold(plans[0] == plans[1], f"without a codec {plans[0]}, with one {plans[1]}")


def _events(fed: Federation) -> list[Line]:
    return [e for e in play(fed).events if e["kind"] == Planned.kind]


@law(Pace)
def a_pace_is_sound(pace: Pace, within: Federation | None) -> None:
    """Room is not negative, work takes no negative time, a quorum is between 1 and all, and all of it repeats."""
    for busy in (0, 1, 7, 100):
        for want in (0, 1, 20):
            hold(pace.room(busy, want) >= 0, f"room({busy}, {want}) is {pace.room(busy, want)}")
    for k in range(20):
        ctx = Ctx(7, k, client=f"party-{k % 3}")
        hold(pace.due(5.0, ctx, Load()) >= 5.0, "work that begins at 5 is done before")
        hold(pace.due(5.0, ctx, Load()) == pace.due(5.0, ctx, Load()), "the same work takes another time")
        hold(pace.lost("upload", ctx) == pace.lost("upload", ctx), "the same party is lost and not lost")
    for planned in range(1, 50):
        q = pace.quorum(planned)
        hold(1 <= q <= planned, f"quorum({planned}) is {q}")
        hold(isinstance(pace.enough(q, planned, 1e9), bool), "enough() is yes or no")
    hold(pace.late in ("keep", "cancel"), f"late is '{pace.late}'")
    hold(
        pace.partial or not any(pace.enough(k, 9, 1e9) for k in range(9)),
        "it closes rounds early and does not declare `partial`",
    )


@law(Reward)
def only_who_delivered_is_paid(reward: Reward, within: Federation | None) -> None:
    """Payments go to those who delivered, are not negative, and sum to at most the budget (where there is one)."""
    ids = tuple(f"party-{k}" for k in range(5))
    budget = float(vars(reward).get("budget", math.inf))
    share = min(budget, 100.0) / 5
    plan = Plan(tuple((i, Terms()) for i in ids), promised=dict.fromkeys(ids, share))
    cases: tuple[dict[str, float], ...] = (
        {},
        dict.fromkeys(ids, 0.0),
        dict(zip(ids, (3.0, 2.0, 1.0, 0.5, -1.0), strict=True)),
        dict(zip(ids, (-3.0, -2.0, 1e-9, float("nan"), 1e9), strict=True)),
    )
    for delivered in ((), ids[:1], ids[1:4], ids):
        for values in cases:
            state: dict[str, Any] = {}
            before = kept((values, state))
            paid, new = reward.pay(plan, delivered, values, state, Ctx(7, 1, events=[]))
            hold(set(paid) <= set(delivered), f"{set(paid) - set(delivered)} did not deliver and were paid")
            hold(all(p >= 0 for p in paid.values()), f"negative payments: {paid}")
            hold(sum(paid.values()) <= budget * (1 + 1e-12), f"{sum(paid.values())} was paid of {budget}")
            hold(same((values, state), before), "it changed the values or its state in place")
            hold(
                reward.pay(plan, delivered, values, state, Ctx(7, 1, events=[])) == (paid, new),
                "the same round is paid twice differently",
            )


def _auction(s: Selector) -> bool:
    return s.promises and {"budget", "misreport"} <= {f.name for f in dataclasses.fields(s)}


@law(Selector, when=_auction)
def truth_pays(s: Selector, within: Federation | None) -> None:
    """Winners get at least their cost, all together at most the budget, and no factor on an ask gains a cent."""
    with tempfile.TemporaryDirectory() as folder:
        home = _home(s, within, folder)
        pool = {i: len(home.parties.train(i)) for i in home.ids}
        ctx, cent = Ctx(7, 1, events=[]), 0.01

        def gains(auction: Any) -> dict[str, float]:
            plan, _, _ = _planned(auction, home, pool, ctx)
            hold(
                sum(plan.promised.values()) <= auction.budget + 1e-9,
                f"{plan.promised} exceeds {auction.budget}",
            )
            return {i: p - auction.cost(ctx.at(client=i)) for i, p in plan.promised.items()}

        import dataclasses

        for budget in (5.0, 20.0, 100.0):
            honest: Any = dataclasses.replace(s, budget=budget, misreport={})  # type: ignore[call-arg]
            true = gains(honest)
            hold(all(g >= -1e-9 for g in true.values()), f"somebody is paid below cost: {true}")
            for i in home.ids:
                for factor in (0.0, 0.5, 0.9, 1.1, 1.5, 3.0):
                    lied = gains(dataclasses.replace(honest, misreport={i: factor}))
                    hold(
                        lied.get(i, 0.0) <= true.get(i, 0.0) + cent,
                        f"{i} gains {lied.get(i, 0.0)} with {factor} times its cost, {true.get(i, 0.0)} with the truth",
                    )
