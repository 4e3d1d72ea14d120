"""Weights, buffers and padding: what is no weight is never stepped, decayed, clipped, ranked or counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from fedfm import laws
from fedfm.cards.registry import knob
from fedfm.core.context import Ctx
from fedfm.core.federation import Federation
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregate, Aggregator, Bound, Client, Lift, Server, State, Wire
from fedfm.efficiency.communication.codec.qsgd import QSGD
from fedfm.efficiency.communication.codec.quantise import Quantise
from fedfm.efficiency.communication.codec.randk import RandK
from fedfm.efficiency.communication.codec.topk import TopK, kept
from fedfm.efficiency.training.adaptive import FedAdagrad, FedAdam, FedYogi
from fedfm.efficiency.training.fedprox import FedProx
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.efficiency.training.scaffold import Scaffold, ScaffoldServer
from fedfm.efficiency.training.servers import Apply
from fedfm.laws.homes import quadratics
from fedfm.tasks.bound import BoundModule, Objective
from fedfm.tasks.quadratic import Quadratic
from fedfm.trust.robustness.attack.sign_flip import SignFlip
from fedfm.vectors.layout import Layout

MEANS = torch.tensor(
    [[1.0, -2.0, 0.5], [4.0, 8.0, 0.0], [9.0, 3.0, -6.0]]
)  # of the rows that three parties hold


class Rows:
    """A party's rows: its mean, twice each way."""

    def __init__(self, mean: Tensor):
        self.x = mean + torch.tensor([[1.0], [-1.0], [2.0], [-2.0]])

    def __len__(self) -> int:
        return 4


class Fit(Objective):
    def batch(self, data: Any, index: Tensor, device: Any) -> Tensor:
        return data.x[index]

    def loss(self, module: Any, batch: Tensor) -> Tensor:
        return module(batch).square().mean()


def normed() -> BoundModule:
    """Batch norm in front of a linear layer: its running mean depends on the inputs alone, whatever is learnt."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2))
    return BoundModule(net, Fit(), buffers=("0.running_mean", "0.running_var", "0.num_batches_tracked"))


def learnt(client: Client, server: Server, rounds: int = 3) -> Tensor:
    """The running mean after so many rounds of three parties."""
    bound = normed()
    layout = client.gives(bound.layout)
    ctx = Ctx(0, layout=layout, events=[])
    state, mine = server.init(bound, ctx), [{} for _ in MEANS]
    for t in range(rounds):
        xs = []
        for i, mean in enumerate(MEANS):
            brief = server.brief(state, ctx.terms)
            out: Any = client.work(brief, Rows(mean), mine[i], ctx.at(client=f"p{i}", round=t), bound)
            xs.append(out[0].x)
            mine[i] = out[1]
        agg = Aggregate(torch.stack(xs).mean(0), 3, ("p0", "p1", "p2"), 3)
        state = server.step(state, agg, ctx.at(round=t))
    return bound.layout.views(server.model(state))["0.running_mean"]


LOCAL = {"lr": 0.1, "steps": 5, "batch": 0}


@pytest.mark.parametrize(
    ("client", "server"),
    [
        (Local(**LOCAL), Apply()),
        (Local(**LOCAL, weight_decay=0.1), Apply()),
        (Local(**LOCAL, optimizer="adamw", weight_decay=0.1), Apply()),
        (Local(**LOCAL, momentum=0.9, clip_grad=1e-3), Apply(lr=0.3)),
        (Local(**LOCAL, send="weights"), Apply(takes="weights", momentum=0.5)),
        (FedProx(mu=1.0, local=Local(**LOCAL)), Apply(momentum=0.9)),
        (Scaffold(Local(**LOCAL)), ScaffoldServer(lr=0.5)),
        (Local(**LOCAL), FedAdam(lr=0.01)),
        (Local(**LOCAL), FedYogi(lr=0.01)),
        (Local(**LOCAL), FedAdagrad(lr=0.01)),
    ],
    ids=repr,
)
def test_a_running_mean_is_what_the_module_measured(client: Client, server: Server) -> None:
    """Torch's rule, five full batches a round and party, then the mean over parties: mean <- 0.9^5 mean + (1 - 0.9^5) of
    the rows' own. Three rounds of it, of column means (14/3, 3, -11/6): (1 - 0.9^15) of them."""
    truth = MEANS.mean(0) * (1 - 0.9**15)
    assert torch.allclose(learnt(client, server), truth, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_fixed_residual_does_not_fade(optimizer: str) -> None:
    """Ten steps with decay once made 0.904 of a frozen 1.0."""
    bound = Quadratic(dim=1).open(None)
    module = bound.module
    module.register_parameter("r", torch.nn.Parameter(torch.ones(4), requires_grad=False))
    bound = BoundModule(module, bound.objective, buffers=("r",))
    local = Local(lr=0.1, steps=10, batch=0, optimizer=optimizer, weight_decay=0.1, send="weights")
    data = torch.tensor([[1.0, 2.0]])
    out: Any = local.work(Message(bound.init.clone()), data, {}, Ctx(0, layout=bound.layout), bound)
    views = bound.layout.views(out[0].x)
    assert torch.equal(views["r"], torch.ones(4)) and bool((views["x"] != 0).all())


# ---- fractions and ranges -----------------------------------------------------------------------------------------
SCALARS = Layout.of({"a": (), "b": (), "c": ()})


def coded(wire: Wire, layout: Layout, x: Tensor) -> tuple[Tensor, int]:
    c = Ctx(7, layout=layout)
    y, side, _ = wire.encode(x, {}, c)
    return wire.decode(y, side, {}, c)[0], sum(t.nbytes for t in (y, *side.values()))


def test_a_third_of_three_values_is_one() -> None:
    x = SCALARS.pack({"a": torch.tensor(1.0), "b": torch.tensor(-5.0), "c": torch.tensor(2.0)})
    out, nbytes = coded(TopK(1 / 3), SCALARS, x)
    assert {k: float(v) for k, v in SCALARS.views(out).items()} == {"a": 0.0, "b": -5.0, "c": 0.0}
    assert nbytes == 4 + 1  # the value, and its place among three
    out, nbytes = coded(RandK(1 / 3), SCALARS, x)
    assert int((out != 0).sum()) == 1 and nbytes == 4 and SCALARS.size == 48
    out, nbytes = coded(Quantise(1), SCALARS, x.where(x == 0, 5.0 + x / 10))
    values = torch.stack(list(SCALARS.views(out).values()))
    assert float(values.min()) >= 4.4 and nbytes == 8 + 1  # no range that the padding's zeros stretch
    _, nbytes = coded(QSGD(1), SCALARS, x)
    assert nbytes == 4 + 1  # a norm, and three codes of two bits


def test_counts_of_kept_values() -> None:
    assert [kept(1 / 3, 0, 3), kept(0.1, 0, 30), kept(0.0, 0, 3), kept(0.5, 2, 9), kept(1.0, 0, 0)] == [
        1,
        3,
        1,
        2,
        0,
    ]


def test_sign_flips_leave_running_statistics(drive: Any) -> None:
    """The attackers turn their update round, and send the statistics that they measured."""
    bound = normed()
    plain, flipped = Local(**LOCAL), SignFlip(scale=2.0).wrap(Local(**LOCAL))
    sent = []
    for client in (plain, flipped):
        out: Any = client.work(
            Message(bound.init.clone(), "weights"), Rows(MEANS[0]), {}, Ctx(0, client="p"), bound
        )
        sent.append(bound.layout.views(out[0].x))
    for name in ("0.running_mean", "0.running_var"):
        assert torch.equal(sent[0][name], sent[1][name])
    assert torch.equal(sent[1]["1.weight"], -2.0 * sent[0]["1.weight"])


# ---- the laws catch what they are for -----------------------------------------------------------------------------
@dataclass(frozen=True)
class Decays(Client):
    """Shrinks the whole vector, as decay on everything does."""

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> Any:
        m, state = Local(lr=0.05).work(brief, data, state, ctx, bound)
        return Message(m.x - 0.01 * (brief.x + m.x), m.kind, m.mass), state


@dataclass(frozen=True)
class Steps(Server):
    """A rate on every coordinate."""

    lr: float = knob(1.0, "rate", low=0.0)

    def step(self, state: State, agg: Aggregate, ctx: Ctx) -> State:
        return {"w": state["w"] + self.lr * agg.x}


@dataclass(frozen=True)
class Fills(Server):
    """Adam on every coordinate, padding and all."""

    def step(self, state: State, agg: Aggregate, ctx: Ctx) -> State:
        return {"w": state["w"] + 0.1 * (agg.x + 1e-3)}


@dataclass(frozen=True)
class Shifts(Aggregator):
    """A mean that adds a little everywhere."""

    def lift(self, m: Message, ctx: Ctx) -> Lift:
        return Lift(m.x, 1.0, 1.0)

    def finish(self, x: Tensor, mass: Any, count: int, state: State, ctx: Ctx) -> Any:
        return x / mass + 1e-9, state


@dataclass(frozen=True)
class Counts(Wire):
    """Top-k of a share of all elements, padding among them."""

    fraction: float = knob(0.3, "share", low=0.0, high=1.0)

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> Any:
        index = x.abs().topk(kept(self.fraction, 0, x.numel())).indices
        return x[index], {"index": index}, state

    def decode(self, x: Tensor, side: Any, state: State, ctx: Ctx) -> Any:
        assert ctx.layout is not None
        return torch.zeros(ctx.layout.size).index_copy(0, side["index"], x.float()), state


@pytest.mark.parametrize(
    ("spec", "law", "why"),
    [
        (Decays(), "it trains weights alone", "residual"),
        (Steps(), "it steps weights alone", "statistic"),
        (Fills(), "it steps weights alone", "it made"),
        (Shifts(), "what nobody touched stays", "padding"),
        (Counts(), "padding does not count", "between padding"),
    ],
    ids=lambda v: type(v).__name__ if not isinstance(v, str) else "",
)
def test_the_laws_catch(spec: Any, law: str, why: str) -> None:
    found = {found.name: found.broken(spec) for found in laws.laws_of(spec)}
    assert why in found[law], found


@pytest.mark.parametrize(
    "spec",
    [
        Local(optimizer="adamw", weight_decay=0.1),
        Local(lr=0.05, momentum=0.9, keep_optimizer=True),
        FedProx(mu=1.0, local=Local(lr=0.05, weight_decay=0.1)),
        Apply(lr=0.3, momentum=0.9, nesterov=True),
        Mean(weights="equal"),
        TopK(1 / 3),
        Quantise(3),
    ],
    ids=repr,
)
def test_the_laws_let_pass(spec: Any) -> None:
    broken = {found.name: why for found in laws.laws_of(spec) if (why := found.broken(spec))}
    assert not broken


def test_a_federation_with_batch_norm_runs(drive: Any) -> None:
    """Sub-models, codecs and servers agree on where the weights are: the whole loop on a task with buffers."""

    @dataclass(frozen=True)
    class Task(Quadratic):
        def open(self, data: Any, device: str = "cpu") -> BoundModule:
            bound = super().open(data, device)
            bound.module.register_buffer("count", torch.zeros(1))
            plain = bound.objective.loss

            def loss(module: Any, batch: Any) -> Tensor:
                module.get_buffer("count").add_(float(module.training))
                return plain(module, batch)

            bound.objective.loss = loss  # type: ignore[method-assign]
            return BoundModule(bound.module, bound.objective, buffers=("count",))

    fed: Federation = quadratics(task=Task(dim=3), server=FedAdam(lr=0.01), rounds=3)
    played = drive(fed)
    views = played.run.bound.layout.views(played.model)
    assert not played.failed and float(views["count"]) == 9.0 and bool((views["x"] != 0).all())
