"""What a party, a decoder and the server keep between rounds, and what a failed round leaves as it was."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from fedfm.core.context import Ctx
from fedfm.core.errors import FedfmError, ResumeError
from fedfm.core.federation import Federation
from fedfm.core.loop import Run
from fedfm.core.message import Message
from fedfm.core.protocols import Bound, Client, State, Wire
from fedfm.core.state import Store
from fedfm.efficiency.communication.codec.error_feedback import ErrorFeedback
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.personal.by_client import ByClient
from fedfm.efficiency.training.scaffold import Scaffold
from fedfm.laws.homes import quadratics
from fedfm.ledger.events import Event
from fedfm.ledger.file import Ledger
from fedfm.pace import AllArrive
from fedfm.tasks.quadratic import Quadratics
from fedfm.trust.privacy.secure.secagg import SecAgg
from fedfm.trust.robustness.rule.median import CoordinateMedian

LOCAL = Local(lr=0.05, steps=3, batch=2)


@dataclass(frozen=True)
class Once(Client):
    """An update of (2, 1, 0, ...) in the first round, and zeros."""

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> Any:
        x = torch.zeros_like(brief.x)
        if ctx.round == 0:
            x[:2] = torch.tensor([2.0, 1.0])
        return Message(x, "delta", 1.0), state


def test_what_error_feedback_owes_is_paid_once(drive: Any) -> None:
    """Top-1 sends the 2, then the 1. A residual that became empty once stayed on file, and was sent again in every round."""
    played = drive(quadratics(client=Once(), uplink=ErrorFeedback(TopK(count=1)), rounds=6))
    assert played.model[:2].tolist() == [2.0, 1.0]


@dataclass(frozen=True)
class Memo(Wire):
    """A decoder that remembers only the first round."""

    def decode(self, x: Any, side: Any, state: State, ctx: Ctx) -> Any:
        assert bool(state) == (ctx.round == 1), (ctx.round, state)
        return x, ({"n": 1} if ctx.round == 0 else {})


def test_a_decoder_may_forget(drive: Any) -> None:
    played = drive(quadratics(uplink=Memo(), rounds=4))
    assert all(r["clients"] == 5 for r in played.records[1:]) and played.run.state.decode == {}


@dataclass(frozen=True)
class Count(Wire):
    """Counts the briefs that it has encoded."""

    remembers = True

    def encode(self, x: Any, state: State, ctx: Ctx) -> Any:
        return x, {}, {"n": state.get("n", 0) + 1}


@dataclass(frozen=True)
class Never(AllArrive):
    def quorum(self, planned: int) -> int:
        return planned + 1


def test_failed_rounds_leave_the_downlinks_state_too(drive: Any) -> None:
    run = drive(quadratics(downlink=Count(), rounds=3)).run
    assert all(run.books.receivers.of(i) == {"n": 3} for i in run.parties)
    played = drive(quadratics(downlink=Count(), pace=Never(), rounds=3))
    assert len(played.failed) == 3 and played.run.state.down == {}


@dataclass(frozen=True)
class Keeps(Client):
    """A new state in every round."""

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> Any:
        return LOCAL.work(brief, data, state, ctx, bound)[0], {"n": ctx.round}


def test_states_on_disk_do_not_pile_up(drive: Any) -> None:
    """Not where all goes well, and not where rounds fail."""
    for slots in ({}, {"pace": Never()}):
        played = drive(quadratics(client=Keeps(), rounds=12, **slots))
        folders = list((played.run.folder / "clients").iterdir())
        assert len(folders) == 5 and all(len(list(f.iterdir())) <= 2 for f in folders)


def test_parties_of_like_names_keep_apart(tmp_path: Any) -> None:
    store = Store(tmp_path)
    for name in ("a/b", "a_b", "a%2Fb"):
        store.save(name, 1, {"name": name})
        store.keep(name, {1})
    assert [store.load(name, 1)["name"] for name in ("a/b", "a_b", "a%2Fb")] == ["a/b", "a_b", "a%2Fb"]


# ---- memory -------------------------------------------------------------------------------------------------------
def crowd(**slots: Any) -> Federation:
    return quadratics(data=Quadratics(a=(1.0,) * 30, b=tuple(map(float, range(30)))), rounds=1, **slots)


@pytest.mark.parametrize(
    ("slots", "limit"),
    [
        ({}, 2),
        ({"uplink": TopK(0.5)}, 2),
        ({"uplink": SecAgg()}, 2),
        ({"aggregate": CoordinateMedian()}, 30),
    ],
    ids=["sum form", "side tensors", "masked vectors", "all form"],
)
def test_nothing_of_a_folded_message_stays(slots: dict[str, Any], limit: int, drive: Any) -> None:
    """Indices once stayed until the round's end, and a session that waits to unmask held its vector."""
    alive: list[weakref.ref[Any]] = []
    seen = 0

    def around(run: Run) -> None:
        accept = run.hub.accept

        def counted(m: Message) -> None:
            nonlocal seen
            alive.extend(weakref.ref(t) for t in (m.x, *m.side.values()))
            seen = max(seen, sum(r() is not None for r in alive) // (1 + len(m.side)))
            accept(m)

        run.hub.accept = counted

    played = drive(crowd(**slots), around=around, workers=0)
    assert not played.failed and len(alive) >= 30 and (seen <= limit if limit < 30 else seen == 30)


# ---- what once was silent -----------------------------------------------------------------------------------------
def test_a_model_that_cannot_be_scored_ends_the_run(drive: Any) -> None:
    """The metrics were once empty, or the mean of the parts that could be scored."""

    def around(run: Run) -> None:
        def broken(encoded: Any) -> Any:
            raise RuntimeError("no score today")

        run.bound.score = broken  # type: ignore[method-assign]

    with pytest.raises(FedfmError, match="RuntimeError: no score today"):
        drive(quadratics(), around=around)


def test_a_ledger_that_lost_its_end_is_not_filled_with_nothing(tmp_path: Any) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("{}\n")
    with pytest.raises(ResumeError, match="shorter than its checkpoint says"):
        Ledger(path, 100)


def test_a_mixed_population_trains_alone_as_long_as_one_of_a_kind() -> None:
    mixed = ByClient({"party-0": Scaffold(Local(lr=0.05, steps=3)), "*": LOCAL})
    assert mixed.steps_for(8) == LOCAL.steps_for(8) == 3 and mixed.alone().per_step == 8  # of the larger
    assert mixed.alone() == ByClient({"party-0": Local(lr=0.05, steps=3), "*": LOCAL})


@dataclass(frozen=True)
class Told(Event):
    round: Any


def test_facts_that_no_ledger_can_hold_are_an_error_where_they_are_written() -> None:
    ctx = Ctx(0, 3, client="party-1", events=[])
    with pytest.raises(TypeError, match="JSON"):
        ctx.note(Told(torch.tensor(1.0)))
    ctx.note(Told(1.0))
    assert ctx.events == [{"round": 3, "kind": "told", "client": "party-1"}]  # it cannot forge whose it is
