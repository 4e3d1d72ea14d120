"""Laws of the wire: codecs and protection stages."""

from __future__ import annotations

import math
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fedfm.core.combine import Pipe, stages_of
from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed
from fedfm.core.federation import Federation, replace
from fedfm.core.message import Message, pack, unpack
from fedfm.core.protocols import State, Wire
from fedfm.core.state import freeze, lasting, thaw
from fedfm.efficiency.training.mean import Mean
from fedfm.laws.compare import kept, near, normal, same
from fedfm.laws.examples import knobs
from fedfm.laws.homes import play, quadratics
from fedfm.laws.law import hold, law
from fedfm.vectors.layout import Entry, Layout

LENGTHS = (0, 1, 7, 1000)
DRAWS = 600  # of an estimator whose mean is tested
SIGMAS = 5.0  # the chance that 7 coordinates of an unbiased code stray so far is about 4e-6; the draws are fixed anyway


def flat(d: int) -> Layout:
    """One tensor of d values, without padding."""
    return Layout((Entry("x", (d,), 0),), d)


def ctx(d: int, round: int = 3, client: str = "party-1") -> Ctx:
    return Ctx(7, round, client=client, layout=flat(d), events=[])


def _speaks_alone(wire: Wire) -> bool:
    """Can it be tried without a conversation, and does it repeat itself?"""
    return not wire.opaque and not wire.phases and not wire.fresh


def _codes(wire: Wire) -> bool:
    return _speaks_alone(wire) and bool(stages_of(wire))


@law(Wire, when=_speaks_alone)
def shapes_survive(wire: Wire, within: Federation | None) -> None:
    """Vectors of 0, 1, 7 and 1000 values, fp32 and bf16, come back with their length, finite."""
    for d in LENGTHS:
        for dtype in (torch.float32, torch.bfloat16):
            c, x = ctx(d), normal(d, d, dtype)
            y, side, _ = wire.encode(x, {}, c)
            hold(
                y.dim() == 1 and all(isinstance(t, Tensor) for t in side.values()),
                "a payload is 1-D, sides are tensors",
            )
            m = unpack(pack(Message(y, side=side)))
            out, _ = wire.decode(m.x, m.side, {}, c)
            hold(out.shape == (d,), f"{d} values of {dtype} came back as {tuple(out.shape)}")
            hold(
                out.is_floating_point() and bool(out.isfinite().all()),
                f"{d} values of {dtype} came back as {out}",
            )


@law(Wire, when=_codes)
def a_payload_is_as_long_as_it_says(wire: Wire, within: Federation | None) -> None:
    """`gives` tells the length of the payload, so that what stands behind it knows; a linear stage must."""
    for d in LENGTHS:
        c = ctx(d)
        assert c.layout is not None
        given = wire.gives(c.layout)
        y, _, _ = wire.encode(normal(d), {}, c)
        hold(
            given is not None or not wire.linear,
            "it is linear, so its payload has one length: declare `gives`",
        )
        hold(
            given is None or given.size == y.numel(),
            f"gives says {given and given.size}, {y.numel()} values came",
        )


@law(Wire, when=lambda w: _codes(w) and w.makes == "values")
def who_makes_values_makes_numbers(wire: Wire, within: Federation | None) -> None:
    """A payload of packed codes is no vector of values: a stage behind it must know (`makes = "codes"`)."""
    for d in LENGTHS:
        y, _, _ = wire.encode(normal(d), {}, ctx(d))
        hold(y.is_floating_point(), f'its payload is of {y.dtype}: declare makes = "codes"')


@law(Wire, when=lambda w: _speaks_alone(w) and not w.remembers)
def who_keeps_something_says_so(wire: Wire, within: Federation | None) -> None:
    """Neither end has a state after a message, or `remembers` is declared."""
    y, side, state = wire.encode(normal(40), {}, ctx(40))
    _, memory = wire.decode(y, side, {}, ctx(40))
    hold(not lasting(state) and not lasting(memory), "it keeps a state: declare remembers = True")


@law(Wire, when=_speaks_alone)
def it_is_pure(wire: Wire, within: Federation | None) -> None:
    """The same context gives the same bits; vector, sides and states are left as they were."""
    c, x, state, memory = ctx(40), normal(40), dict[str, Any](), dict[str, Any]()
    for t in range(3):  # the states of later rounds too
        c = c.at(round=t)
        before = kept((x, state, memory))
        one, two = wire.encode(x, state, c), wire.encode(x, state, c)
        hold(
            same(one, two),
            "two encodings in one context differ; draw from ctx.rng, not from a global generator",
        )
        y, side, new = one
        sent = kept((y, side))
        a, b = wire.decode(y, side, memory, c), wire.decode(y, side, memory, c)
        hold(same(a, b), "two decodings in one context differ")
        hold(same((x, state, memory), before), "it changed its input or a state in place")
        hold(same((y, side), sent), "decode changed the message")
        state, memory = new, a[1]


@law(Wire, when=_speaks_alone)
def bytes_are_what_the_ledger_says(wire: Wire, within: Federation | None) -> None:
    """`Message.nbytes` is the length of what would be sent."""
    for d in LENGTHS:
        y, side, _ = wire.encode(normal(d), {}, ctx(d))
        m = Message(y, side=side)
        hold(m.nbytes == len(pack(m)), f"{m.nbytes} bytes are claimed, {len(pack(m))} would be sent")


@law(Wire, when=lambda w: _speaks_alone(w) and w.lossless)
def lossless_means_exact(wire: Wire, within: Federation | None) -> None:
    """decode(encode(x)) is x, bit for bit, in its own type."""
    for d in LENGTHS:
        for dtype in (torch.float32, torch.bfloat16):
            c, x = ctx(d), normal(d, d, dtype)
            y, side, _ = wire.encode(x, {}, c)
            out = wire.decode(y, side, {}, c)[0]
            hold(
                out.dtype == dtype,
                f"a vector of {d} values went in as {dtype} and came out as {out.dtype}: the type changed",
            )
            hold(
                out.shape == x.shape,
                f"{d} values of {dtype} came out as a tensor of shape {tuple(out.shape)}",
            )
            bits = torch.int32 if dtype == torch.float32 else torch.int16
            off = int((out.view(bits) != x.view(bits)).sum())
            hold(not off, f"{off} of {d} values of {dtype} changed")


@law(Wire, when=lambda w: _speaks_alone(w) and w.linear)
def linear_means_that_decode_commutes_with_the_sum(wire: Wire, within: Federation | None) -> None:
    """Of three parties in one round: decode(sum of codes) = sum of decoded codes, in shared streams."""
    for d in LENGTHS:
        codes, parts = [], []
        for k in range(3):
            c = ctx(d, client=f"party-{k}")
            y, side, _ = wire.encode(normal(d, k), {}, c)
            codes.append(y)
            parts.append(wire.decode(y, side, {}, c)[0])
        hold(len({y.shape for y in codes}) == 1, "codes of one round differ in length")
        got = wire.decode(torch.stack(codes).sum(0), side, {}, ctx(d, client=""))[0]
        hold(near(got, torch.stack(parts).sum(0)), f"d={d}: the sum decodes to something else")


@law(Wire, when=lambda w: _codes(w) and w.unbiased)
def unbiased_means_that_the_mean_is_right(wire: Wire, within: Federation | None) -> None:
    """A z-test on each of 7 coordinates over 600 rounds."""
    x = normal(7, 1)
    draws = []
    for t in range(DRAWS):
        c = ctx(7, round=t)
        y, side, _ = wire.encode(x, {}, c)
        draws.append(wire.decode(y, side, {}, c)[0])
    seen = torch.stack(draws).double()
    off = (seen.mean(0) - x).abs()
    allowed = SIGMAS * seen.std(0) / math.sqrt(DRAWS) + 1e-6
    hold(
        bool((off <= allowed).all()),
        f"the mean is off by {off.tolist()}, {SIGMAS:g} sigma are {allowed.tolist()}",
    )


@law(Wire, when=_codes)
def what_is_not_finite_raises(wire: Wire, within: Federation | None) -> None:
    """NaN and Inf end the client's session with ClientFailed; they never become plausible bytes."""
    for bad in (math.nan, math.inf, -math.inf):
        x = normal(40)
        x[17] = bad
        try:
            wire.encode(x, {}, ctx(40))
        except ClientFailed:
            continue
        raise AssertionError(f"{bad} was encoded")


@law(Wire, when=_speaks_alone)
def states_can_be_stored(wire: Wire, within: Federation | None) -> None:
    """What encode and decode keep is plain: it survives the disk, and goes on from there as if never stored."""
    state, memory = dict[str, Any](), dict[str, Any]()
    for t in range(3):
        c = ctx(40, round=t)
        y, side, state = wire.encode(normal(40, t), state, c)
        _, memory = wire.decode(y, side, memory, c)
        for what in (state, memory):
            hold(same(_stored(what), lasting(what)), "the state that comes back from the disk is another")
    c, x = ctx(40, round=3), normal(40, 3)
    hold(
        same(wire.encode(x, state, c)[:2], wire.encode(x, _stored(state), c)[:2]),
        "a stored state encodes differently",
    )


def _stored(state: State) -> State:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "state.safetensors")
        path.write_bytes(freeze(lasting(state)))
        return thaw(path)


@law(Wire, when=_speaks_alone)
def padding_stays_zero(wire: Wire, within: Federation | None) -> None:
    """The elements between the tensors of a layout are zero before and after (a law of the flat vector)."""
    layout = Layout.of({"a": (3, 5), "b": (7,), "c": ()})
    x = layout.pack({"a": normal(15).view(3, 5), "b": normal(7), "c": torch.tensor(2.0)})
    here = layout.pack({e.name: torch.ones(e.shape) for e in layout.entries}).bool()
    for t in range(3):
        c = Ctx(7, t, client="party-1", layout=layout, events=[])
        y, side, _ = wire.encode(x, {}, c)
        out, _ = wire.decode(y, side, {}, c)
        out = wire.decode_sum(out, wire.host(c), c) if wire.after_sum else out
        hold(not bool(out[~here].any()), "values appear in the padding between tensors")


@law(Wire, when=_speaks_alone)
def a_strangers_sides_are_not_believed(wire: Wire, within: Federation | None) -> None:
    """Whatever stands beside a payload, or in it: `decode` refuses it, or gives what an honest party could have sent.

    That is a finite vector of the agreed length, made in memory of the size of what was agreed; its memory of the
    sender stays as it was. Sides are dropped, emptied, doubled, of another type, negative, huge and not finite.
    """
    d, memory = 300, dict[str, Any]()
    y, side, sent = wire.encode(normal(d), {}, ctx(d, 2))
    _, memory = wire.decode(y, side, memory, ctx(d, 2))
    for c in (ctx(d), ctx(d).at(layout=None)):
        try:
            y, side, _ = wire.encode(normal(d, 1), sent, c)
            with _Largest():  # what torch imports for the first of these modes is no memory of the decoder's
                wire.decode(y, side, kept(memory), c)
        except AssertionError:  # a stage that goes by the names of tensors has no place in a conversation
            continue
        for what, x, beside in _lies(y, side, d):
            before, most = kept(memory), _Largest()
            tracemalloc.start()
            try:
                with most:
                    out, _ = wire.decode(x, beside, memory, c)
            except Exception as e:  # noqa: BLE001 - whatever it raises costs the sender its place, and nobody else
                hold(not isinstance(e, MemoryError | RecursionError), f"{what}: {type(e).__name__}: {e}")
                out = None
            finally:
                taken = max(4 * most.size, tracemalloc.get_traced_memory()[1])
                tracemalloc.stop()
            hold(taken <= 1 << 22, f"{what}: {taken} bytes were taken for a vector of {d} values")
            hold(same(memory, before), f"{what}: its memory of the sender has changed")
            if out is None or x is not y:  # another payload: its length is for the hub to judge
                continue
            # A stage behind another is told its length; that of the first is compared with the layout by the hub.
            whole = c.layout is None or out.shape == (d,) or "/length'" in what or what.startswith("'length'")
            hold(whole and out.dim() == 1, f"{what}: {tuple(out.shape)} values came out, ({d},) were agreed")
            hold(out.is_floating_point() and bool(out.isfinite().all()), f"{what}: {out} came out")


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The elements of the largest tensor that is made meanwhile."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, list | tuple) else (out,):
            if isinstance(t, Tensor):
                self.size = max(self.size, t.numel())
        return out


def _lies(y: Tensor, side: dict[str, Tensor], d: int) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
    """What was sent, changed in one place, with what was done to it."""
    for name, t in side.items():
        yield f"no '{name}'", y, {k: v for k, v in side.items() if k != name}
        for how, other in _changed(t):
            yield f"'{name}' {how}", y, side | {name: other}
    for n in (-1, 0, d + 1, 1 << 22, 1 << 62):
        for name in {"length", *(k.rpartition("/")[0] + "/length" for k in side if "/" in k)}:
            yield f"'{name}' of {n}", y, side | {name: torch.tensor([n])}
    for how, other in _changed(y):
        yield f"a payload {how}", other, side


def _changed(t: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield "that is empty", t.reshape(-1)[:0]
    yield "twice as long", torch.cat([t.reshape(-1)] * 2)
    yield "one shorter", t.reshape(-1)[:-1]
    yield "of another shape", t.reshape(1, 1, -1)
    for dtype in (torch.float32, torch.int64, torch.uint8, torch.bool):
        if dtype != t.dtype:
            yield f"of {dtype}", t.to(dtype)
    if t.is_floating_point():
        for value in (math.nan, math.inf, -math.inf, 3e38, -3e38, -1.0):
            yield f"of {value}", torch.full_like(t, value)
        if t.numel() > 1:
            yield "turned round", t.flip(0)
    elif t.dtype != torch.bool:
        for value in {
            0,
            torch.iinfo(t.dtype).max,
            torch.iinfo(t.dtype).min,
            7,
            min(1 << 22, torch.iinfo(t.dtype).max),
        }:
            yield f"of {value}", torch.full_like(t, value)


@law(Wire, when=lambda w: w.after_sum and not isinstance(w, Pipe))
def a_stage_undone_on_the_sum_leaves_single_messages_alone(wire: Wire, within: Federation | None) -> None:
    """decode is the identity: the work is decode_sum's, once."""
    x = normal(9)
    hold(same(wire.decode(x, {}, {}, ctx(9))[0], x), "decode changed the payload")


@law(Wire, when=lambda w: w.opaque)
def a_hidden_sum_is_the_sum(wire: Wire, within: Federation | None) -> None:
    """A federation under it learns what it would without it (to 1e-5), and no round fails."""
    fed = within if within is not None else quadratics(aggregate=Mean())
    bare = [s for s in stages_of(wire) if s.linear and not s.after_sum]
    hidden = play(replace(fed, uplink=wire))
    plain = play(replace(fed, uplink=Pipe(*bare)))
    hold(not hidden.failed, f"rounds failed: {hidden.failed}")
    noisy = any(getattr(s, "noise_multiplier", 0) or getattr(s, "clip_norm", 0) for s in stages_of(wire))
    hold(noisy or near(hidden.model, plain.model), "the unmasked sum is another")


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
