"""When rounds close: durations, deadlines, quorums, drop-outs, and buffered rounds with FedBuff."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Literal

import pytest
import torch

from fedfm.checks.rules import check
from fedfm.config.building import from_config
from fedfm.config.record import to_config
from fedfm.core.context import Ctx, Terms
from fedfm.core.federation import Federation
from fedfm.core.message import Message
from fedfm.core.protocols import Load
from fedfm.efficiency.training.arrivals.fedbuff import FedBuff
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.incentives.selection.uniform import Uniform
from fedfm.pace import AllArrive, Buffered, Link, Quorum, Speed
from fedfm.tasks.quadratic import Quadratic, Quadratics
from fedfm.vectors.layout import Layout
from play import play

SPREAD = Speed(mean_s=10.0, spread=1.0)


def parties(n: int) -> Quadratics:
    return Quadratics(a=tuple(1.0 + k for k in range(n)), b=tuple(float(k) for k in range(n)))


def fed(n: int, **slots: Any) -> Federation:
    defaults: dict[str, Any] = {"client": Local(lr=0.01, steps=2, batch=0), "rounds": 3}
    return Federation(Quadratic(), parties(n), **defaults | slots)


def seconds(speed: Speed, n: int, t: int = 0) -> list[float]:
    return [speed.duration(Ctx(0, t, client=f"party-{k}")) for k in range(n)]


def test_speed_is_lognormal_with_the_given_mean() -> None:
    """E = mean; the logarithm between parties has standard deviation `spread`, between rounds `jitter`."""
    speed = Speed(mean_s=3.0, spread=0.5, jitter=0.2)
    between = torch.tensor([Speed(3.0, 0.5).duration(Ctx(0, client=f"{k}")) for k in range(4000)]).double()
    assert abs(float(between.mean()) - 3.0) < 0.1 and abs(float(between.log().std()) - 0.5) < 0.03
    within = torch.tensor([speed.duration(Ctx(0, t, client="x")) for t in range(2000)]).double()
    assert abs(float(within.log().std()) - 0.2) < 0.02
    assert Speed(3.0, 0.5).duration(Ctx(0, 1, client="x")) == Speed(3.0, 0.5).duration(Ctx(0, 9, client="x"))
    assert Speed().duration(Ctx(0)) == 0.0 and AllArrive(speed=Speed(2.0)).due(5.0, Ctx(0), Load()) == 7.0


def test_quorum_as_data() -> None:
    q = Quorum(0.8, deadline_s=3.0, speed=Speed(1.0))
    assert [q.quorum(n) for n in (0, 1, 4, 5, 10)] == [1, 1, 4, 4, 8] and Quorum(0.07).quorum(100) == 7
    assert not q.enough(9, 10, 3.0) and q.enough(0, 10, 3.1)  # done at the deadline is in time
    assert not Quorum(0.8).enough(9, 10, 1e9)
    eager = Quorum(0.8, eager=True)
    assert eager.enough(8, 10, 0.0) and not eager.enough(7, 10, 0.0)
    assert (q.late, Quorum(late="keep").late) == ("cancel", "keep")
    assert (q.partial, eager.partial, Quorum().partial, AllArrive().partial, Buffered().partial) == (
        True,
        True,
        False,
        False,
        True,
    )


def test_buffered_as_data() -> None:
    b = Buffered(size=3, concurrency=5)
    assert [b.room(n, 9) for n in (0, 2, 5, 7)] == [5, 3, 0, 0] and b.late == "keep"
    assert b.enough(3, 0, 0.0) and not b.enough(2, 9, 1e9)
    with pytest.raises(ValueError, match="concurrency must be at least size"):
        Buffered(size=3, concurrency=2)


def test_dropout_hits_a_share_of_the_parties_before_one_phase() -> None:
    pace = AllArrive(dropout=0.3)
    lost = [pace.lost("upload", Ctx(0, t, client="a")) for t in range(3000)]
    assert abs(sum(lost) / 3000 - 0.3) < 0.03
    assert not any(pace.lost("keys", Ctx(0, t, client="a")) for t in range(50))
    anywhere = AllArrive(dropout=0.3, dropout_phase="")
    for t in range(50):  # the same parties are lost, whatever they would say first
        ctx = Ctx(0, t, client="a")
        assert anywhere.lost("keys", ctx) == anywhere.lost("keys", ctx.within(1)) == pace.lost("upload", ctx)
    dropped = Quorum(drop={"a": "keys", "b": ""})
    seen = {(i, p): dropped.lost(p, Ctx(0, client=i)) for i in "abc" for p in ("keys", "upload")}
    assert {k for k, v in seen.items() if v} == {("a", "keys"), ("b", "keys"), ("b", "upload")}
    assert all(AllArrive(dropout=1.0).lost("upload", Ctx(0, t)) for t in range(9))


def test_synchronous_lasts_as_long_as_the_slowest(tmp_path: Any) -> None:
    records, _, _ = play(fed(4, pace=AllArrive(speed=SPREAD)), tmp_path)
    assert records[-1]["clock"] == pytest.approx(3 * max(seconds(SPREAD, 4)))
    assert [r["clients"] for r in records[1:]] == [4, 4, 4]


def test_dropped_parties_are_missing_and_the_round_goes_on(tmp_path: Any) -> None:
    records, events, _ = play(fed(4, pace=AllArrive(drop={"party-1": "upload"})), tmp_path)
    assert [r["clients"] for r in records[1:]] == [3, 3, 3]
    assert {e["client"] for e in events if e["kind"] == "dropout"} == {"party-1"}


def test_deadline_leaves_out_exactly_the_slow(tmp_path: Any) -> None:
    times = seconds(SPREAD, 5)
    deadline = sorted(times)[2]
    slow = {f"party-{k}" for k, s in enumerate(times) if s > deadline}
    records, events, _ = play(fed(5, pace=Quorum(0.6, deadline_s=deadline, speed=SPREAD)), tmp_path)
    assert [r["clients"] for r in records[1:]] == [3, 3, 3] and not any(r["failed"] for r in records[1:])
    late = [(e["round"], e["client"]) for e in events if e["kind"] == "late"]
    assert len(slow) == 2 and sorted(late) == [(t, i) for t in range(3) for i in sorted(slow)]
    assert records[-1]["clock"] == pytest.approx(3 * deadline)


@pytest.mark.parametrize("late", ["cancel", "keep"])
@pytest.mark.parametrize(
    ("speed", "links"),
    [
        (Speed(mean_s=0.1), {}),  # 0.2 + 0.1 - 0.2 is 0.10000000000000003
        (Speed(step_s=0.05), {}),
        (Speed(mean_s=0.07), {"*": Link(latency_s=0.015)}),
    ],
)
def test_work_done_at_the_deadline_is_in_time_at_any_clock(
    late: Literal["cancel", "keep"], speed: Speed, links: dict[str, Link], tmp_path: Any
) -> None:
    pace = Quorum(1.0, deadline_s=0.1, late=late, speed=speed, links=links)
    records, _, _ = play(fed(3, pace=pace, rounds=30), tmp_path)
    assert [r["clients"] for r in records[1:]] == [3] * 30 and not any(r["failed"] for r in records[1:])
    assert [r["clock"] for r in records[1:]] == pytest.approx([0.1 * t for t in range(1, 31)])


@pytest.mark.parametrize("later", [2, 3, 4])
def test_a_round_that_closed_by_its_quorum_did_not_last_until_its_deadline(later: int, tmp_path: Any) -> None:
    """Whether the next party would have been in time or not, the clock stands at the last arrival that counts."""
    times = sorted(seconds(SPREAD, 5))
    deadline = (times[later - 1] + times[later]) / 2
    pace = Quorum(0.4, deadline_s=deadline, eager=True, speed=SPREAD)
    records, _, _ = play(fed(5, pace=pace, rounds=1), tmp_path)
    assert records[-1]["clients"] == 2 and records[-1]["clock"] == pytest.approx(times[1])


def test_without_a_quorum_the_round_fails_and_nothing_moves(tmp_path: Any) -> None:
    deadline = sorted(seconds(SPREAD, 5))[2]
    records, events, run = play(fed(5, pace=Quorum(0.8, deadline_s=deadline, speed=SPREAD)), tmp_path)
    assert all("4 are needed" in r["failed"] for r in records[1:])
    assert torch.equal(run.state.server["w"], run.bound.init)
    assert sum(e["kind"] == "round_failed" for e in events) == 3


def test_eager_closes_at_the_quorum(tmp_path: Any) -> None:
    records, _, _ = play(fed(5, pace=Quorum(0.6, eager=True, speed=SPREAD), rounds=1), tmp_path)
    third = sorted(seconds(SPREAD, 5))[2]
    assert records[-1]["clients"] == 3 and records[-1]["clock"] == pytest.approx(third)


def test_kept_late_work_counts_when_it_arrives(tmp_path: Any) -> None:
    """The two slow ones of five arrive in a later round, older by the versions made meanwhile."""
    pace = Quorum(0.6, eager=True, late="keep", speed=SPREAD)
    _, events, run = play(fed(5, pace=pace, aggregate=FedBuff(), rounds=12), tmp_path)
    uploads = Counter(e["client"] for e in events if e["kind"] == "upload")
    assert not any(e["kind"] == "late" for e in events) and set(uploads) == {f"party-{k}" for k in range(5)}
    assert any(e["kind"] == "stale" for e in events)


def test_quorum_without_demands_and_a_full_buffer_are_synchronous(tmp_path: Any) -> None:
    """Bit for bit, when all take the same time (the order of release is then the order of the plan)."""
    speed = Speed(2.0)
    paces = (AllArrive(speed=speed), Quorum(0.0, speed=speed), Buffered(4, 4, speed=speed))
    runs = [play(fed(4, pace=p), tmp_path / f"{k}") for k, p in enumerate(paces)]
    for records, _, run in runs:
        assert torch.equal(run.state.server["w"], runs[0][2].state.server["w"])
        assert [r["clock"] for r in records[1:]] == [2, 4, 6]


def test_buffered_staleness_with_equal_speeds(tmp_path: Any) -> None:
    """M = 6 at work, K = 2 a round, first in first out: then every arrival is M/K - 1 = 2 versions old."""
    pace = Buffered(size=2, concurrency=6, speed=Speed(1.0))
    f = fed(12, pace=pace, select=Uniform(count=6), aggregate=FedBuff(), rounds=10)
    records, events, run = play(f, tmp_path)
    stale = [(e["round"], e["staleness"]) for e in events if e["kind"] == "stale"]
    assert stale == [(1, 1)] * 2 + [(t, 2) for t in range(2, 10) for _ in range(2)]
    weights = {e["weight"] for e in events if e["kind"] == "stale" and e["round"] > 1}
    assert weights == {3**-0.5}
    assert all(r["clients"] == 2 for r in records[1:]) and len(run.state.busy) == 4
    begun = [i for e in events if e["kind"] == "plan" for i in e["clients"]]
    assert len(begun) == 20 + 4  # work is conserved: started = contributed + under way
    assert len(set(begun)) == 12  # nobody starves


def test_buffered_mean_staleness_with_unequal_speeds(tmp_path: Any) -> None:
    """Little's law: M at work, K finish a version, so the mean staleness tends to M/K - 1 (here 3)."""
    pace = Buffered(size=2, concurrency=8, speed=Speed(1.0, 0.6, 0.3))
    f = fed(16, pace=pace, select=Uniform(count=8), aggregate=FedBuff(), rounds=70)
    _, events, _ = play(f, tmp_path)
    stale = [e["staleness"] for e in events if e["kind"] == "stale" and e["round"] >= 10]
    assert abs(sum(stale) / 120 - 3.0) < 0.35


def message(values: list[float], version: int = 0, mass: float = 1.0) -> Message:
    return Message(torch.tensor(values), mass=mass, version=version)


def settle(a: Any, messages: list[Message], ctx: Ctx) -> torch.Tensor:
    lifts = [a.lift(m, ctx) for m in messages]
    x = sum((s.x * s.alpha for s in lifts), torch.zeros(()))
    out: torch.Tensor = a.finish(x, sum(s.mass for s in lifts), len(lifts), {}, ctx)[0]
    return out


def test_fedbuff_closed_forms() -> None:
    """(1/3) (x_0 + x_1 / sqrt 2 + x_2 / 2) at staleness 0, 1, 3; the number of examples plays no part."""
    ms = [message([3.0], 5), message([6.0], 4, mass=9.0), message([12.0], 2)]
    x = settle(FedBuff(), ms, Ctx(0, 5))
    assert float(x) == pytest.approx((3 + 6 / math.sqrt(2) + 6) / 3)
    assert float(settle(FedBuff(power=0.0), ms, Ctx(0, 5))) == pytest.approx(7.0)
    fresh = [message([1.0, 2.0], 5, mass=3.0), message([3.0, 6.0], 5)]
    assert torch.equal(settle(FedBuff(), fresh, Ctx(0, 5)), settle(Mean(weights="equal"), fresh, Ctx(0, 5)))


def test_fedbuff_refuses_what_is_too_old() -> None:
    events: list[dict[str, Any]] = []
    ms = [message([3.0], 5), message([6.0], 4), message([99.0], 2)]
    x = settle(FedBuff(max_staleness=1), ms, Ctx(0, 5, events=events))
    assert float(x) == pytest.approx((3 + 6 / math.sqrt(2)) / 2)
    assert [(e["staleness"], e["weight"]) for e in events] == [(1, 2**-0.5), (3, 0.0)]
    assert float(settle(FedBuff(max_staleness=0), ms[1:], Ctx(0, 5))) == 0.0


def test_fedbuff_counts_a_sub_model_where_it_has_the_coordinate() -> None:
    """Half the width covers the first of two values: mean (4 + 2) / 2 there, 6 / 1 elsewhere."""
    layout = Layout.of({"x": (2,)}, axes={"x": ("width",)})
    ctx = Ctx(0, 0, layout=layout)
    whole = FedBuff().lift(Message(layout.pack({"x": torch.tensor([4.0, 6.0])})), ctx)
    half = Layout.of({"x": (1,)})
    part = FedBuff().lift(Message(half.pack({"x": torch.tensor([2.0])})), ctx.at(terms=Terms(width=0.5)))
    out = FedBuff().finish(whole.x * whole.alpha + part.x * part.alpha, whole.mass + part.mass, 2, {}, ctx)[0]
    assert layout.views(out)["x"].tolist() == [3.0, 6.0]


def test_specs_survive_a_config_and_a_check() -> None:
    for pace in (
        AllArrive(dropout=0.1),
        Quorum(0.5, deadline_s=2, late="keep", drop={"party-0": ""}, speed=Speed(1.0)),
        Buffered(2, 3, speed=Speed(2.0, 0.1)),
    ):
        f = fed(3, pace=pace, aggregate=FedBuff(max_staleness=4))
        again = from_config(to_config(f))
        assert (again.pace, again.aggregate) == (pace, f.aggregate)
        assert check(f) == []
    wrong = check(fed(3, aggregate=FedBuff(), client=Local(send="weights")))
    assert any(p.where == "client.send" for p in wrong)
