"""A method of one's own that keeps or draws something elsewhere is refused before the work; one that does not runs."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import fedfm
from fedfm import Local, Mean, Processes
from fedfm.core.errors import ConfigError
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregate, Client, Plan, Say, Selector, State, Wire
from fedfm.efficiency.training.servers import Apply
from fedfm.laws.homes import quadratics

CALLS = [0]
SEEN: list[float] = []
OWN = np.random.default_rng(3)


@dataclass(frozen=True)
class Counts(Local):
    """Keeps a count of each party in its class."""

    met: ClassVar[dict[str, int]] = {}

    def work(self, brief, data, state, ctx, bound):
        m, state = super().work(brief, data, state, ctx, bound)
        self.met[ctx.client] = self.met.get(ctx.client, 0) + 1
        return replace(m, x=m.x * self.met[ctx.client]), state


@dataclass(frozen=True)
class Nested(Client):
    """A client that runs another one."""

    local: Client = field(default_factory=Counts)

    def work(self, brief, data, state, ctx, bound):
        return self.local.work(brief, data, state, ctx, bound)


@dataclass(frozen=True)
class Draws(Local):
    """Draws from a generator of its own."""

    def work(self, brief, data, state, ctx, bound):
        m, state = super().work(brief, data, state, ctx, bound)
        return replace(m, x=m.x * float(OWN.uniform(0.5, 1.5))), state


@dataclass(frozen=True)
class Keeps(Local):
    """Its state is what changes with every call."""

    def work(self, brief, data, state, ctx, bound):
        m, state = super().work(brief, data, state, ctx, bound)
        CALLS[0] += 1
        return m, state | {"calls": CALLS[0]}


@dataclass(frozen=True)
class Talks(Local):
    """Converses, and its first word is a count."""

    def work(self, brief, data, state, ctx, bound):
        CALLS[0] += 1
        yield Say("word", Message(torch.tensor([float(CALLS[0])]), "word"))
        return super().work(brief, data, state, ctx, bound)


class Turns(Selector):
    """Takes the next party in turn, by an attribute of its own."""

    def __init__(self) -> None:
        self.turn = 0

    def select(self, pool, state, ctx, answers):
        self.turn += 1
        jobs = [(i, fedfm.core.context.Terms()) for i in list(pool)[self.turn % len(pool) :]]
        return Plan(tuple(jobs)), state


@dataclass(frozen=True)
class Grows(Mean):
    """Each sum is a little longer than the one before."""

    def finish(self, x, mass, count, state, ctx):
        CALLS[0] += 1
        return super().finish(x * CALLS[0], mass, count, state, ctx)


@dataclass(frozen=True)
class Shakes(Apply):
    """Adds noise of Python's generator to the model."""

    def step(self, state: State, agg: Aggregate, ctx: Any) -> State:
        found = super().step(state, agg, ctx)
        return found | {"w": found["w"] + random.random()}


@dataclass(frozen=True)
class Dithers(Wire):
    """Rounds at random, by numpy."""

    def encode(self, x, state, ctx):
        return x + float(np.random.uniform()), {}, state

    def decode(self, x, side, state, ctx):
        return x, state


@pytest.mark.parametrize(
    ("slot", "method"),
    [
        ("client", Counts(lr=0.1, steps=4, batch=0)),
        ("client", Counts(lr=0.1, steps=None, epochs=9, batch=4)),
        ("client", Nested()),
        ("client", Draws(lr=0.1, steps=2, batch=0)),
        ("client", Keeps(lr=0.1, steps=2, batch=0)),
        ("client", Talks(lr=0.1, steps=2, batch=0)),
        ("select", Turns()),
        ("aggregate", Grows()),
        ("server", Shakes()),
        ("uplink", Dithers()),
    ],
)
def test_what_changes_from_call_to_call_is_refused_before_the_work(slot, method):
    fed = quadratics(**{slot: method})
    for way in (fedfm.probe, fedfm.run):
        with pytest.raises(ConfigError, match=rf"{slot}: .* gives something else when it is called again"):
            way(fed)


@dataclass(frozen=True)
class Logs(Local):
    """Notes what it met in a list, and sends what it would without."""

    def work(self, brief, data, state, ctx, bound):
        m, state = super().work(brief, data, state, ctx, bound)
        SEEN.append(float(m.x.norm()))
        return m, state


@dataclass(frozen=True)
class Remembers(Local):
    """Counts its rounds in its state, and draws from the context."""

    def work(self, brief, data, state, ctx, bound):
        m, _ = super().work(brief, data, state, ctx, bound)
        times = int(state.get("times", 0)) + 1
        shake = torch.randn(m.x.shape, generator=ctx.rng("shake")) * 1e-3
        return replace(m, x=m.x * times + shake), {"times": times}


@pytest.mark.parametrize("method", [Logs(lr=0.1, steps=4, batch=0), Remembers(lr=0.1, steps=4, batch=0)])
def test_what_stays_the_same_runs_with_the_same_bits_on_other_engines(method, tmp_path):
    fed = quadratics(client=method, rounds=2)
    found = [
        fedfm.run(fed, out=tmp_path / str(k), engine=engine).summary["model_digest"]
        for k, engine in enumerate([None, Processes(workers=2)])
    ]
    assert found[0] == found[1]


def test_the_trial_leaves_the_model_and_the_generators_alone(tmp_path):
    """The same federation of a method of fedfm's and of a subclass that adds nothing ends with the same bits."""

    @dataclass(frozen=True)
    class Same(Local):
        def work(self, brief, data, state, ctx, bound):
            return super().work(brief, data, state, ctx, bound)

    own, ours = (c(lr=0.1, steps=4, batch=2) for c in (Same, Local))
    torch.manual_seed(5)
    a = fedfm.run(quadratics(client=own, rounds=2), out=tmp_path / "a").summary["model_digest"]
    after = torch.rand(1)
    torch.manual_seed(5)
    b = fedfm.run(quadratics(client=ours, rounds=2), out=tmp_path / "b").summary["model_digest"]
    assert a == b and torch.equal(after, torch.rand(1))


@dataclass(frozen=True)
class Sends(Local):
    """Says one kind and sends another."""

    what: str = "delta"

    def work(self, brief, data, state, ctx, bound):
        m, state = super().work(brief, data, state, ctx, bound)
        update = m.x - brief.x if self.makes == "weights" else m.x
        return replace(m, x=update if self.what == "delta" else brief.x + update), state


@pytest.mark.parametrize("says", ["delta", "weights"])
@pytest.mark.parametrize("what", ["delta", "weights"])
def test_a_client_that_sends_another_kind_than_it_says_is_refused(says: str, what: str) -> None:
    draw = torch.Generator().manual_seed(0)
    rows = {f"p{k}": (torch.randn(20, 4, generator=draw), torch.arange(20) % 2) for k in range(3)}
    fed = fedfm.Federation(
        task=fedfm.Torch(partial(torch.nn.Linear, 4, 2)),
        data=fedfm.Arrays(rows),
        client=Sends(lr=0.05, steps=5, send=says, what=what),
        server=Apply(takes=says),
        rounds=1,
    )
    if says == what:
        assert fedfm.run(fed, baselines="none").summary["rounds"] == 1
        return
    with pytest.raises(ConfigError, match=f"says that it sends {says}, and sends {what}"):
        fedfm.run(fed, baselines="none")


@dataclass(frozen=True)
class WritesBrief(Local):
    """Writes into the model that it was sent, past torch's count of versions."""

    def work(self, brief, data, state, ctx, bound):
        brief.x.numpy()[:] += 1
        return super().work(brief, data, state, ctx, bound)


@dataclass(frozen=True)
class WritesMessages(Mean):
    def lift(self, m, ctx):
        m.x.data.mul_(0.5)
        return super().lift(m, ctx)


@dataclass(frozen=True)
class WritesState(Apply):
    def step(self, state, agg, ctx):
        out = super().step(state, agg, ctx)
        state["w"].data.add_(1)
        return out


@dataclass(frozen=True)
class WritesUpdate(Wire):
    def encode(self, x, state, ctx):
        x.numpy()[:1] = 0
        return x.clone(), {}, state


@pytest.mark.parametrize(
    ("slot", "method"),
    [
        ("client", WritesBrief()),
        ("aggregate", WritesMessages()),
        ("server", WritesState()),
        ("uplink", WritesUpdate()),
    ],
)
def test_what_writes_past_the_count_of_versions_is_refused_before_the_work(slot: str, method: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{slot}: Writes\w+ writes into what it was given"):
        fedfm.run(quadratics(**{slot: method}))
