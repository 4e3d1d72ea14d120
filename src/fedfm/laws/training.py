"""Laws of clients and servers, the two halves of a training method: what they promise, and that they train weights alone."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedfm.checks.rules import check
from fedfm.core.context import Ctx, Terms
from fedfm.core.errors import FedfmError
from fedfm.core.federation import Federation
from fedfm.core.job import Job
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregate, Client, Server
from fedfm.core.state import freeze, thaw
from fedfm.efficiency.training.schedule import Schedule
from fedfm.laws.compare import kept, normal, padding, same
from fedfm.laws.examples import knobs, turned
from fedfm.laws.homes import Home, opened, tries
from fedfm.laws.law import hold, law
from fedfm.tasks.bound import BoundModule
from fedfm.vectors.layout import Layout

STILL = torch.tensor([1.5, -2.25, 1e-3])  # a fixed residual: nothing may touch it
COUNT = "counted"  # a running statistic: one more with every loss that is computed in training


def _brief(home: Home) -> torch.Tensor:
    state = home.fed.serving.init(home.bound, Ctx(home.fed.seed))
    return home.fed.serving.brief(state, Terms()).x


def _still(home: Home, client: Client) -> None:
    m, _, error = home.session(home.ids[1], client)
    hold(m is not None, error)
    assert m is not None
    x = m.x[: home.bound.layout.size]  # what else a message holds comes behind
    start = _brief(home)[: x.numel()] if m.kind == "weights" else torch.zeros_like(x)
    hold(torch.equal(x, start), f"it moved by {float((x - start).abs().max()):g} without a step")


@law(Client, when=lambda c: {"steps", "epochs"} <= knobs(c) and not c.mixed)
def no_steps_no_change(client: Client, within: Federation | None) -> None:
    """With steps=0 the message is a zero difference (or the model that was sent)."""
    with tempfile.TemporaryDirectory() as folder:
        _still(opened(client, within, Path(folder)), turned(client, steps=0, epochs=None))


@law(Client, when=lambda c: "lr" in knobs(c) and not c.mixed)
def no_rate_no_change(client: Client, within: Federation | None) -> None:
    """With lr=0 the message is a zero difference (or the model that was sent)."""
    with tempfile.TemporaryDirectory() as folder:
        _still(opened(client, within, Path(folder)), turned(client, lr=0.0))


@law(Client, when=lambda c: "lr" in knobs(c) and c.mixed)
def no_rate_leaves_the_own_model(client: Client, within: Federation | None) -> None:
    """With lr=0 the party's own model is the one that its task begins with, whatever its architecture."""
    still = turned(client, lr=0.0)
    with tempfile.TemporaryDirectory() as folder:
        home = opened(still, within, Path(folder))
        for id in home.ids[:2]:
            _, version, error = home.session(id)
            hold(not error, error)
            job = Job("own", id, 0, base=version)
            brief = home.fed.serving.brief(home.fed.serving.init(home.bound, Ctx(0)), Terms())
            own = home.site.guard.own(job, brief, home.site.guard.context(job))
            hold(torch.equal(own.read(), own.init), f"the model of {id} moved without a rate")


@law(Client, when=lambda c: {"lr", "send"} <= knobs(c))
def what_it_sends_is_what_it_says(client: Client, within: Federation | None) -> None:
    """Set to send weights it refuses, or sends weights under that name: without a rate, the model that was sent."""
    try:
        sends = turned(client, lr=0.0, send="weights")
    except ValueError:
        return
    around = [dataclasses.replace(within, client=sends)] if within is not None else tries(sends)
    for fed in around:
        with tempfile.TemporaryDirectory() as folder:
            try:
                home = Home(fed, Path(folder))
            except FedfmError:  # not on this task
                continue
            if not check(fed) and bool(home.bound.init.any()):  # where a model and no change differ
                _still(home, sends)


@law(Client, when=lambda c: not c.remembers)
def what_it_keeps_is_declared(client: Client, within: Federation | None) -> None:
    """Its state holds no vectors, or it says that it `remembers`."""
    with tempfile.TemporaryDirectory() as folder:
        home = opened(client, within, Path(folder))
        _, version, error = home.session(home.ids[0])
        hold(not error, error)
        kept = thaw(home.store.path(home.ids[0], version)).get("client", {}) if version else {}
    large = [k for k, v in kept.items() if not isinstance(v, int | float | str | bool)]
    hold(not large, f"it keeps {', '.join(large)}: declare remembers = True")


@law(Client)
def the_message_is_whole(client: Client, within: Federation | None) -> None:
    """Finite, of the layout that `gives` declares, with a finite weight, and padding zero."""
    with tempfile.TemporaryDirectory() as folder:
        home = opened(client, within, Path(folder))
        m, _, error = home.session(home.ids[1])
    hold(m is not None, error)
    assert m is not None
    layout = client.gives(home.bound.layout)
    hold(m.x.shape == (layout.size,), f"gives() declares {layout.size} values, {tuple(m.x.shape)} came")
    hold(bool(m.x.isfinite().all()) and 0 <= m.mass < math.inf, "the message is not finite")
    here = layout.pack({e.name: torch.ones(e.shape) for e in layout.entries}).bool()
    hold(not bool(m.x[~here].any()), "values in the padding between tensors")


@law(Client)
def sessions_leave_no_trace(client: Client, within: Federation | None) -> None:
    """The same session gives the same bits, whoever trained in between; its state survives the disk."""
    with tempfile.TemporaryDirectory() as folder:
        home = opened(client, within, Path(folder))
        first, version, error = home.session(home.ids[0], round=2)
        hold(not error, error)
        before = thaw(home.store.path(home.ids[0], version)) if version else {}
        home.session(home.ids[1], round=5)
        again, version, _ = home.session(home.ids[0], round=2)
        hold(same(first, again), "something of another session is left in the model")
        hold(
            same(before, thaw(home.store.path(home.ids[0], version)) if version else {}),
            "another state was kept",
        )


@law(Client)
def what_it_runs_alone_needs_no_server(client: Client, within: Federation | None) -> None:
    """`alone()` trains from plain weights and does not converse."""
    with tempfile.TemporaryDirectory() as folder:
        home = opened(client, within, Path(folder))
        alone = client.alone()
        hold(alone.dialect == "model", f"alone() speaks '{alone.dialect}'")
        bound = home.bound.at(home.ids[0], Terms())
        brief = Message(bound.init.clone(), "weights")
        ctx = home.site.guard.context(Job("alone", home.ids[0], 0)).at(layout=bound.layout)
        out = alone.work(brief, home.site.data(home.ids[0]), {}, ctx, bound)
        hold(not inspect.isgenerator(out), "alone() converses")
        left = torch.equal(brief.x, bound.init) and not brief.x._version  # zeros that are halved are zeros
        hold(left, "it changed the brief in place")


@law(Server)
def its_vectors_have_their_lengths(server: Server, within: Federation | None) -> None:
    """`model` is as long as the task's layout, the brief as `gives` declares, before and after a step."""
    with tempfile.TemporaryDirectory() as folder:
        home = opened(server, within, Path(folder))
    state, agg, ctx = _stepping(home)
    for s in (state, server.step(state, agg, ctx)):
        hold(
            not home.fed.task.whole or server.model(s).shape == (home.bound.layout.size,),
            f"the model has {tuple(server.model(s).shape)} values",
        )
        got, wanted = server.brief(s, Terms()).x.shape, server.gives(home.bound.layout).size
        hold(got == (wanted,), f"gives() declares {wanted} values, the brief has {tuple(got)}")
    same_start = not home.fed.task.whole or torch.equal(server.model(state), home.bound.init)
    hold(same_start, "it does not begin with the task's initial model")


@law(Server)
def its_step_is_pure(server: Server, within: Federation | None) -> None:
    """State and aggregate are left as they were; the same step gives the same bits; the state survives the disk."""
    with tempfile.TemporaryDirectory() as folder:
        home = opened(server, within, Path(folder))
        state, agg, ctx = _stepping(home)
        for _ in range(2):
            before = kept((state, agg.x))
            one, two = server.step(state, agg, ctx), server.step(state, agg, ctx)
            hold(same(one, two), "two steps from one state differ")
            hold(same((state, agg.x), before), "it changed the state or the aggregate in place")
            path = Path(folder, "server.safetensors")
            path.write_bytes(freeze(one))
            hold(same(thaw(path), one), "its state does not survive the disk")
            state = one


def _stepping(home: Home) -> tuple[dict[str, Any], Aggregate, Ctx]:
    fed, ids = home.fed, home.ids[:2]
    layout = fed.client.gives(home.bound.layout)
    ctx = Ctx(fed.seed, 1, layout=layout, events=[])
    return (
        fed.serving.init(home.bound, ctx),
        Aggregate(0.1 * normal(fed.aggregate.lifted(layout)), len(ids), ids, len(home.ids), (1,) * len(ids)),
        ctx,
    )


# ---- the sorts of numbers -------------------------------------------------------------------------------------------
def marked(home: Home) -> Any:
    """The home's task with a fixed residual and a running statistic beside its weights; returns the objective."""
    module, objective = home.bound.module, copy.copy(home.bound.objective)
    if "residual" not in dict(module.named_buffers()):
        module.register_buffer("residual", STILL.clone())
        module.register_buffer(COUNT, torch.zeros(1))
    plain, objective.left = objective.loss, 0.0  # what the statistic was when the module last changed it

    def loss(module: torch.nn.Module, batch: Any) -> Tensor:
        if module.training:
            module.get_buffer(COUNT).add_(1)
            objective.left = float(module.get_buffer(COUNT))
        found: Tensor = plain(module, batch)
        return found

    objective.loss = loss
    axes = {e.name: e.axes for e in home.bound.layout.entries}
    home.bound = BoundModule(module, objective, axes=axes, buffers=("residual", COUNT))
    return objective


def _ends(layout: Layout, name: str) -> list[str]:
    return [e.name for e in layout.entries if e.name.rpartition("/")[2] == name]


@law(Client, when=lambda c: not c.mixed)
def it_trains_weights_alone(client: Client, within: Federation | None) -> None:
    """A residual and a statistic of the module come back as the module left them, bit for bit, decay or not."""
    tries = [client]
    for more in ({"weight_decay": 0.1}, {"clip_grad": 1e-3}, {"mu": 1.0}):
        with suppress(ValueError):  # a client that takes plain steps says so
            tries += [found] if (found := turned(client, **more)) != client else []
    for k, tried in enumerate(tries):
        with tempfile.TemporaryDirectory() as folder:
            home = opened(tried, within, Path(folder))
            objective = marked(home)
            base, layout = 0, client.gives(home.bound.layout)
            for t in range(2):  # in the second round with the state of the first
                objective.left = 0.0
                m, base, error = home.session(home.ids[1], tried, round=t, base=base)
                hold(m is not None, error)
                assert m is not None
                start = STILL if m.kind == "weights" else torch.zeros(3)
                for name in _ends(layout, "residual"):
                    got = layout.views(m.x)[name]
                    hold(same(got, start), f"try {k}: it made {got.tolist()} of a residual {start.tolist()}")
                for name in _ends(layout, COUNT):
                    n = float(layout.views(m.x)[name])
                    hold(
                        n == objective.left,
                        f"try {k}: a statistic of {objective.left} came back as {n}",
                    )
                hold(not bool(m.x[padding(layout)].any()), f"try {k}: values in the padding between tensors")


@law(Server, when=lambda s: s.whole)
def it_steps_weights_alone(server: Server, within: Federation | None) -> None:
    """Buffers become what the parties' mean makes of them, whatever rate, momentum and moments do to weights."""
    tries = [server]
    with suppress(ValueError):
        tries += [found] if (found := turned(server, lr=0.5, momentum=0.9)) != server else []
    for tried in tries:
        with tempfile.TemporaryDirectory() as folder:
            home = opened(server, within, Path(folder))
        marked(home)
        sends, whole = tried.takes, home.bound.layout
        layout = home.fed.client.gives(whole)
        ctx = Ctx(home.fed.seed, 1, layout=layout, events=[])
        state, seen = tried.init(home.bound, ctx), 0.0
        for t, moved in enumerate((0.0, 3.0, 0.0)):
            before = whole.views(tried.model(state).clone())
            x = layout.blank(0.1 * normal(layout.size, t))
            seen += moved * bool(_ends(layout, COUNT))
            for name in _ends(layout, "residual"):
                layout.views(x)[name].copy_(STILL if sends == "weights" else torch.zeros(3))
            for name in _ends(layout, COUNT):
                layout.views(x)[name].fill_(seen if sends == "weights" else moved)
            ids = home.ids[:2]
            state = tried.step(
                state, Aggregate(x, len(ids), ids, len(home.ids), (1 + t,) * len(ids)), ctx.at(round=1 + t)
            )
            model, brief = tried.model(state), tried.brief(state, Terms()).x
            now = whole.views(model)
            hold(same(now["residual"], before["residual"]), f"round {t}: it made {now['residual'].tolist()}")
            hold(float(now[COUNT]) == seen, f"round {t}: a statistic of {seen} became {float(now[COUNT])}")
            hold(not bool(model[padding(whole)].any()), "values in the padding of the model")
            hold(not bool(brief[padding(tried.gives(whole))].any()), "values in the padding of the brief")


@law(Client, when=lambda c: c.server_half() is not None)
def its_server_half_keeps_the_laws_of_a_server(client: Client, within: Federation | None) -> None:
    """What `server_half` returns is tried beside this very client: no test names it, and every run has it."""
    with tempfile.TemporaryDirectory() as folder:
        fed = opened(client, within, Path(folder)).fed
    half = client.server_half()
    for found in (its_vectors_have_their_lengths, its_step_is_pure, it_steps_weights_alone):
        why = found.broken(half, fed) if found.binds(half) else ""
        hold(not why, f"{type(half).__name__} breaks '{found.name}': {why}")


@law(Schedule)
def a_rate_never_exceeds_its_knob(s: Schedule, within: Federation | None) -> None:
    """Factors lie in 0 .. 1 in every round, before, at and beyond the horizon; the first one is above 0."""
    for horizon in (0, 1, 2, 10, 1000):
        factors = [s.factor(t, horizon) for t in range(horizon + 5)]
        hold(all(0.0 <= f <= 1.0 for f in factors), f"of {horizon} rounds: {factors[:12]}")
        hold(factors[0] > 0.0, f"the first of {horizon} rounds has no rate")


@law(Schedule)
def a_warm_up_climbs(s: Schedule, within: Federation | None) -> None:
    """In equal steps to the full rate, which is reached when it is over."""
    w = s.warmup
    hold(s.factor(w, 100 * (w + 1)) == 1.0, f"after {w} rounds the rate is not full")
    for t in range(w):
        hold(abs(s.factor(t, 100) - (t + 1) / (w + 1)) < 1e-12, f"round {t}: {s.factor(t, 100)}")
