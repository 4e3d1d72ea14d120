"""Clients that are sick or slow: the round goes on without them, and memory does not grow with them."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed, MessageRefused, MethodFault
from fedfm.core.federation import Federation
from fedfm.core.loop import Run
from fedfm.core.message import Message
from fedfm.core.protocols import Client, State, Wire
from fedfm.efficiency.training.local import Local
from fedfm.laws.homes import quadratics
from fedfm.tasks.bound import BoundModule
from fedfm.tasks.quadratic import Quadratics

LOCAL = Local(lr=0.05, steps=3, batch=2)


# ---- sick clients -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Sick(Client):
    """Local training, but what `who` does with it is `how`."""

    how: str
    who: str = "party-1"

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: BoundModule) -> Any:
        m, state = LOCAL.work(brief, data, state, ctx, bound)
        if ctx.client != self.who:
            return m, state
        if self.how == "raises":
            raise IndexError("a bug of its own")
        if self.how == "refuses":
            raise ClientFailed("policy")
        x = m.x.clone()
        x[0] = {"nan": math.nan, "inf": math.inf}.get(self.how, 2.0**30)
        return {
            "nan": dataclasses.replace(m, x=x),
            "inf": dataclasses.replace(m, x=x),
            "far": dataclasses.replace(m, x=x),
            "short": dataclasses.replace(m, x=m.x[:2]),
            "heavy": dataclasses.replace(m, mass=math.inf),
            "negative": dataclasses.replace(m, mass=-1.0),
            "weight nan": dataclasses.replace(m, mass=math.nan),
            "side": dataclasses.replace(m, side={"a": torch.tensor([math.nan])}),
            "matrix": dataclasses.replace(m, x=m.x.view(4, -1)),
        }[self.how], state


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("nan", "failed", "not finite"),
        ("inf", "failed", "not finite"),
        ("refuses", "failed", "policy"),
        ("short", "refused", "were agreed"),
        ("matrix", "refused", "were agreed"),
        ("heavy", "refused", "claims the weight"),
        ("negative", "refused", "claims the weight"),
        ("weight nan", "refused", "claims the weight"),
    ],
)
def test_a_sick_client_is_left_out_and_the_round_goes_on(
    how: str, kind: str, words: str, workers: int, drive: Any
) -> None:
    played = drive(quadratics(client=Sick(how)), workers=workers)
    assert [r["clients"] for r in played.records[1:]] == [4, 4]
    told = [e for e in played.events if e["kind"] in ("failed", "refused")]
    assert [(e["kind"], e["client"]) for e in told] == [(kind, "party-1")] * 2
    assert all(words in (e.get("error") or e["reason"]) for e in told), told
    without = drive(quadratics(client=Sick("refuses")), workers=0)
    assert torch.equal(played.model, without.model)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("how", "words"), [("raises", "IndexError: a bug of its own"), ("side", "where only wire stages")]
)
def test_a_bug_of_the_method_ends_the_run_and_is_named(
    how: str, words: str, workers: int, drive: Any
) -> None:
    """It handled nothing of others: no party is to blame, and a model without that party would be wrong in silence."""
    with pytest.raises(MethodFault, match=words) as caught:
        drive(quadratics(client=Sick(how)), workers=workers)
    assert how != "raises" or "test_sick_clients.py" in caught.value.where


def test_a_loss_that_is_not_finite_stops_that_client(drive: Any) -> None:
    data = Quadratics(a=(1.0, 2.0, 1e30), b=(0.0, 1.0, 2.0))
    played = drive(quadratics(data=data, client=Local(lr=0.1, steps=9, batch=0)))
    failed = [e for e in played.events if e["kind"] == "failed"]
    assert [e["client"] for e in failed] == ["party-2"] * 2 and all(
        "lower client.lr" in e["error"] for e in failed
    )
    assert bool(played.model.isfinite().all()) and [r["clients"] for r in played.records[1:]] == [2, 2]


def test_a_value_beyond_the_exact_folds_range_is_left_out(drive: Any) -> None:
    played = drive(quadratics(client=Sick("far"), fold="fixed"))
    assert [r["clients"] for r in played.records[1:]] == [4, 4]
    assert torch.equal(played.model, drive(quadratics(client=Sick("refuses"), fold="fixed")).model)


@dataclass(frozen=True)
class Undecodable(Wire):
    """What the server makes of party-1's bytes is an exception of this kind."""

    kind: type[Exception] = ValueError

    def decode(self, x: torch.Tensor, side: Any, state: State, ctx: Ctx) -> Any:
        if ctx.client == "party-1":
            raise self.kind("bytes of a stranger")
        return x, state


@pytest.mark.parametrize(
    "kind",
    [
        MessageRefused,
        RuntimeError,
        KeyError,
        IndexError,
        ValueError,
        TypeError,
        OverflowError,
        ClientFailed,
    ],
)
def test_bytes_that_cannot_be_decoded_are_refused(kind: type[Exception], drive: Any) -> None:
    played = drive(quadratics(uplink=Undecodable(kind)))
    assert [r["clients"] for r in played.records[1:]] == [4, 4]
    assert {e["client"] for e in played.events if e["kind"] == "refused"} == {"party-1"}


# ---- memory -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Slow(Client):
    """party-0 takes its time."""

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: BoundModule) -> Any:
        if ctx.client == "party-0":
            time.sleep(0.3)
        return LOCAL.work(brief, data, state, ctx, bound)


def crowd(n: int, **slots: Any) -> Federation:
    return quadratics(data=Quadratics(a=(1.0,) * n, b=tuple(float(k) for k in range(n))), rounds=1, **slots)


def test_one_slow_client_does_not_pile_up_the_others_messages(drive: Any) -> None:
    """Without a window 268 of 300 messages once waited in memory."""
    most = 0

    def around(run: Run) -> None:
        pump = run.hub.pump

        def counted() -> None:
            nonlocal most
            pump()
            most = max(
                most, sum(s.upload is not None for s in run.hub.live.values() if s.job.kind == "train")
            )

        run.hub.pump = counted  # type: ignore[method-assign]

    played = drive(crowd(60, client=Slow()), workers=2, around=around)
    assert played.records[1]["clients"] == 60 and 2 <= most <= played.run.engine.ahead


@pytest.mark.parametrize("workers", [0, 2])
def test_a_score_beyond_every_number_is_told_and_ends_nothing(workers: int, drive: Any) -> None:
    """A model may be finite and its loss not: strict messages and a strict ledger hold no number for it."""

    def around(run: Run) -> None:
        score = run.bound.score
        run.bound.score = lambda rows: {k: (math.inf, n) for k, (_, n) in score(rows).items()}  # type: ignore[method-assign]

    if workers:  # forked before `around`
        far = quadratics(
            data=Quadratics(a=(1.0, 3e38), b=(0.0, 3e38)), client=Local(lr=0.0, steps=1, batch=2)
        )
        played = drive(far, workers=workers)
    else:
        played = drive(quadratics(), workers=workers, around=around)
    assert len(played.records) == played.run.fed.rounds + 1
    assert not any(math.isfinite(v) for v in played.records[-1]["metrics"].values())
