"""What a method is given stays as it is, and what it gives back is what its slot promises; else its own bug is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed, MethodFault, RoundFailed
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregate, Aggregator, Client, Server, State
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
class Counts(Aggregator):
    """Counts its rounds in the state that it was given, `how`, and fails in the second."""

    how: str = "tensor"
    form = "all"

    def init(self, parties: Sequence[str], ctx: Ctx) -> State:
        if self.how == "init":
            raise KeyError("of mine")
        return {"in": {"n": torch.zeros(1) if self.how == "tensor" else 0}, "seen": []}

    def combine(self, messages: Sequence[Message], state: State, ctx: Ctx) -> tuple[torch.Tensor, State]:
        if self.how == "tensor":
            state["in"]["n"].add_(1)
        state["in"]["n"] = state["in"]["n"] + (self.how != "tensor")
        state["seen"].append(ctx.round)
        if ctx.round == 1:
            raise RoundFailed("not today")
        return torch.stack([m.x for m in messages]).mean(0), state


def test_a_round_that_fails_leaves_states_as_they_were_whatever_was_written_into_them(drive: Any) -> None:
    kept: list[Any] = []
    drive(
        quadratics(client=LOCAL, aggregate=Counts(how="dict"), rounds=4),
        around=lambda run: kept.append(run),
    )
    assert kept[0].state.slots["aggregate"] == {"in": {"n": 3}, "seen": [0, 2, 3]}


def test_a_state_whose_tensor_is_written_into_ends_the_run(drive: Any) -> None:
    with pytest.raises(MethodFault, match="aggregate: Counts writes into what it was given"):
        drive(quadratics(client=LOCAL, aggregate=Counts(), rounds=4))


def test_a_slot_that_cannot_begin_is_named(drive: Any) -> None:
    with pytest.raises(
        MethodFault, match=r"aggregate: Counts raised KeyError: 'of mine'[\s\S]*test_given.py"
    ):
        drive(quadratics(client=LOCAL, aggregate=Counts(how="init")))


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
