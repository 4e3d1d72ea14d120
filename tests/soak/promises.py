"""What must hold of any run, whatever is in it; each is a generator of what does not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from scipy.optimize import brentq
from scipy.stats import norm

from fedfm.core.combine import stages_of
from fedfm.core.federation import Federation, readers
from fedfm.core.protocols import Adversary
from fedfm.efficiency.training.local import Local
from fedfm.laws.compare import same
from fedfm.laws.homes import Played
from fedfm.running.verdict import FAILED, judge
from fedfm.trust.privacy.accountant import spent

DELTA = 1e-5


def sane(played: Played) -> Iterator[str]:
    """Finite, complete, and nobody is missing without a reason."""
    yield from _complete(played)
    yield from _finite_all(played)
    for e in played.events:
        if e["kind"] == "pay" and not e["amount"] >= 0:
            yield f"a payment of {e['amount']}"
        if (
            e["kind"] in ("failed", "refused")
            and "Error" in (why := e.get("error") or e["reason"]).split(":")[0]
        ):
            yield f"a method's own error is booked as a party's failure: {why}"
    yield from _missing(played)
    if played.records[1:] and all(r["failed"] for r in played.records[1:]):
        yield from _everybody(played)


def _complete(played: Played) -> Iterator[str]:
    """A record a round, unless a privacy budget ends the run; who contributed, or why the round failed."""
    fed = played.run.fed
    budget = any(s.budget is not None for s in stages_of(fed.uplink))
    if len(played.records) != fed.rounds + 1 and not budget:
        yield f"{len(played.records)} records of {fed.rounds} rounds"
    for r in played.records[1:]:
        if r["failed"] is not None and r["failed"] != "" and len(r["failed"]) < 10:
            yield f"round {r['round']} failed without a reason: {r['failed']!r}"
        if (r["clients"] == 0) != bool(r["failed"]):
            yield f"round {r['round']}: {r['clients']} contributed, failed: {r['failed']!r}"


def _finite_all(played: Played) -> Iterator[str]:
    """Model, states, metrics and facts are numbers."""
    state = played.run.state
    if not bool(played.model.isfinite().all()):
        yield "the model is not finite"
    for what in (state.server, state.slots):
        yield from (f"a state is not finite: {k}" for k, v in _leaves(what) if not _finite(v))
    for r in played.records[1:] if not _said_to_fail(played) else ():
        for name, value in (r.get("metrics") or {}).items():
            if not math.isfinite(value):
                yield f"round {r['round']}: {name} is {value}"
    for e in played.events:
        for k, v in e.items():
            if isinstance(v, float) and not math.isfinite(v):
                yield f"{e['kind']} has {k}={v}"


def _said_to_fail(played: Played) -> bool:
    """Does the verdict say so? A finite model can be so far away that its loss is beyond every number."""
    run = played.run
    found = judge(
        records=played.records,
        events=played.events,
        rows=run.parties,
        malicious=run.malicious,
        primary=run.bound.objective.primary,
    )
    return found.status == FAILED


def _everybody(played: Played) -> Iterator[str]:
    """Who all fail in every round, and not for their numbers, stand in a federation that `check` should have refused."""
    whole = [(e["round"], i) for e in played.events if e["kind"] == "plan" for i in e["clients"]]
    why = {(e["round"], e["client"]): e.get("error") or e["reason"] for e in played.events
           if e["kind"] == "failed" or (e["kind"] == "refused" and e["by"] == "hub")}  # fmt: skip
    numbers = ("not finite", "lower", "beyond", "range", "simulated")
    if whole and all(k in why and not any(n in why[k] for n in numbers) for k in whole):
        yield f"everybody fails in every round: {why[whole[0]]}"


def _missing(played: Played) -> Iterator[str]:
    """Where a round waits for all, who was planned and did not contribute has an event that says why."""
    if played.run.fed.pace.late == "keep" or played.run.fed.pace.partial:
        return
    for r in played.records[1:]:
        events = [e for e in played.events if e["round"] == r["round"] - 1]
        planned = {i for e in events if e["kind"] == "plan" for i in e["clients"]}
        why = {e["client"] for e in events if e["kind"] in ("failed", "refused", "dropout", "late")}
        if r["planned"] != len(planned):
            yield f"round {r['round']}: {r['planned']} planned, {len(planned)} in the ledger"
        if not r["failed"] and len(planned - why) > r["clients"]:
            yield f"round {r['round']}: {len(planned - why) - r['clients']} parties are missing without a reason"


def told(played: Played, said: Counter[str]) -> Iterator[str]:
    """The bytes of the ledger are those of the packed messages."""
    if played.run.fed.pace.late == "keep" or played.run.fed.pace.partial:
        return  # what is under way at the end, or was never waited for, is in no ledger
    for way in ("up", "down", "talk"):
        total = sum(r["bytes"][way] for r in played.records)
        if total != said[way]:
            yield f"{total} bytes {way} in the ledger, {said[way]} were packed"


def private(played: Played) -> Iterator[str]:
    """Epsilon again, from the events alone: in closed form where every release is of everybody, else below that."""
    releases = [e for e in played.events if e["kind"] == "privacy"]
    local = {e["client"] for e in releases if e["mechanism"] == "local-gaussian"}
    try:
        account = spent(played.events, DELTA)
    except Exception as e:  # noqa: BLE001 - whatever it is, it is found at the end of a run that `check` let begin
        yield f"the accountant refuses what check let through: {type(e).__name__}: {e}"
        return
    if not releases:
        if account is not None:
            yield "privacy was spent and nothing was released"
        noisy = not any(getattr(s, "no_guarantee", False) for s in stages_of(played.run.fed.uplink)) and any(
            s.perturbs and getattr(s, "noise_multiplier", 1) for s in stages_of(played.run.fed.uplink)
        )
        if noisy and any(not r["failed"] for r in played.records[1:]):
            yield "noise in the uplink, and no release in the ledger"
        return
    of = [[e for e in releases if e["client"] == i] for i in local] or [releases]
    plans = {e["sampling"]["kind"] for e in played.events if e["kind"] == "plan"}
    twice = {"replace-one": 2.0}  # one party replaced moves a clipped sum twice as far
    mu = max(
        math.sqrt(sum((twice.get(e["relation"], 1.0) / e["noise_multiplier"]) ** 2 for e in mine))
        for mine in of
    )
    whole = _gaussian(mu)
    exact = bool(local) or plans <= {"all"}
    assert account is not None
    slack = 1e-2 * whole + 1e-2
    if account.epsilon > whole + slack or (exact and account.epsilon < whole - slack):
        yield f"epsilon {account.epsilon}, {whole} by hand{' ' if exact else ' without the sampling'}"


def _gaussian(mu: float) -> float:
    """Epsilon at DELTA of a Gaussian release of sensitivity over noise `mu` (Balle and Wang 2018, theorem 8)."""

    def beyond(eps: float) -> float:
        tail = norm.logcdf(-eps / mu - mu / 2) + eps
        return float(norm.cdf(mu / 2 - eps / mu) - math.exp(min(tail, 700.0)) - DELTA)

    return 0.0 if beyond(0.0) <= 0 else float(brentq(beyond, 0.0, mu * mu + 20 * mu + 1))


def descends(played: Played) -> Iterator[str]:
    losses = [r["metrics"]["loss"] for r in played.records if r.get("metrics")]
    if all(r["failed"] for r in played.records[1:]):
        yield f"every round failed: {played.failed[0]}"
    if not losses[-1] <= losses[0] * (1 + 1e-6):
        yield f"the loss went from {losses[0]} to {losses[-1]}"


def unlike(one: Played, two: Played, *, resumed: bool = False) -> Iterator[str]:
    """How two runs of one federation differ."""
    if not torch.equal(one.model, two.model):
        yield f"models differ by {float((one.model - two.model).abs().max()):g}"
    if one.digest != two.digest:
        a, b = ([e for e in p.events if e["kind"] != "seconds"] for p in (one, two))
        differ = [(x, y) for x, y in zip(a, b, strict=False) if x != y][:1]
        yield f"ledgers of {len(a)} and {len(b)} events differ: {differ}"
    for what in ("server", "slots", "clock"):
        if not same(getattr(one.run.state, what), getattr(two.run.state, what)):
            yield f"the state '{what}' differs"
    for what in ("accepted", "decode", "down"):  # versions: another attempt has other numbers
        if getattr(one.run.state, what).keys() != getattr(two.run.state, what).keys():
            yield f"'{what}' names other parties"
    if not resumed:
        a, b = (
            [{k: v for k, v in r.items() if k not in ("seconds", "cpu")} for r in p.records]
            for p in (one, two)
        )
        if repr(a) != repr(b):
            yield "the records differ"


def indifferent(one: Played, two: Played) -> Iterator[str]:
    """The twin's model: the same bits where messages are summed alike, else nearly the same."""
    a, b = one.run.fed, two.run.fed
    alike = (a.fold, a.select) == (b.fold, b.select) and _masked(a) == _masked(b)
    alike = alike and any(True for _ in readers(a)) == any(True for _ in readers(b))
    off = float((one.model - two.model).abs().max())
    large = max([1.0, *(e["norm"] for e in one.events if e["kind"] == "upload" and e.get("norm"))])
    failed = [[bool(r["failed"]) for r in p.records[1:]] for p in (one, two)]
    gone = [[(e["round"], e["client"]) for e in p.events if e["kind"] == "refused"] for p in (one, two)]
    if alike and failed[0] != failed[1]:
        yield f"its rounds fail otherwise: {failed}"
    elif not alike and gone[0] != gone[1]:
        return  # what is beyond the range of fixed point is refused there, and says so
    elif failed[0] == failed[1] and (alike and off or off > 1e-3 * (large + float(one.model.abs().max()))):
        yield f"its model is another: off by {off:g}"


def _masked(fed: Federation) -> bool:
    return any(s.opaque for s in stages_of(fed.uplink))


def is_smooth(fed: Federation) -> bool:
    """Does a change in the last bits of a sum stay one? No code, rule or choice that turns on a threshold."""
    stages = [s for w in (fed.uplink, fed.downlink, fed.talk) for s in stages_of(w)]
    return (
        fed.aggregate.form == "sum"
        and not fed.aggregate.rescales
        and fed.serving.whole
        and not (fed.detect.reads or fed.adversary.reads or fed.select.asks)
        and all(s.lossless or (s.linear and not s.perturbs) or s.opaque for s in stages)
        and not any(getattr(s, "bits", 32) < 20 for s in stages if s.opaque)
    )


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for k, v in node.items():
            yield from _leaves(v, f"{path}/{k}")
    elif isinstance(node, list | tuple):
        for k, v in enumerate(node):
            yield from _leaves(v, f"{path}/{k}")
    else:
        yield path, node


def _finite(v: Any) -> bool:
    if isinstance(v, torch.Tensor):
        return not v.is_floating_point() or bool(v.isfinite().all())
    return not isinstance(v, float) or math.isfinite(v)


# ---- which federations are held to descend -----------------------------------------------------------------------
def is_calm(fed: Federation) -> bool:
    """No adversary, no noise, no clip, no code that loses much, and small steps of plain SGD at both ends."""
    client = getattr(fed.client, "local", fed.client)
    wires = [s for w in (fed.uplink, fed.downlink, fed.talk) for s in stages_of(w)]
    return (
        type(fed.adversary) is Adversary
        and isinstance(client, Local)
        and (client.optimizer, client.momentum, client.clip_grad, client.weight_decay)
        == ("sgd", 0.0, 0.0, 0.0)
        and client.lr <= 0.05
        and all(_faithful(s) for s in wires)
        and getattr(fed.serving, "lr", 1.0) <= 1.0
        and not getattr(fed.serving, "momentum", 0.0)
        and not hasattr(fed.serving, "beta2")  # an adaptive step has a size of its own
        and not getattr(fed.aggregate, "denominator", 0.0)
        and not fed.aggregate.rescales
        and not (getattr(fed.pace, "dropout", 0.0) or getattr(fed.pace, "drop", {}))
        and not fed.detect.reads
        and fed.aggregate.least == 1
        and not fed.select.promises  # nobody may want what is offered
        and not fed.select.random_size
        and not any(hasattr(s, "budget") for s in (fed.select, getattr(fed.select, "inner", None)))
    )


def _faithful(stage: Any) -> bool:
    precise = getattr(stage, "bits", 8) >= 6 and getattr(stage, "levels", 127) >= 31
    return bool(
        stage.lossless
        or stage.opaque
        or (stage.unbiased and precise and not hasattr(stage, "fraction") and not hasattr(stage, "inner"))
    )
