"""Time with bytes: uploads arrive when their bytes have travelled, and the loop takes them in that order."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from fedfm.core.context import Ctx
from fedfm.core.federation import Federation
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregate, Load
from fedfm.core.spool import Spool
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.training.arrivals.fedasync import FedAsync
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.servers import Apply
from fedfm.incentives.selection.uniform import Uniform
from fedfm.pace import AllArrive, Buffered, Link, Quorum, Speed
from fedfm.tasks.quadratic import Quadratic, Quadratics
from play import play

DIM = 1000
SENDS = Local(lr=0.01, steps=2, batch=0, send="weights")
FAST, SLOW = Link(up_mbit_s=1.0, down_mbit_s=4.0, latency_s=0.5), Link(up_mbit_s=0.01)


def fed(n: int = 4, **slots: Any) -> Federation:
    rows = Quadratics(a=tuple(1.0 + k for k in range(n)), b=tuple(float(k) for k in range(n)))
    defaults: dict[str, Any] = {"client": Local(lr=0.01, steps=2, batch=0), "rounds": 3}
    return Federation(Quadratic(dim=DIM), rows, **defaults | slots)


def total(events: list[dict[str, Any]], way: str) -> int:
    """Bytes of the first message of party-0 that way."""
    return next(
        int(e["total"])
        for e in events
        if e["kind"] == "bytes" and e["client"] == "party-0" and e["direction"] == way
    )


def test_seconds_are_latency_and_bytes_over_bandwidth() -> None:
    ctx = Ctx(0, client="a")
    assert Link(up_mbit_s=8.0, latency_s=0.25).seconds(1_000_000, 8.0, ctx) == 1.25
    assert Link().seconds(10**12, None, ctx) == 0.0
    pace = AllArrive(links={"a": Link(up_mbit_s=8.0, down_mbit_s=16.0)}, speed=Speed(step_s=0.5))
    assert pace.due(1.0, ctx, Load(down=2_000_000, steps=4)) == 1.0 + 1.0 + 2.0
    assert pace.lands(4.0, 1_000_000, ctx) == 5.0
    assert pace.lands(4.0, 1_000_000, ctx.at(client="b")) == 4.0  # no pattern matches: no wait


def test_the_clock_of_a_synchronous_run_is_that_of_the_slowest_link(tmp_path: Path) -> None:
    records, events, _ = play(fed(pace=AllArrive(links={"party-0": SLOW, "*": FAST})), tmp_path)
    assert records[-1]["clock"] == pytest.approx(3 * total(events, "up") * 8e-6 / 0.01)


def test_a_code_that_saves_bytes_saves_time(tmp_path: Path) -> None:
    slow = AllArrive(links={"*": SLOW})
    plain, _, _ = play(fed(pace=slow), tmp_path / "a")
    coded, events, _ = play(fed(pace=slow, uplink=TopK(0.1)), tmp_path / "b")
    assert coded[-1]["clock"] == pytest.approx(3 * total(events, "up") * 8e-6 / 0.01)
    assert coded[-1]["clock"] < 0.3 * plain[-1]["clock"]


def test_who_lands_after_the_deadline_is_late_though_its_work_was_done_before(tmp_path: Path) -> None:
    pace = Quorum(0.5, deadline_s=2.5, speed=Speed(1.0), links={"party-0": SLOW, "*": FAST})
    records, events, _ = play(fed(pace=pace), tmp_path)
    assert {e["client"] for e in events if e["kind"] == "late"} == {"party-0"}
    assert [r["clients"] for r in records[1:]] == [3, 3, 3] and records[-1]["clock"] == 7.5


def test_arrivals_are_taken_as_they_land_and_the_slow_one_does_not_hold_up_the_others(tmp_path: Path) -> None:
    """With one step an arrival, the party behind the slow link counts once while the others go round and round."""
    links = {"party-0": SLOW, "*": FAST}
    pace = Buffered(1, 4, speed=Speed(1.0, 0.1), links=links)
    slots: dict[str, Any] = {
        "client": SENDS,
        "server": FedAsync(),
        "pace": pace,
        "select": Uniform(count=4),
        "rounds": 12,
    }
    records, events, _ = play(fed(**slots), tmp_path)
    took = [e for e in events if e["kind"] == "upload"]
    assert [r["clients"] for r in records[1:]] == [1] * 12
    clocks = [r["clock"] for r in records[1:]]
    assert clocks == sorted(clocks)
    slow = total(events, "up") * 8e-6 / 0.01
    for e in took:
        lands = clocks[e["round"] - 1] if e["round"] else 0.0
        assert e["client"] != "party-0" or lands + slow <= clocks[-1]


def test_time_to_a_loss_is_shorter_without_waiting(tmp_path: Path) -> None:
    """FedAsync over links of which one is 100 times slower reaches the loss earlier than rounds that wait; three seeds."""
    links = {"party-0": SLOW, "*": FAST}

    def reached(records: list[dict[str, Any]]) -> float:
        first = records[0]["metrics"]["loss"]
        return min((r["clock"] for r in records if r["metrics"]["loss"] <= 0.5 * first), default=math.inf)

    for seed in (0, 1, 2):
        some = {"client": SENDS, "seed": seed}
        pace = Buffered(1, 4, speed=Speed(0.5, 0.1), links=links)
        waits, _, _ = play(
            fed(
                **some,
                server=Apply(takes="weights"),
                pace=AllArrive(speed=Speed(0.5, 0.1), links=links),
                rounds=40,
            ),
            tmp_path / f"a{seed}",
        )
        goes, _, _ = play(
            fed(**some, server=FedAsync(), select=Uniform(count=4), pace=pace, rounds=160),
            tmp_path / f"b{seed}",
        )
        assert reached(goes) < 0.7 * reached(waits) < math.inf


def test_fedasync_against_its_equation() -> None:
    rng = torch.Generator().manual_seed(0)
    w, new = torch.randn(16, generator=rng), torch.randn(16, generator=rng)
    for spec, tau, s in (
        (FedAsync(0.6, "constant"), 7, 1.0),
        (FedAsync(0.6, "polynomial", 0.5), 3, (3 + 1) ** -0.5),
        (FedAsync(0.6, "hinge", slope=10.0, grace=4), 4, 1.0),
        (FedAsync(0.6, "hinge", slope=10.0, grace=4), 6, 1 / (10 * 2 + 1)),
    ):
        out = spec.step({"w": w}, Aggregate(new, 1, ("a",), 4, (9 - tau,)), Ctx(0, 9))["w"]
        assert torch.allclose(out.double(), (1 - 0.6 * s) * w.double() + 0.6 * s * new.double(), atol=1e-6)
    last = FedAsync(1.0, "constant").step({"w": w}, Aggregate(new, 1, ("a",), 4, (2,)), Ctx(0, 9))["w"]
    assert torch.equal(last, new)


def test_the_spool_gives_back_what_was_put_and_shrinks() -> None:
    spool = Spool()
    for epoch in range(5):
        spool.put(
            epoch, Message(torch.full((100,), float(epoch)), side={"k": torch.ones(2)}, sender=f"p{epoch}")
        )
    spool.drop(1)
    for epoch in (4, 0, 3, 2):
        m = spool.take(epoch)
        assert (
            torch.equal(m.x, torch.full((100,), float(epoch))) and m.sender == f"p{epoch}" and "k" in m.side
        )
    assert not spool.places and spool.file is not None and spool.file.seek(0, 2) == 0
