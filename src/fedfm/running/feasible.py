"""What only the data can tell: parties enough for a round, weights that fit, an adversary that has members."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch

from fedfm.cards.registry import name_of
from fedfm.checks.exposure import HIGHEST
from fedfm.checks.fitted import fitted
from fedfm.checks.names import strange
from fedfm.core.combine import Pipe, stages_of
from fedfm.core.context import Ctx, Terms
from fedfm.core.errors import FedfmError, Problem
from fedfm.core.federation import Federation
from fedfm.core.protocols import Adversary, Valuer
from fedfm.core.session import Site
from fedfm.core.spending import noises, planned, schedule
from fedfm.direction import unsaid
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.schedule import standing
from fedfm.machine import cores
from fedfm.pace import Speed

MOST_DELTA = 0.1  # a guarantee that fails for one party in ten is none


def feasible(fed: Federation, rows: Mapping[str, int]) -> list[Problem]:
    """What would fail in every round, or do nothing in any, with these parties and their numbers of rows."""
    found: list[Problem] = []
    for k, stage in enumerate(replace(s, stages=()) for s in fed.each):
        here = [
            *strange(stage, rows),
            *standing(stage),
            *_few(stage, len(rows)),
            *_nobody(stage, rows),
            *_short(stage, rows),
            *_late(stage, tuple(rows)),
        ]
        at = f"stages.{k}." if k < len(fed.stages) else ""
        here += _travels(stage, rows) if at else ()  # of the last one below
        found += [replace(p, where=at + p.where) for p in here]
    return [*found, *affordable(fed, rows)]


def _few(fed: Federation, parties: int) -> Iterator[Problem]:
    """Every method that needs more contributors than a round can have."""
    most = fed.select.most(parties)
    why = (
        f"{parties} parties"
        if most == parties
        else f"{name_of(fed.select)} takes {most} of {parties} parties"
    )
    if closes := next((n for n in range(1, most) if fed.pace.enough(n, most, 0.0)), 0):
        most, why = closes, f"{name_of(fed.pace)} closes a round with contribution {closes}"
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


def _short(fed: Federation, rows: Mapping[str, int]) -> Iterator[Problem]:
    """A client that needs several local steps to differ from plain descent, and has fewer at every party."""
    least, most = (
        getattr(fed.client, "least_steps", 1),
        max(map(fed.client.steps_for, rows.values()), default=0),
    )
    if 0 < most < least:
        name = name_of(fed.client)
        yield Problem(
            "client",
            f"{name} does nothing in {most} local step{'s' * (most > 1)} a round",
            f"it begins to act at step {least}: the models would be those of client=local, bit for bit",
            "more steps or epochs, or a smaller batch; or client=local",
        )


def _late(fed: Federation, parties: tuple[str, ...]) -> Iterator[Problem]:
    """A deadline that too few can meet in any round, where nothing of how long work takes is drawn."""
    pace = fed.pace
    deadline_s, speed = getattr(pace, "deadline_s", None), getattr(pace, "speed", None)
    if (
        deadline_s is None
        or pace.late != "cancel"
        or not isinstance(speed, Speed)
        or speed.spread
        or speed.jitter
    ):
        return
    least = (
        speed.duration(Ctx(fed.seed).at(client=parties[0]), 1) if parties else 0.0
    )  # of any work, by anybody
    if least > deadline_s * (1 + 1e-9):
        yield Problem(
            "pace.deadline_s",
            f"no work is done within {deadline_s:g} s: it takes {least:g} s at least",
            "everybody would be late in every round, and every round fail",
            f"pace.deadline_s={least:g} or more, a faster pace.speed, or late=keep",
        )


def _nobody(fed: Federation, rows: Mapping[str, int]) -> Iterator[Problem]:
    """An attack that no party carries out."""
    if type(fed.adversary) is Adversary:
        return
    name, members = name_of(fed.adversary), fed.adversary.members(tuple(rows), Ctx(fed.seed))
    if (asked := getattr(fed.adversary, "count", None)) and asked > len(rows):
        why = f"there are {len(rows)} parties"
        fix = f"adversary.count={len(rows)} at most, or adversary.fraction instead (fedfm show {name})"
        yield Problem("adversary", f"{name} asks for {asked} malicious parties", why, fix)
    if fed.adversary.reads and members and len(members) == len(rows):
        yield Problem(
            "adversary",
            f"{name} knows what the honest parties send, and none of {len(rows)} is honest",
            "there is nothing to know, and nobody whom a defence could keep",
            f"a smaller adversary.fraction or adversary.count (fedfm show {name})",
        )
    if not members:
        share, some = getattr(fed.adversary, "fraction", None), ", ".join(list(rows)[:5])
        why = f"its members() names none of {some}{', ...' * (len(rows) > 5)}"
        fix = f"let {type(fed.adversary).__name__}.members name some of them, or adversary=null"
        if share is not None and share * len(rows) < 1:
            why = f"its share of {len(rows)} parties is less than one"
            fix = f"adversary.count=1, a larger adversary.fraction, or adversary=null (fedfm show {name})"
        yield Problem("adversary", f"{name} has no malicious party", why, fix)


def idle(site: Site) -> list[Problem]:
    """An attack that would change nothing at any of its parties: every defence against it would look perfect."""
    fed, parties = site.fed, site.home.parties
    members = sorted(fed.adversary.members(tuple(parties), Ctx(fed.seed)))
    why = {i: fed.adversary.idle(site.data(i), Ctx(fed.seed, client=i), site.home.bound) for i in members}
    if not members or not all(why.values()):
        return []
    name, first = name_of(fed.adversary), members[0]
    what = f"{name} would change nothing at any of its {len(members)} parties"
    return [Problem("adversary", what, f"{first}: {why[first]}", f"fedfm show {name}")]


def mute(site: Site) -> list[Problem]:
    """A client whose part of the model is empty: nothing would be learnt together, and every round would succeed."""
    client, layout = site.fed.client, site.home.bound.layout
    if client.gives(layout).numbers or not layout.numbers:
        return []
    names = ", ".join(e.name for e in layout.entries[:6])
    return [
        Problem(
            "client",
            f"{name_of(client)} sends nothing of this model",
            f"no tensor is in the part that travels; the model has {names}"
            + ", ..." * (len(layout.entries) > 6),
            f"another pattern of {name_of(client)} (fedfm show {name_of(client)})",
        )
    ]


def undirected(site: Site) -> list[Problem]:
    """Rounds, updates or parties ranked by a score of which nobody has said whether more of it is better; told, where none are."""
    fed, objective = site.fed, site.home.bound.objective
    if not (name := unsaid(objective)):
        return []
    ranks = [f"evaluate.{k}" for k in ("keep_best", "stop_after") if getattr(fed.evaluate, k)]
    scores = type(fed.value).evaluations is Valuer.evaluations and not fed.value.identity()  # or does not say
    ranks += ["value"] if scores or fed.value.evaluations(2) else []
    ranks += ["aggregate"] if fed.aggregate.needs_model else []
    word = "higher" if objective.higher_is_better else "lower"
    if not ranks:
        warnings.warn(
            f"fedfm: nobody has said which way '{name}' is better; {word} values are taken to be. Say it: "
            "task.higher_is_better=true or false (in a task of your own: `higher_is_better` beside `primary`)",
            UserWarning,
            stacklevel=2,
        )
        return []
    by = " and ".join(name_of(getattr(fed, r)) if r in ("value", "aggregate") else r for r in ranks)
    return [
        Problem(
            "task.higher_is_better",
            f"{by} would rank by '{name}', and nobody has said which way it is better",
            "its name does not tell: taken the wrong way, the worst would be kept, or a run that still gains be ended",
            "higher_is_better=False of the task if less of it is better, else higher_is_better=True (in a task of your own: "
            "`higher_is_better` beside `primary`); or a name that tells, such as accuracy or loss",
        )
    ]


def lonely(site: Site) -> list[Problem]:
    """Batches of a single row where the network needs two: batch norm over rows has no variance of one."""
    client = site.fed.client
    drops = any(local.drop_last for local in _locals(client))
    for i, rows in site.home.parties.items():
        size = max(1, min(client.per_step or rows, rows))
        reached = (
            client.steps_for(rows) > rows // size and not drops
        )  # the smaller batch at the end of a pass
        left = (rows % size if reached else 0) or size
        if left == 1 and (why := _alone(site, i)):
            what = f"{i} would train on a batch of one row: {rows} rows in batches of {size}"
            fix = "client.drop_last=true, another client.batch, or a norm that needs no second row (LayerNorm, GroupNorm)"
            return [Problem("client", what, why, fix)]
    return []


def _alone(site: Site, party: str) -> str:
    """What the network says to a batch of one row of a party; empty when it can learn of it."""
    bound = site.home.bound.at(party, Terms())
    start, rows = bound.read(), site.data(party)
    modes = [(m, m.training) for m in bound.module.modules()]
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            bound.module.train()
            bound.objective.loss(bound.module, bound.batch(rows, torch.arange(1)))
    except ValueError as e:
        return str(e)
    finally:
        bound.load(start)
        for module, training in modes:
            module.training = training
    return ""


def _locals(spec: Any) -> Iterator[Local]:
    """The local trainings that a client is made of."""
    if isinstance(spec, Local):
        yield spec
    elif isinstance(spec, Mapping):
        for value in spec.values():
            yield from _locals(value)
    elif is_dataclass(spec) and not isinstance(spec, type):
        for f in fields(spec):
            yield from _locals(getattr(spec, f.name))


def promise(fed: Federation, parties: int) -> str:
    """What the plan's epsilon is, and whom it protects, before anything runs; empty without a guarantee or a round."""
    ready = planned(fed, parties)
    if not (stages := noises(ready)) or (spent := spends(ready, parties)) is None:
        return ""
    budget = min((s.budget for s in stages if s.budget is not None), default=None)
    stop = (
        f"; the run stops before epsilon {budget:g}" if budget is not None and budget < spent.epsilon else ""
    )
    return f"{fed.last} rounds would spend {spent}{stop}"


def spends(ready: Federation, parties: int) -> Any:
    """The cost of the plan of a federation whose noise is known: all of its stages are one ledger. None without a round."""
    from fedfm.trust.privacy import accountant

    events = [
        e | {"round": e["round"] + stage.since}
        for stage in ready.each
        for e in accountant.plan(noises(stage), schedule(stage, parties))
    ]
    return accountant.spent(events, parties=parties)


def affordable(fed: Federation, sizes: Mapping[str, int]) -> list[Problem]:
    """What only the number of parties can tell of a plan: its epsilon, its budget, its range. `sizes`: rows by party."""
    found = list[Problem]()
    if stages := noises(fed):
        try:
            ready = planned(fed, len(sizes))
            spent = spends(ready, len(sizes))
            epsilon = 0.0 if spent is None else spent.epsilon
            begun = ready.each[0]
            first = stages[0].accountant.cost(noises(begun), schedule(begun, len(sizes))[:1])
        except FedfmError as e:
            what = "the plan's epsilon cannot be computed"
            return [Problem("uplink", what, str(e), "another selector, or other settings")]
        found += [] if spent is None else _hollow(spent, len(sizes))
        budget = min((s.budget for s in stages if s.budget is not None), default=first)
        if budget < first:
            what = f"a budget of epsilon {budget:g} allows no round: the first one would spend {first:.2f}"
            fix = "a larger budget, or more noise (a larger noise_multiplier)"
            found.append(Problem("uplink", what, "the run would end with the model that it began with", fix))
        if epsilon > HIGHEST:
            names = " and ".join(map(name_of, stages))
            found.append(
                Problem(
                    "uplink",
                    f"{fed.last} rounds under {names} would spend epsilon {epsilon:.1f}",
                    f"beyond epsilon {HIGHEST:g} no meaningful guarantee is left",
                    _less(stages, noises(begun)),
                )
            )
    return [*found, *_travels(fed, sizes)]


def _less(asked: Sequence[Any], ready: Sequence[Any]) -> str:
    """How a plan spends less: in the words in which it was said, for epsilon and no_guarantee exclude each other."""
    if all(s.epsilon is None for s in asked):
        return f"more noise (or epsilon={HIGHEST:g} in place of noise_multiplier), fewer rounds; or say so: no_guarantee=true"
    noise = ", ".join(dict.fromkeys(f"{s.noise:.3g}" for s in ready))
    dropped = "epsilon and budget" if any(s.budget is not None for s in asked) else "epsilon"
    return (
        f"epsilon={HIGHEST:g} or less; or in place of {dropped} say so, with the noise: noise_multiplier={noise} "
        "no_guarantee=true"
    )


def _hollow(spent: Any, parties: int) -> Iterator[Problem]:
    """A claim that its delta alone fulfils, or that fails for one party in ten: it says nothing of what noise does."""
    delta = spent.delta
    if delta < MOST_DELTA and (spent.epsilon > 0.0 or delta < 1.0 / parties):
        return
    yield Problem(
        "uplink",
        f"epsilon {spent.epsilon:.2f} at delta {delta:g} of {parties} parties is no guarantee",
        "whoever publishes all rows of one party in that share of runs keeps it, with no noise at all"
        if spent.epsilon == 0.0
        else f"it allows that a party's rows are told as they are with probability {delta:g}",
        f"delta={_small(parties):g} or less, well below 1 / parties; or say so: no_guarantee=true",
    )


def caveats(fed: Federation, parties: int) -> list[str]:
    """What a person should know before it begins: threads beyond the cores, what a guarantee's delta allows, and what it
    says nothing of."""
    said, start = [crowded(fed.threads), loose(fed, parties)], getattr(fed.task, "start", None)
    if start and any(noises(stage) for stage in planned(fed, parties).each):
        said.append(
            f"the guarantee is of this run alone: what {start} holds was learnt before it, and if it was learnt from rows of these "
            "parties, their epsilons add up, or without a guarantee there none holds"
        )
    if (here := fitted(fed)) and any(noises(stage) for stage in planned(fed, parties).each):
        said.append(
            f"{' and '.join(here)}: such settings shape what is given away, and no epsilon covers what they were taken from: agree "
            "on them beforehand, from public rows or from what is known anyway, not from rows of these parties"
        )
    return [text for text in said if text]


def crowded(threads: int) -> str:
    """A word on more threads than this machine has cores; empty where they fit."""
    here = cores()
    if threads <= here:
        return ""
    return f"threads={threads} on {here} cores: they wait for each other; threads={here} is faster, with other bits"


def loose(fed: Federation, parties: int) -> str:
    """A word on a delta that does not rule out what a guarantee is for; empty where it does, or nothing is promised."""
    deltas = [s.release().get("delta", 0.0) for stage in planned(fed, parties).each for s in noises(stage)]
    delta = max(deltas, default=0.0)
    if delta * parties < 1.0:
        return ""
    return (
        f"delta {delta:g} is not below 1 / {parties} parties: publishing one of them at random would keep that promise, "
        f"whatever its epsilon; delta={_small(parties):g} or less says more"
    )


def _small(parties: int) -> float:
    """A delta of one significant digit, a hundredth of 1 / parties or less."""
    return float(10.0 ** math.floor(math.log10(0.01 / max(1, parties))))


def _travels(fed: Federation, sizes: Mapping[str, int]) -> Iterator[Problem]:
    """Shares of noise that drop out with their party, and weights that a stage of the uplink cannot carry."""
    stages, cohort = stages_of(fed.uplink), fed.select.most(len(sizes))
    few = min((s.survivors(cohort) for s in stages if s.opaque), default=cohort)
    for stage in stages:
        if stage.shares and stage.against and few < stage.shares:
            what = f"{name_of(stage)} divides its noise among {stage.shares} parties, {few} of {cohort} may remain"
            why = "who drops out takes a share of the noise along: the sum would be noisy by less than was promised"
            yield Problem("uplink", what, why, f"shares={few}, or a higher threshold of the masks")
    who, most = max(sizes.items(), key=lambda kv: kv[1], default=("", 0))
    counted = fed.aggregate.alpha_max is None
    for i, stage in enumerate(stages_of(fed.uplink)):
        if why := stage.fits(float(most if counted else 1), len(sizes)):
            told = f"of {who}, which holds {most} rows" if counted else "1 of a party"
            told = f"the sum of {len(sizes)} parties" if stage.fits(0.0, len(sizes)) else f"the weight {told}"
            what = f"{name_of(stage)} cannot carry {told}"
            harm, _, settings = why.rpartition(": ")
            at = f"uplink.{i}" if isinstance(fed.uplink, Pipe) else "uplink"
            fix = " ".join(f"{at}.{s}" for s in settings.split(", "))
            yield Problem(at, what, f"{harm}; it would fail in every round, after its training", fix)
