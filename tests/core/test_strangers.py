"""Whatever one party sends, the others' round goes on, and nobody else pays for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from fedfm.core.combine import Pipe
from fedfm.core.context import Ctx
from fedfm.core.job import Said
from fedfm.core.loop import Run
from fedfm.core.message import Message, nothing
from fedfm.core.protocols import Bound, Client, Say, State
from fedfm.efficiency.communication.codec.entropy import Entropy
from fedfm.efficiency.computation.split.splitfed import SplitFed, SplitFedServer
from fedfm.efficiency.training.arrivals.fedbuff import FedBuff
from fedfm.efficiency.training.local import Local
from fedfm.incentives.reward.budget_split import BudgetSplit
from fedfm.laws.homes import pictures, quadratics
from fedfm.trust.privacy.secure.secagg import SecAgg

LOCAL = Local(lr=0.05, steps=3, batch=2)
Change = Callable[[Message], Message]


def tamper(change: Change, who: str = "party-1", phase: str = "upload") -> Callable[[Run], None]:
    """What `who` says in `phase` is changed on its way to the hub."""

    def around(run: Run) -> None:
        hear = run.engine.next

        def later() -> Said:
            said = hear()
            return (
                replace(said, message=change(said.message)) if (said.id, said.phase) == (who, phase) else said
            )

        run.engine.next = later  # type: ignore[method-assign]

    return around


def zip_of(m: Message) -> torch.Tensor:
    """Well-formed bytes that unpack to three values."""
    return Entropy().encode(torch.zeros(3, dtype=torch.int64), {}, Ctx(0))[0]


@pytest.mark.parametrize("who", ["party-0", "party-1"])
@pytest.mark.parametrize(
    ("change", "slots"),
    [
        (lambda m: replace(m, x=torch.ones_like(m.x).long()), {}),
        (lambda m: replace(m, x=torch.ones_like(m.x).to(torch.int32)), {}),
        (lambda m: replace(m, x=m.x > 0), {}),
        (lambda m: replace(m, x=m.x[:3]), {}),
        (lambda m: replace(m, x=m.x * float("nan")), {}),
        (lambda m: replace(m, mass=1e39), {}),
        (lambda m: replace(m, mass=-1.0), {}),
        (lambda m: replace(m, mass=1e305, x=torch.zeros_like(m.x)), {"fold": "fixed"}),
        (lambda m: replace(m, x=m.x.float()), {"uplink": SecAgg()}),
        (lambda m: replace(m, x=m.x.view(1, -1)), {"uplink": SecAgg()}),
        (lambda m: replace(m, x=m.x.to(torch.int32)), {"uplink": SecAgg()}),
        (lambda m: replace(m, info={}), {"uplink": SecAgg()}),
        (lambda m: replace(m, x=m.x[:5]), {"uplink": Pipe(SecAgg(), Entropy())}),
        (lambda m: replace(m, x=zip_of(m)), {"uplink": Pipe(SecAgg(), Entropy())}),
    ],
)
def test_an_upload_that_cannot_be_used_costs_its_sender_its_place(
    change: Change, slots: dict[str, Any], who: str, drive: Any
) -> None:
    """The model is the one that the others make without it."""
    played = drive(quadratics(**slots), around=tamper(change, who))
    assert not played.failed and [r["clients"] for r in played.records[1:]] == [4, 4]
    assert {e["client"] for e in played.events if e["kind"] == "refused"} == {who}
    assert not [e for e in played.events if e["kind"] == "failed"]  # said once


def test_values_too_large_for_a_sum_cost_their_party_alone(drive: Any) -> None:
    """Once each of them failed the round for everybody."""
    played = drive(quadratics(), around=tamper(lambda m: replace(m, x=torch.full_like(m.x, 3e38))))
    assert not played.failed and [r["clients"] for r in played.records[1:]] == [4, 4]
    assert torch.isfinite(played.model).all() and not torch.equal(played.model, played.run.bound.init)


def test_a_message_is_its_senders_whatever_it_says(drive: Any) -> None:
    """Under another's name one party once counted twice, and was paid in the other's place."""
    fed = quadratics(reward=BudgetSplit(policy="equal"), rounds=1)
    played = drive(fed, around=tamper(lambda m: replace(m, sender="party-4")))
    paid = {e["client"]: e["amount"] for e in played.events if e["kind"] == "pay"}
    assert sorted(paid) == [f"party-{k}" for k in range(5)] and len(set(paid.values())) == 1
    late = drive(quadratics(aggregate=FedBuff()), around=tamper(lambda m: replace(m, version=-(10**400))))
    assert not late.failed and torch.equal(late.model, drive(quadratics(aggregate=FedBuff())).model)


class Talks(Client):
    """Party 1 says something nobody asked for."""

    phase = "hello"

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> Any:
        if ctx.client == "party-1":
            yield Say(self.phase, nothing())
        return LOCAL.work(brief, data, state, ctx, bound)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("phase", ["hello", "upload", "bid", "keys"])
def test_a_phase_that_nobody_declared_ends_its_session(phase: str, workers: int, drive: Any) -> None:
    """An upload out of turn once hung the workers."""
    played = drive(quadratics(client=type("Talks", (Talks,), {"phase": phase})()), workers=workers)
    assert [r["clients"] for r in played.records[1:]] == [4, 4] and not played.failed


@pytest.mark.parametrize(
    "change",
    [
        lambda m: replace(m, x=m.x[:3]),
        lambda m: replace(m, info={}),
        lambda m: replace(m, side={}),
        lambda m: replace(m, side={"target": m.side["target"] + 100}),
        lambda m: replace(m, mass=float("nan")),
        lambda m: replace(m, x=torch.full_like(m.x, 3e38)),
        lambda m: replace(m, x=torch.full_like(m.x, float("nan"))),
        lambda m: replace(m, x=torch.full_like(m.x, float("inf"))),
    ],
    ids=[
        "short",
        "no shape",
        "no labels",
        "labels out of range",
        "weight",
        "huge",
        "not a number",
        "infinite",
    ],
)
@pytest.mark.filterwarnings("error::UserWarning")
def test_a_conversation_that_makes_no_sense_ends_for_its_speaker(change: Change, drive: Any) -> None:
    fed = pictures(client=SplitFed(Local(lr=0.1, steps=2, batch=4)), server=SplitFedServer(lr=0.1), rounds=1)
    played = drive(fed, around=tamper(change, phase="acts"))
    assert not played.failed and bool(played.model.isfinite().all())
    assert {e["client"] for e in played.events if e["kind"] == "refused"} == {"party-1"}
    assert played.records[1]["clients"] == len(played.run.parties) - 1
