"""What a method is given stays as it is, and what it gives back is what its slot promises; else its own bug is named."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest

from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed, MethodFault
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregate, Client, Server, State
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.efficiency.training.servers import Apply
from fedfm.laws.homes import quadratics
from fedfm.tasks.bound import BoundModule

LOCAL = Local(lr=0.05, steps=3, batch=2)


@dataclass(frozen=True)
class Writes(Client):
    """Halves the model that was sent to it, which in one process is the server's own."""

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: BoundModule) -> Any:
        out = LOCAL.work(brief, data, state, ctx, bound)
        brief.x.mul_(0.5)
        return out


@dataclass(frozen=True)
class WritesView(Client):
    """The same through a view."""

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: BoundModule) -> Any:
        out = LOCAL.work(brief, data, state, ctx, bound)
        brief.x[:1].zero_()
        return out


@dataclass(frozen=True)
class Steps(Server):
    """Averages, and halves what it was given."""

    into: str = "state"

    def step(self, state: State, agg: Aggregate, ctx: Ctx) -> State:
        out = Apply().step(state, agg, ctx)
        (state["w"] if self.into == "state" else agg.x).mul_(0.5)
        return out


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("client", [Writes(), WritesView()], ids=["whole", "view"])
def test_a_client_that_writes_into_the_model_it_was_sent_ends_the_run(
    client: Client, workers: int, drive: Any
) -> None:
    with pytest.raises(MethodFault, match=r"[Ww]rites.* writes into what it was given.*clone"):
        drive(quadratics(client=client), workers=workers)


@pytest.mark.parametrize("into", ["state", "aggregate"])
def test_a_server_that_writes_into_its_state_ends_the_run(into: str, drive: Any) -> None:
    with pytest.raises(MethodFault, match="server: .* writes into what it was given"):
        drive(quadratics(client=LOCAL, aggregate=Mean(), server=Steps(into=into)))


@dataclass(frozen=True)
class Gives(Client):
    """Local training; `what` it gives back is no message and state."""

    what: str = "none"

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: BoundModule) -> Any:
        m, state = LOCAL.work(brief, data, state, ctx, bound)
        return {
            "none": None,
            "message": m,
            "no state": (m, None),
            "tensor": (m.x, state),
            "three": (m, state, 1),
        }[self.what]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("what", ["none", "message", "no state", "tensor", "three"])
def test_work_that_gives_no_message_and_state_is_named(what: str, workers: int, drive: Any) -> None:
    with pytest.raises(MethodFault, match=r"the work of .* gives .*not \(Message, dict"):
        drive(quadratics(client=Gives(what)), workers=workers)


class Mute(Exception):
    """Whose own words raise."""

    def __str__(self) -> str:
        raise ValueError("no words")


@dataclass(frozen=True)
class Raises(Client):
    """One party fails: without words, with a megabyte of them, or with whole numbers for an update."""

    how: str

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: BoundModule) -> Any:
        m, state = LOCAL.work(brief, data, state, ctx, bound)
        if ctx.client != "party-1":
            return m, state
        if self.how == "mute":
            raise Mute
        if self.how == "whole numbers":
            return dataclasses.replace(m, x=m.x.long()), state
        raise ClientFailed("word " * 200_000)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failure_without_words_is_told_by_its_type(workers: int, drive: Any) -> None:
    with pytest.raises(MethodFault, match="Mute: .*own words cannot be had: ValueError"):
        drive(quadratics(client=Raises("mute")), workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_partys_words_are_bounded(workers: int, drive: Any) -> None:
    played = drive(quadratics(client=Raises("long")), workers=workers)
    told = [e for e in played.events if e["kind"] == "failed"]
    assert [r["clients"] for r in played.records[1:]] == [4, 4] and len(told) == 2
    assert all(100 < len(e["error"]) < 5000 for e in told)


def test_whole_numbers_are_not_called_infinite(drive: Any) -> None:
    played = drive(quadratics(client=Raises("whole numbers")))
    told = [e for e in played.events if e["kind"] == "refused"]
    assert len(told) == 2 and all("torch.int64" in e["reason"] for e in told), told
