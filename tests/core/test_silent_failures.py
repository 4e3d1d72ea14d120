"""What once failed without a word in the prototype of the design, each held down by a test."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedfm.checks.rules import check
from fedfm.core.combine import Pipe
from fedfm.core.context import Ctx, Terms
from fedfm.core.errors import FedfmError, MessageRefused
from fedfm.core.hub import Hub
from fedfm.core.job import Job, Said
from fedfm.core.loop import Run
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregator, Lift, Wire
from fedfm.core.scoring import View
from fedfm.efficiency.communication.codec.error_feedback import ErrorFeedback
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.computation.split.splitfed import SplitFed, SplitFedServer
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.incentives.contribution.shapley_exact import ShapleyExact
from fedfm.laws.compare import normal, same
from fedfm.laws.homes import Home, pictures, quadratics
from fedfm.pace import AllArrive
from fedfm.tasks.bound import BoundModule, Objective
from fedfm.tasks.quadratic import Quadratics
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.secure.secagg import SecAgg
from fedfm.vectors.layout import Layout

EQUAL = Mean(weights="equal")


# ---- the flat buffer ----------------------------------------------------------------------------------------------
def split_uploads(home: Home, order: str) -> dict[str, Message]:
    """Two split sessions, each step of one answered in between those of the other as `order` says."""
    fed, ids = home.fed, home.ids[:2]
    ctx = Ctx(fed.seed, 0, layout=fed.client.gives(home.bound.layout))
    state = fed.serving.init(home.bound, ctx)
    brief = fed.serving.brief(state, Terms())
    talks = {i: home.site.run(Job("train", i, k + 1), brief) for k, i in enumerate(ids)}
    said: dict[str, Said] = {}
    waiting = deque(ids * 40 if order == "alternating" else [ids[0]] * 40 + [ids[1]] * 40)
    while waiting:
        i = waiting.popleft()
        if i in said and said[i].last:
            continue
        if i in said:
            assert said[i].message is not None
            replies, state = fed.serving.serve(state, said[i].phase, {i: said[i].message}, ctx, home.bound)  # type: ignore[dict-item]
            said[i] = talks[i].send(replies[i])
        else:
            said[i] = next(talks[i])
    return {i: said[i].message for i in ids}  # type: ignore[misc]


def test_interleaved_conversations_are_as_good_as_sequential_ones(tmp_path: Path) -> None:
    """Copying another client over a live graph once gave gradients 55 % off, without an error."""
    home = Home(
        pictures(client=SplitFed(Local(lr=0.1, steps=5, batch=3)), server=SplitFedServer(lr=0.1)), tmp_path
    )
    one, two = split_uploads(home, "alternating"), split_uploads(home, "one after the other")
    assert same(one, two) and all(bool(m.x.any()) for m in one.values())


class Nothing(Objective):
    def loss(self, module: nn.Module, batch: Any) -> torch.Tensor:
        out: torch.Tensor = module(batch).square().sum()
        return out


@pytest.mark.parametrize(
    "breakage",
    [
        lambda m: m.zero_grad(set_to_none=True),
        lambda m: m.to(torch.bfloat16),
        lambda m: m.double(),
        lambda m: m.load_state_dict({k: v.clone() for k, v in m.state_dict().items()}, assign=True),
        lambda m: setattr(m, "weight", nn.Parameter(torch.zeros(4, 3))),
        lambda m: setattr(m.bias, "data", torch.zeros(4)),
    ],
    ids=["zero_grad", "to", "double", "assign", "new parameter", "new data"],
)
def test_a_broken_view_is_noticed_before_the_next_job(breakage: Any) -> None:
    module = nn.Linear(3, 4)
    bound = BoundModule(module, Nothing())
    bound.load(bound.init + 1)
    bound.gradient(torch.ones(2, 3))
    assert torch.equal(module.weight.detach(), bound.layout.views(bound.params)["weight"]) and bool(
        bound.grads.any()
    )
    for harmless in (
        lambda: module.zero_grad(set_to_none=False),
        lambda: module.load_state_dict(module.state_dict()),
        lambda: module.eval(),
        lambda: module.to("cpu"),
        lambda: module.float(),
    ):
        harmless()
        bound.load(bound.init)
    bound.gradient(torch.ones(2, 3))
    breakage(module)
    with pytest.raises(FedfmError, match="no longer lies in the flat buffer"):
        bound.load(bound.init)


# ---- privacy ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Dense(Aggregator):
    """A sum form whose lift is no multiple of the message."""

    def lift(self, m: Message, ctx: Ctx) -> Lift:
        return Lift(torch.cat([m.x, m.x]) * 3, m.mass, m.mass)


def test_noise_under_a_lift_that_changes_the_update_is_refused() -> None:
    problems = check(quadratics(uplink=ClipNoise(), aggregate=Dense()))
    assert any(p.where == "aggregate" and "transforms the clipped message" in p.what for p in problems)
    assert check(quadratics(uplink=ClipNoise(), aggregate=EQUAL)) == []


def test_clipping_bounds_the_update_and_leaves_the_weight() -> None:
    """A weight of 1e6 inside the vector once scaled the clipped payload by 0.01."""
    x, ctx = normal(30) * 100, Ctx(0, client="a", layout=Layout.of({"x": (30,)}))
    y, _, _ = ClipNoise(clip_norm=2.0).encode(x, {}, ctx)
    lift = Mean().lift(Message(y, mass=1e6), ctx.at(layout=None))
    assert lift.mass == 1e6 and float((lift.x * lift.alpha / lift.mass).norm()) == pytest.approx(
        2.0, rel=1e-6
    )


@pytest.mark.parametrize(
    "uplink",
    [
        ClipNoise(0.01, 0.0),
        Pipe(ClipNoise(0.01, 0.0), SecAgg()),
    ],
    ids=["alone", "under masks"],
)
def test_clipped_updates_move_the_model_by_their_mean(uplink: Wire, drive: Any) -> None:
    """Each update is clipped to 0.01, then averaged with equal weights: five in one direction move it by 0.01."""
    played = drive(
        quadratics(uplink=uplink, aggregate=EQUAL, rounds=1, data=Quadratics((1.0,) * 5, (3.0,) * 5, rows=4))
    )
    assert not played.failed
    moved = played.run.bound.layout.views(played.model)["x"]
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-5)


def test_a_round_spends_its_privacy_once_whatever_coalitions_are_tried(drive: Any) -> None:
    """Shapley values under central noise (which check refuses) once wrote 17 privacy events in a round."""
    data = Quadratics(a=(1.0, 2.0, 4.0, 8.0, 3.0), b=(0.0, 1.0, -1.0, 0.5, 2.0), rows=4, server_rows=3)
    noisy = {"uplink": ClipNoise(1.0, 1.0), "aggregate": EQUAL, "value": ShapleyExact(), "data": data}
    played = drive(quadratics(**noisy, rounds=3))
    assert Counter(e["round"] for e in played.events if e["kind"] == "privacy") == {0: 1, 1: 1, 2: 1}
    run: Run = played.run
    ctx = Ctx(0, 3, layout=run.layout, events=[])
    kept = {i: Message(normal(run.layout.size, k), sender=i, version=3) for k, i in enumerate(run.parties)}
    house = View(run, ctx)
    house.messages = kept
    worth = [house.game(frozenset(s)) for s in (kept, list(kept)[:2], ())]
    assert len(set(worth)) == 3 and ctx.events == []
    assert house.game(frozenset(kept)) == worth[0]


# ---- sessions -----------------------------------------------------------------------------------------------------
@dataclass
class Script:
    """An engine that says what a test puts into its mouth."""

    says: deque[Said] = field(default_factory=deque)
    cancelled: list[tuple[str, int]] = field(default_factory=list)
    ahead: int = 4

    def start(self, job: Job, brief: Message) -> None: ...
    def send(self, id: str, epoch: int, message: Message) -> None: ...
    def keep(self, id: str, versions: set[int], upto: int) -> None: ...
    def close(self) -> None: ...
    def open(self, site: Any) -> None: ...

    def next(self) -> Said:
        return self.says.popleft()

    def cancel(self, id: str, epoch: int) -> None:
        self.cancelled.append((id, epoch))


def upload(id: str, epoch: int, value: float) -> Said:
    return Said(id, epoch, "upload", Message(torch.tensor([value]), sender=id), last=True)


def test_a_cancelled_sessions_late_upload_is_not_taken_for_the_next_one() -> None:
    """Without the epoch, what a late client sent for the last round once counted in this one."""
    engine = Script()
    hub = Hub(quadratics(), engine, None)  # type: ignore[arg-type]
    brief = Message(torch.zeros(1))
    hub.start(Job("train", "a", 1), brief)
    hub.cancel(["a"])
    assert engine.cancelled == [("a", 1)] and not hub.live
    engine.says += [
        upload("a", 1, -99.0),
        Said("a", 1, "done", last=True),
        upload("b", 3, 3.0),
        upload("a", 2, 2.0),
    ]
    jobs = [Job("train", "a", 2), Job("train", "b", 3, position=1)]
    got = [
        s.upload.x.item()
        for s in hub.released(jobs, lambda job: brief, 2, lambda job: False)
        if s.upload is not None
    ]
    assert got == [2.0, 3.0]  # its own, in the order of the plan


def test_a_refused_upload_ends_its_session_only() -> None:
    engine = Script()
    hub = Hub(quadratics(), engine, None)  # type: ignore[arg-type]

    def accept(m: Message) -> None:
        if m.x.item() < 0:
            raise MessageRefused("no")

    hub.accept = accept
    engine.says += [upload("a", 1, -1.0), upload("b", 2, 3.0)]
    jobs = [Job("train", "a", 1), Job("train", "b", 2, position=1)]
    sessions = list(hub.released(jobs, lambda job: Message(torch.zeros(1)), 2, lambda job: False))
    assert [(s.upload is None, s.status) for s in sessions] == [(True, "gone"), (False, "done")]


@dataclass(frozen=True)
class FailsFirst(AllArrive):
    """In round 0 three parties vanish before `dropout_phase`."""

    def lost(self, phase: str, ctx: Ctx) -> bool:
        return (
            ctx.round == 0 and phase == self.dropout_phase and ctx.client in ("party-0", "party-1", "party-2")
        )


@pytest.mark.parametrize("phase", ["keys", "shares", "upload", "unmask"])
def test_a_failed_secure_round_leaves_nothing_hanging(phase: str, drive: Any) -> None:
    """Sessions once stayed suspended after a round below the threshold, and the next one never began."""

    def around(run: Run) -> None:
        tidy: list[bool] = []
        run.tidy = tidy  # type: ignore[attr-defined]
        plan = run._plan

        def watched(ctx: Ctx) -> Any:
            tidy.append(not run.hub.live and not run.engine._talks and not run.state.busy)  # type: ignore[attr-defined]
            return plan(ctx)

        run._plan = watched  # type: ignore[method-assign]

    played = drive(quadratics(uplink=SecAgg(), pace=FailsFirst(dropout_phase=phase), rounds=3), around=around)
    assert [bool(r.get("failed")) for r in played.records[1:]] == [True, False, False], played.failed
    assert played.run.tidy == [True] * 3 and not played.run.hub.live and not played.run.engine._talks
    assert [r["clients"] for r in played.records[1:]] == [0, 5, 5]


def test_a_failed_round_moves_nobodys_state(drive: Any) -> None:
    """Residuals of error feedback once ran ahead of a server that had not taken the message."""

    @dataclass(frozen=True)
    class Moody(AllArrive):
        def quorum(self, planned: int) -> int:
            return planned

        def lost(self, phase: str, ctx: Ctx) -> bool:
            return ctx.round in (1, 2) and phase == "upload" and ctx.client == "party-4"

    uplink = ErrorFeedback(TopK(count=1))
    played = drive(quadratics(uplink=uplink, pace=Moody(), rounds=4))
    assert [r["clients"] for r in played.records[1:]] == [5, 0, 0, 5]
    store, run = played.run.engine._site.store, played.run
    versions = {i: sorted(int(p.stem) for p in (store.folder / i).glob("*")) for i in run.parties}
    assert len(run.state.accepted) >= 4  # a party without a residual keeps nothing
    assert all(v in versions[i] and len(versions[i]) <= 2 for i, v in run.state.accepted.items())
    full = Local(lr=0.05, steps=3, batch=0)  # nothing random: then the failed rounds never were
    one = drive(quadratics(uplink=uplink, pace=Moody(), rounds=4, client=full))
    two = drive(quadratics(uplink=uplink, rounds=2, client=full))
    assert torch.equal(one.model, two.model)
    states = [p.run.engine._site.store.load("party-3", p.run.state.accepted["party-3"]) for p in (one, two)]
    assert same(*states) and states[0]["wire"]["0"]["residual"].any()
