"""The client's knobs do what a person expects: schedules, epochs, micro-batches, kept moments, the last small batch."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from federations import digits
from fedfm.core.context import Ctx, Terms
from fedfm.core.message import Message
from fedfm.efficiency.computation.split.splitfed import SplitFed
from fedfm.efficiency.training.adaptive import FedAdam
from fedfm.efficiency.training.local import Local, batches
from fedfm.efficiency.training.scaffold import Scaffold, ScaffoldServer
from fedfm.efficiency.training.schedule import Constant, Cosine, Linear, Schedule
from fedfm.efficiency.training.servers import Apply
from fedfm.laws.compare import near, same
from fedfm.laws.homes import pictures, quadratics
from fedfm.tasks.quadratic import Quadratic


# ---- schedules ----------------------------------------------------------------------------------------------------
def test_factors_by_hand() -> None:
    """Ten rounds, a warm-up of two: 1/3, 2/3, then p = 0, 1/8, ..., 7/8."""
    linear = [Linear(warmup=2).factor(t, 10) for t in range(12)]
    assert linear == pytest.approx([1 / 3, 2 / 3, *(1 - k / 8 for k in range(8)), 0.0, 0.0])
    assert Linear(end=0.2).factor(5, 10) == pytest.approx(0.6)
    assert Cosine(end=0.1).factor(5, 10) == pytest.approx(0.1 + 0.9 * 0.5)
    assert Cosine().factor(1, 4) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert [Constant(warmup=1).factor(t, 10) for t in range(3)] == [0.5, 1.0, 1.0]
    assert Cosine(warmup=50).factor(3, 10) == pytest.approx(4 / 51)  # a warm-up longer than the run


def moved(played: Any) -> list[float]:
    """Norms of the parties' first uploads, round by round."""
    return [e["norm"] for e in played.events if e["kind"] == "upload" and e["client"] == "party-0"]


@pytest.mark.parametrize("schedule", [Linear(warmup=1), Cosine(), Constant(warmup=2)], ids=repr)
def test_a_schedule_acts_over_the_run_at_the_client(schedule: Schedule, drive: Any) -> None:
    """With a server that keeps its model, each round's update is the first one's times the factor (one SGD step)."""
    base = {"client": Local(lr=0.05, steps=1, batch=0), "server": Apply(lr=0.0), "rounds": 4}
    plain = moved(drive(quadratics(**base)))
    client = dataclasses.replace(base["client"], schedule=schedule)  # type: ignore[type-var]
    scheduled = moved(drive(quadratics(**base | {"client": client})))
    assert scheduled == pytest.approx([n * schedule.factor(t, 4) for t, n in enumerate(plain)], rel=1e-5)


@pytest.mark.parametrize(
    "server",
    [Apply(lr=0.5, schedule=Linear()), FedAdam(lr=0.1, beta1=0.0, beta2=0.0, tau=1.0, schedule=Linear())],
    ids=repr,
)
def test_a_schedule_acts_at_the_server(server: Any, drive: Any) -> None:
    """The second of two rounds has half the rate: from the same first step, half the second step."""
    fed, plain = quadratics(server=server), dataclasses.replace(server, schedule=Constant())
    one = drive(fed, server=plain, rounds=1).model
    full, half = drive(fed, server=plain, rounds=2).model, drive(fed, rounds=2).model
    assert bool((full != one).any()) and near(half - one, (full - one) / 2, rtol=1e-5)


def test_a_baseline_passes_through_the_rates_of_the_run() -> None:
    """Forty steps in one session of a run of five rounds of eight: five rates."""
    rates: list[float] = []

    class Spy(Linear):
        def rate(self, lr: float, ctx: Ctx, later: int = 0) -> float:
            rates.append(super().rate(lr, ctx, later))
            return rates[-1]

    bound = Quadratic().open(None)
    local = Local(lr=1e-3, steps=8, batch=2, schedule=Spy())
    ctx = Ctx(0, client="a", terms=Terms(steps=40), horizon=5)
    local.work(Message(bound.init.clone()), torch.ones(6, 2), {}, ctx, bound)
    assert [round(r / 1e-3, 6) for r in rates[::8]] == [1.0, 0.8, 0.6, 0.4, 0.2] and len(set(rates)) == 5


def test_scaffold_counts_the_rates_it_took(drive: Any) -> None:
    """c_i+ = c_i - c + (theta - y)/sum of rates is the mean of the raw gradients, whatever the schedule."""
    fed = quadratics(
        client=Scaffold(Local(lr=0.05, steps=10, batch=0, schedule=Linear(end=0.5))),
        server=ScaffoldServer(),
        rounds=150,
    )
    a, b = fed.data.a, fed.data.b
    optimum = sum(x * y for x, y in zip(a, b, strict=True)) / sum(a)
    assert torch.allclose(drive(fed).model[:3], torch.full((3,), optimum), atol=1e-4)


# ---- steps and epochs ---------------------------------------------------------------------------------------------
def test_steps_and_epochs_are_alternatives() -> None:
    assert (Local().steps, Local().epochs) == (8, None)
    assert (Local(epochs=2).steps, Local(epochs=2).epochs) == (None, 2)
    assert (
        Local(epochs=2).steps_for(20) == 6
        and Local(epochs=0.5).steps_for(20) == 2
        and Local().steps_for(3) == 8
    )
    assert Local(epochs=0.01).steps_for(20) == 1 and Local(epochs=0.0).steps_for(20) == 0
    with pytest.raises(ValueError, match="steps and epochs are two ways"):
        Local(steps=8, epochs=7.0)
    with pytest.raises(ValueError, match="two ways"):
        dataclasses.replace(Local(), epochs=1.0)
    assert dataclasses.replace(Local(), steps=None, epochs=1.0).steps_for(16) == 2


@pytest.mark.parametrize(
    ("knobs", "why"),
    [
        ({"optimizer": "adamw", "momentum": 0.9}, "momentum is sgd's"),
        ({"keep_optimizer": True}, "nothing to keep"),
        ({"drop_last": True, "batch": 0}, "drop_last cannot drop"),
    ],
)
def test_a_switch_without_effect_is_refused(knobs: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Local(**knobs)
    for ignored in ({"schedule": Linear()}, {"micro_batch": 2}):
        with pytest.raises(ValueError, match="takes its steps itself"):
            SplitFed(Local(**ignored))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nesterov"):
        Apply(nesterov=True)


def test_the_small_last_batch() -> None:
    def sizes(n: int, **knobs: Any) -> list[int]:
        return [len(b) for b in batches(n, Local(batch=8, **knobs), Ctx(0, client="a"))]

    assert sizes(17, epochs=2) == [8, 8, 1] * 2
    assert sizes(17, epochs=2, drop_last=True) == [8, 8] * 2
    assert sizes(5, epochs=2, drop_last=True) == [
        5,
        5,
    ]  # a party with fewer rows than a batch keeps its one batch
    assert sizes(17, steps=5, drop_last=True) == [8] * 5 and sizes(0, steps=5) == []
    passes = list(batches(17, Local(batch=8, epochs=4, drop_last=True), Ctx(0, client="a")))
    assert (
        len({tuple(sorted(torch.cat(passes[k : k + 2]).tolist())) for k in (0, 2, 4, 6)}) > 1
    )  # others are left out


# ---- micro-batches ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("micro", [1, 3, 8, 100])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_micro_batches_are_the_same_update(micro: int, optimizer: str, drive: Any) -> None:
    local = Local(lr=0.05, steps=4, batch=8, optimizer=optimizer)
    whole, pieces = (
        drive(pictures(client=local)),
        drive(pictures(client=dataclasses.replace(local, micro_batch=micro))),
    )
    assert near(whole.model, pieces.model, rtol=1e-6 if optimizer == "sgd" else 1e-4)
    assert micro < 8 or torch.equal(whole.model, pieces.model)


def test_micro_batches_hold_less_at_once() -> None:
    """No more examples than that are ever in the network."""
    fed = pictures(client=Local(steps=3, batch=0, micro_batch=2))
    parties = fed.data.open(0)
    bound, seen = fed.task.open(parties), []
    plain = bound.gradient
    bound.gradient = lambda batch, **kw: (seen.append(len(batch[1])), plain(batch, **kw))[1]  # type: ignore
    fed.client.work(
        Message(bound.init.clone()), bound.encode(parties.train("party-0")), {}, Ctx(0, client="a"), bound
    )
    assert max(seen) == 2 and sum(seen) == 3 * len(parties.train("party-0"))


# ---- kept moments -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("knobs", [{"optimizer": "adamw"}, {"momentum": 0.9}], ids=str)
def test_moments_go_on_where_they_were(knobs: dict[str, Any], drive: Any) -> None:
    """One party, two rounds of three steps with kept moments are one round of six; fresh moments are not."""
    from fedfm.tasks.quadratic import Quadratics

    base: dict[str, Any] = {"data": Quadratics(a=(3.0,), b=(1.0,), rows=4)}
    local = Local(lr=0.3, steps=3, batch=0, keep_optimizer=True, **knobs)
    two = drive(quadratics(**base, client=local, rounds=2))
    one = drive(quadratics(**base, client=dataclasses.replace(local, steps=6), rounds=1))
    fresh = drive(quadratics(**base, client=dataclasses.replace(local, keep_optimizer=False), rounds=2))
    assert near(one.model, two.model, rtol=1e-6) and not near(one.model, fresh.model, rtol=1e-3)


def test_kept_moments_survive_workers_and_a_resume(drive: Any, tmp_path: Any) -> None:
    fed = digits(client=Local(lr=0.01, steps=2, batch=8, optimizer="adamw", keep_optimizer=True), rounds=4)
    one, two = drive(fed, workers=0), drive(fed, workers=2)
    assert torch.equal(one.model, two.model) and one.digest == two.digest

    class Stop(Exception):
        pass

    def stop(run: Any) -> None:
        plain = run._commit

        def commit(record: Any, *more: Any) -> Any:
            done = plain(record, *more)
            if record["round"] == 2:
                raise Stop
            return done

        run._commit = commit

    with pytest.raises(Stop):
        drive(fed, workers=0, folder=tmp_path / "r", around=stop)
    again = drive(fed, workers=0, folder=tmp_path / "r", resume=True)
    assert torch.equal(again.model, one.model)


def test_moments_of_another_size_are_said() -> None:
    bound = Quadratic(dim=3).open(None)
    local = Local(momentum=0.9, keep_optimizer=True)
    brief, data = Message(bound.init.clone()), torch.ones(4, 2)
    _, state = local.work(brief, data, {}, Ctx(0, client="a"), bound)
    assert same(state, local.work(brief, data, {}, Ctx(0, client="a"), bound)[1])
    other = Quadratic(dim=40).open(None)
    with pytest.raises(Exception, match="keep_optimizer=false"):
        local.work(Message(other.init.clone()), data, state, Ctx(0, client="a"), other)
