"""Laws of clients and servers: the two halves of a training method."""

from __future__ import annotations

import dataclasses
import inspect
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fedfm.core.context import Ctx, Terms
from fedfm.core.federation import Federation
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregate, Client, Server
from fedfm.core.state import freeze, thaw
from fedfm.laws.compare import kept, normal, same
from fedfm.laws.homes import Home, opened
from fedfm.laws.law import hold, law


def _knobs(spec: Any) -> set[str]:
    """Names of the numbers in a spec and in the specs that it holds."""
    if isinstance(spec, Mapping):
        return {k for v in spec.values() for k in _knobs(v)}
    if not dataclasses.is_dataclass(spec):
        return set()
    fields = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec) if f.init}
    return set(fields) | {k for v in fields.values() for k in _knobs(v)}


def _turned(spec: Any, **values: Any) -> Any:
    """The spec with these numbers, wherever it holds fields of these names."""
    if isinstance(spec, Mapping):
        return {k: _turned(v, **values) for k, v in spec.items()}
    if not dataclasses.is_dataclass(spec) or isinstance(spec, type):
        return spec
    fields = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec) if f.init}
    return dataclasses.replace(
        spec, **{k: values[k] if k in values else _turned(v, **values) for k, v in fields.items()}
    )


def _brief(home: Home) -> torch.Tensor:
    state = home.fed.serving.init(home.bound, Ctx(home.fed.seed))
    return home.fed.serving.brief(state, Terms()).x


def _still(home: Home, client: Client) -> None:
    m, _, error = home.session(home.ids[1], client)
    hold(m is not None, error)
    assert m is not None
    start = _brief(home)[: m.x.numel()] if m.kind == "weights" else torch.zeros_like(m.x)
    hold(torch.equal(m.x, start), f"it moved by {float((m.x - start).abs().max()):g} without a step")


@law(Client, when=lambda c: {"steps", "epochs"} <= _knobs(c))
def no_steps_no_change(client: Client, within: Federation | None) -> None:
    """With steps=0 and epochs=0 the message is a zero difference (or the model that was sent)."""
    with tempfile.TemporaryDirectory() as folder:
        _still(opened(client, within, Path(folder)), _turned(client, steps=0, epochs=0.0))


@law(Client, when=lambda c: "lr" in _knobs(c))
def no_rate_no_change(client: Client, within: Federation | None) -> None:
    """With lr=0 the message is a zero difference (or the model that was sent)."""
    with tempfile.TemporaryDirectory() as folder:
        _still(opened(client, within, Path(folder)), _turned(client, lr=0.0))


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
        before = thaw(home.store._path(home.ids[0], version)) if version else {}
        home.session(home.ids[1], round=5)
        again, version, _ = home.session(home.ids[0], round=2)
        hold(same(first, again), "something of another session is left in the model")
        hold(
            same(before, thaw(home.store._path(home.ids[0], version)) if version else {}),
            "another state was kept",
        )


@law(Client)
def what_it_runs_alone_needs_no_server(client: Client, within: Federation | None) -> None:
    """`alone()` trains from plain weights and does not converse."""
    with tempfile.TemporaryDirectory() as folder:
        home = opened(client, within, Path(folder))
        alone = client.alone()
        hold(alone.dialect == "model", f"alone() speaks '{alone.dialect}'")
        brief = Message(home.bound.init.clone(), "weights")
        ctx = Ctx(3, client=home.ids[0], layout=home.bound.layout, events=[])
        out = alone.work(brief, home.site.data(home.ids[0]), {}, ctx, home.bound)
        hold(not inspect.isgenerator(out), "alone() converses")
        hold(torch.equal(brief.x, home.bound.init), "it changed the brief in place")


@law(Server)
def its_vectors_have_their_lengths(server: Server, within: Federation | None) -> None:
    """`model` is as long as the task's layout, the brief as `gives` declares, before and after a step."""
    with tempfile.TemporaryDirectory() as folder:
        home = opened(server, within, Path(folder))
    state, agg, ctx = _stepping(home)
    for s in (state, server.step(state, agg, ctx)):
        hold(
            server.model(s).shape == (home.bound.layout.size,),
            f"the model has {tuple(server.model(s).shape)} values",
        )
        got, wanted = server.brief(s, Terms()).x.shape, server.gives(home.bound.layout).size
        hold(got == (wanted,), f"gives() declares {wanted} values, the brief has {tuple(got)}")
    hold(torch.equal(server.model(state), home.bound.init), "it does not begin with the task's initial model")


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
        Aggregate(0.1 * normal(fed.aggregate.lifted(layout)), len(ids), ids, len(home.ids)),
        ctx,
    )
