"""Laws of the sorts of numbers: weights are trained, buffers are what the module makes of them, padding is nothing."""

from __future__ import annotations

import copy
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedfm.core.context import Ctx, Terms
from fedfm.core.federation import Federation
from fedfm.core.protocols import Aggregate, Aggregator, Client, Server, Wire
from fedfm.core.tree import Entry, Layout
from fedfm.laws import aggregators
from fedfm.laws.compare import near, normal, same
from fedfm.laws.homes import Home, opened
from fedfm.laws.law import hold, law
from fedfm.laws.training import knobs, turned
from fedfm.tasks.bound import BoundModule

STILL = torch.tensor([1.5, -2.25, 1e-3])  # a fixed residual: nothing may touch it
COUNT = "counted"  # a running statistic: one more with every loss that is computed in training


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


def padding(layout: Layout) -> Tensor:
    """Where a vector has no numbers (bool)."""
    return ~layout.pack({e.name: torch.ones(e.shape) for e in layout.entries}).bool()


def _ends(layout: Layout, name: str) -> list[str]:
    return [e.name for e in layout.entries if e.name.rpartition("/")[2] == name]


@law(Client)
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


@law(Server)
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
            state = tried.step(state, Aggregate(x, len(ids), ids, len(home.ids)), ctx.at(round=1 + t))
            model, brief = tried.model(state), tried.brief(state, Terms()).x
            now = whole.views(model)
            hold(same(now["residual"], before["residual"]), f"round {t}: it made {now['residual'].tolist()}")
            hold(float(now[COUNT]) == seen, f"round {t}: a statistic of {seen} became {float(now[COUNT])}")
            hold(not bool(model[padding(whole)].any()), "values in the padding of the model")
            hold(not bool(brief[padding(tried.gives(whole))].any()), "values in the padding of the brief")


@law(Aggregator)
def what_nobody_touched_stays(a: Aggregator, within: Federation | None) -> None:
    """Padding stays 0, and so do differences of 0; weights on which all agree are kept to 1e-6."""
    ms, layout = aggregators.messages(a), aggregators.LAYOUT
    there, lora = padding(layout), [e.name for e in layout.entries if e.name != "head"]
    for m in ms:
        for name in lora:
            layout.views(m.x)[name].copy_(layout.views(ms[0].x)[name] * (a.takes == ("weights",)))
    got = aggregators.together(a, ms)
    hold(not bool(got[there].any()), "values appear in the padding between tensors")
    for name in lora:
        now, was = layout.views(got)[name], layout.views(ms[0].x)[name]
        hold(near(now, was, 1e-6) if a.takes == ("weights",) else not bool(now.any()), f"{name} became {now}")


def _shares(wire: Wire) -> bool:
    """Does a share of the values travel, without a conversation?"""
    return not (wire.opaque or wire.phases or wire.perturbs) and "fraction" in knobs(wire)


@law(Wire, when=_shares)
def padding_does_not_count(wire: Wire, within: Federation | None) -> None:
    """A fraction is a fraction of numbers: the same values come back with padding between tensors and without."""
    for d in (3, 40):
        x = 5.0 + normal(d)
        tight = Layout(tuple(Entry(f"t{i}", (1,), i) for i in range(d)), d)
        wide = Layout.of({e.name: (1,) for e in tight.entries})
        found = []
        for layout in (tight, wide):
            c = Ctx(7, 3, client="party-1", layout=layout, events=[])
            y, side, _ = wire.encode(layout.pack({f"t{i}": x[i : i + 1] for i in range(d)}), {}, c)
            out = layout.views(wire.decode(y, side, {}, c)[0])
            found.append(torch.cat([out[e.name] for e in layout.entries]))
        hold(
            same(found[0], found[1]),
            f"{d} values come back as {found[0].tolist()}, and between padding as {found[1].tolist()}: take the "
            "padding out with codec.length.real, put it back with spread",
        )
