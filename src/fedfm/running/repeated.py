"""A method of one's own gives the same when it is called again, and what it says: tried on what its first round would see.

Whatever it keeps elsewhere than in its state (an attribute, a global) other processes and a resume do not have, and
what it draws elsewhere than from the context's streams no seed of the run reaches.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fedfm.cards.registry import name_of
from fedfm.core.combine import stages_of
from fedfm.core.context import Ctx, Terms
from fedfm.core.errors import FedfmError, Problem
from fedfm.core.federation import Federation
from fedfm.core.fold import Fold
from fedfm.core.job import Job
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregate, Client, Wire
from fedfm.core.session import Site
from fedfm.core.state import leaves
from fedfm.core.talk import by_hand
from fedfm.laws.compare import same
from fedfm.running.record import own

STEPS = 2  # local steps of a trial: what a method keeps it keeps after any number
PARTIES = 2  # one may have nothing to learn
NEAR = 0.5  # of the model's length: weights are nearer to the model that was sent than this, updates and nothing else are not
RTOL = 1e-3  # where a device does not repeat its own sums


def own_slots(fed: Federation) -> list[str]:
    """The slots that hold methods of the user's own, or of parts that are."""
    return [slot for slot, method in fed.methods().items() if slot in TRIALS and own.modules(method)]


def changing(site: Site, slots: Sequence[str]) -> list[Problem]:
    """Those of these slots whose first call, made twice, gives two things, or another thing than is said.

    Model and generators are put back.
    """
    found, methods = list[Problem](), site.fed.methods()
    rtol = RTOL if site.bound.device.type == "cuda" else 0.0
    for slot in slots:
        wrong: list[Problem] = []
        try:
            with _kept(site):
                once = TRIALS[slot](site)
                if not same(once, TRIALS[slot](site), rtol):
                    wrong = [_problem(slot, methods[slot])]
                elif slot == "client" and (says := _misnamed(site, once)):
                    wrong = [_other_kind(methods[slot], *says)]
        except _Written:
            wrong = [_writes(slot, methods[slot])]
        except BaseException as e:  # noqa: BLE001 - it fails in its round, with its line
            if by_hand(e):
                raise
        if broke := _broken(site):  # nothing else can be tried on it
            return [*found, Problem(slot, f"{name_of(methods[slot])}: {broke[0]}", *broke[1:])]
        found += wrong
    return found


def _broken(site: Site) -> tuple[str, str, str] | None:
    """What is not as it was opened of a party's module: what, why, and the fix."""
    for _, bound, _ in site.fed.task.each(site.bound, site.parties.ids).values():
        try:
            bound.check()
        except FedfmError as e:
            what, _, rest = str(e).partition("\n    why: ")
            why, _, fix = rest.partition("\n    fix: ")
            return (
                what,
                why or "the next party in this process would train with it",
                fix or "leave it as it was",
            )
    return None


class _Written(Exception):
    """A method has written into what it was given."""


@contextlib.contextmanager
def _lent(*given: Tensor) -> Iterator[None]:
    """Raises _Written where these are not what they were, also by ways that torch's count of versions does not see."""
    was = [t.clone() for t in given]
    yield
    if not all(map(torch.equal, was, given)):
        raise _Written


def _writes(slot: str, method: Any) -> Problem:
    return Problem(
        slot,
        f"{name_of(method)} writes into what it was given",
        "that is others' too: in one process they would go on from what it wrote, in worker processes they would not",
        "let it work on a copy: x.clone(), x.numpy().copy()",
    )


def _problem(slot: str, method: Any) -> Problem:
    return Problem(
        slot,
        f"{name_of(method)} gives something else when it is called again with the same input",
        "it keeps something outside its state (an attribute, a global) or draws elsewhere than from ctx: worker "
        "processes and a resume do not have that, so each would end with another model",
        "keep it in the state that the method is given and returns; draw from ctx.rng('NAME')",
    )


def _misnamed(site: Site, worked: Sequence[Any]) -> tuple[str, str] | None:
    """(what the client says that it sends, what it sends), where those are weights and differences of weights."""
    says, layout = site.fed.client.makes, site.bound.layout
    model = layout.weights(site.fed.serving.brief(_opening(site), Terms()).x).float().cpu()
    ends = [out[0] for out in worked if isinstance(out, tuple) and isinstance(out[0], Message)]
    sent = [layout.weights(m.x).float().cpu() for m in ends if m.x.numel() == layout.size]
    near = [bool((x - model).norm() < NEAR * model.norm()) for x in sent]
    if says == "delta" and near and all(near):
        return says, "weights"
    return (says, "delta") if says == "weights" and near and model.norm() and not any(near) else None


def _other_kind(client: Any, says: str, sends: str) -> Problem:
    found = f"after {STEPS} steps or fewer what it sends is"
    why, fix = {
        "weights": (
            f"{found} nearly the model that it was given, which would be doubled",
            "send x - brief.x",
        ),
        "delta": (
            f"{found} far from the model that it was given, whose place it would take",
            "send brief.x + it",
        ),
    }[sends]
    what = f"{name_of(client)} says that it sends {says}, and sends {sends}"
    return Problem("client", what, why, f"{fix}, or say makes = '{sends}'")


@contextlib.contextmanager
def _kept(site: Site) -> Iterator[None]:
    """The models of all parties, their modes and torch's generators are afterwards what they were."""
    bounds = [b for _, b, _ in site.fed.task.each(site.bound, site.parties.ids).values()]
    before = [b.read() for b in bounds]
    modes = [(m, m.training) for b in bounds for m in b.module.modules()]
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for bound, flat in zip(bounds, before, strict=True):
            bound.load(flat)
        for module, training in modes:
            module.training = training


def _ctx(site: Site) -> Ctx:
    return Ctx(site.fed.seed, 1, simulated=site.fed.simulated, events=[], layout=site.bound.layout)


def _opening(site: Site) -> Any:
    return site.fed.serving.init(site.bound, Ctx(site.fed.seed))


def _worked(site: Site, client: Client) -> Any:
    """What some parties would send and keep, after a few steps; the first word of a client that converses."""
    found: list[Any] = []
    for party in site.parties.ids[:PARTIES]:
        guard, job = site.guard, Job("train", party, 0, round=1)
        ctx, bound = guard.context(job), site.bound.at(party, Terms())
        with ctx.ambient():
            brief = site.fed.serving.brief(_opening(site), Terms())
            with _lent(brief.x):
                out = _brief(client).work(brief, guard.data(party), {}, ctx, bound)
                found.append(next(out).message if isinstance(out, Generator) else out)
    return found


def _brief(spec: Any) -> Any:
    """The same method with no more than a few local steps, wherever in it they are counted."""
    if not is_dataclass(spec) or isinstance(spec, type):
        return spec
    held = {f.name: getattr(spec, f.name) for f in fields(spec) if f.init}
    less = {k: small for k, v in held.items() if (small := _brief(v)) is not v}
    if isinstance(steps := held.get("steps"), int) and steps > STEPS:
        less["steps"] = STEPS
    if held.get("epochs") is not None and "steps" in held:
        less |= {"epochs": None, "steps": STEPS}
    return replace(spec, **less) if less else spec


def _coded(site: Site, wire: Wire) -> Any:
    """What each stage of the user's own makes of one update; one that hides single messages draws secrets."""
    m, layout = _messages(site)[0], site.fed.client.gives(site.bound.layout)
    there = _ctx(site).at(client=m.sender, layout=layout)
    with _lent(m.x):
        return [s.encode(m.x, {}, there) for s in stages_of(wire) if own.modules(s) and not s.opaque]


def _planned(site: Site) -> Any:
    select, pool, ctx = site.fed.select, site.home.parties, _ctx(site)
    plan, state = select.select(pool, select.init(pool, Ctx(site.fed.seed)), ctx, {})
    return plan.jobs, dict(plan.promised), state


def _messages(site: Site) -> Sequence[Message]:
    """Updates of the first parties, as many as a rule needs, all unlike."""
    layout, fed = site.fed.client.gives(site.bound.layout), site.fed
    draw, found = torch.Generator().manual_seed(1), []
    for party in site.parties.ids[: max(2, fed.aggregate.least)]:
        shapes = {e.name: torch.randn(e.shape, generator=draw) * 1e-2 for e in layout.entries}
        mass = float(site.home.parties[party])
        found.append(Message(layout.pack(shapes), fed.client.makes, mass=mass, sender=party, version=1))
    return found


def _aggregated(site: Site) -> Any:
    rule, ctx, messages = site.fed.aggregate, _ctx(site), _messages(site)
    state = rule.init(site.parties.ids, Ctx(site.fed.seed))
    with _lent(*(m.x for m in messages)):
        if rule.form == "all":
            return rule.combine(messages, state, ctx)
        fold = Fold(site.fed.fold)
        for m in messages:
            fold.add(rule.lift(m, ctx.at(client=m.sender)), m.sender)
    return rule.finish(fold.total(), fold.mass, len(fold.ids), state, ctx)


def _stepped(site: Site) -> Any:
    messages, state = _messages(site), _opening(site)
    ids = tuple(m.sender for m in messages)
    agg = Aggregate(messages[0].x, len(ids), ids, len(site.parties.ids), (1,) * len(ids))
    with _lent(agg.x, *(v for v in leaves(state) if isinstance(v, Tensor))):
        return site.fed.serving.step(state, agg, _ctx(site))


TRIALS: dict[str, Callable[[Site], Any]] = {
    "client": lambda site: _worked(site, site.fed.client),
    "adversary": lambda site: _worked(site, site.fed.adversary.wrap(site.fed.client)),
    "select": _planned,
    "uplink": lambda site: _coded(site, site.fed.uplink),
    "downlink": lambda site: _coded(site, site.fed.downlink),
    "aggregate": _aggregated,
    "server": _stepped,
}
