"""Laws of aggregators: what any way from messages to one vector must respect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fedfm.core.context import Ctx
from fedfm.core.federation import Federation
from fedfm.core.fold import Fold
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregator, State
from fedfm.laws.compare import kept, near, normal, padding, same
from fedfm.laws.law import hold, law
from fedfm.ledger.events import Line
from fedfm.vectors.layout import Layout

# It has the tensors that exact averaging of low-rank factors asks for; the others do not mind.
LAYOUT = Layout.of(
    {"q.lora_A.default.weight": (2, 3), "q.lora_B.default.weight": (4, 2), "q.lora_R": (4, 3), "head": (5,)},
    buffers=("q.lora_R",),
)
ROUND = 4


class _House:
    """A server that has learnt an update of its own, and judges a model by how near it comes to it.

    The model is 0, so an update and the model after it are one vector. It has no rows: what a task encodes and what
    parties answer is tried in a federation (`play`).
    """

    def __init__(self) -> None:
        shapes = {e.name: e.shape for e in LAYOUT.entries}
        self.own = LAYOUT.pack(
            {k: normal(100, j)[: torch.Size(s).numel()].view(s) for j, (k, s) in enumerate(shapes.items())}
        )

    def learn(self) -> Message:
        return Message(self.own)

    def after(self, x: Tensor) -> Tensor:
        return x

    @property
    def model(self) -> Tensor:
        return torch.zeros(LAYOUT.size)

    def score(self, model: Tensor) -> float:
        return -float((model - self.own).norm())

    def risk(self, model: Tensor) -> float:
        return float((model - self.own).square().sum()) / 2

    def gradient(self, model: Tensor) -> Tensor:
        return model - self.own

    def __getattr__(self, name: str) -> Any:
        offered = ", ".join(n for n in dir(_House) if not n.startswith("_"))
        why = f"the laws of a rule are tried with a house that offers {offered}, not '{name}'"
        raise AttributeError(f"{why}; try what needs it with laws.play(federation)")


def ctx(events: list[Line] | None = None) -> Ctx:
    return Ctx(7, ROUND, layout=LAYOUT, events=events, house=_House())


def messages(a: Aggregator, n: int = 0) -> list[Message]:
    """Fresh messages of n parties (at least 5, at least what it needs) with different weights."""
    n = n or max(5, a.least)
    shapes = {e.name: e.shape for e in LAYOUT.entries}
    return [
        Message(
            LAYOUT.pack(
                {
                    k: normal(10_000, 97 * i + j)[: torch.Size(s).numel()].view(s)
                    for j, (k, s) in enumerate(shapes.items())
                }
            ),
            a.takes[0],
            mass=float(1 + i),
            sender=f"party-{i}",
            version=ROUND,
        )
        for i in range(n)
    ]


def _state(a: Aggregator) -> State:
    return a.init([f"party-{k}" for k in range(5)], ctx())


def together(a: Aggregator, ms: Sequence[Message], kind: str = "float", share: bool = False) -> Tensor:
    """The aggregate, through the fold or `combine`."""
    if a.form == "all":
        return a.combine(ms, _state(a), ctx())[0]
    fold = Fold(kind)
    for m in ms:
        there = ctx().at(client=m.sender)
        fold.add(a.share(m, there) if share else a.lift(m, there), m.sender)
    return a.finish(fold.total(), fold.mass, len(fold.ids), _state(a), ctx())[0]


def _relative(a: Aggregator) -> bool:
    """Does it divide by what came, rather than by a number fixed in advance?"""
    return a.divisor != "public" and not guided(a)


def guided(a: Aggregator) -> bool:
    """Does it measure messages against rows of the server's own?"""
    return "server rows" in a.needs


@law(Aggregator)
def order_does_not_matter(a: Aggregator, within: Federation | None) -> None:
    """To 1e-5 in fp32, which is all that fp32 sums allow; in the sum form exactly with the fixed-point fold."""
    ms = messages(a)
    orders = [ms[::-1], ms[2:] + ms[:2]]
    for order in orders:
        hold(near(together(a, ms), together(a, order)), "another order of messages, another aggregate")
        if a.form == "sum":
            hold(
                same(together(a, ms, "fixed"), together(a, order, "fixed")), "fold=fixed depends on the order"
            )


@law(Aggregator, when=_relative)
def scale_of_the_weights_does_not_matter(a: Aggregator, within: Federation | None) -> None:
    """Weights are shares: eight times as many examples everywhere change nothing."""
    ms = messages(a)
    hold(
        near(together(a, ms), together(a, [replace(m, mass=8 * m.mass) for m in ms])),
        "heavier messages, another aggregate",
    )


@law(Aggregator, when=lambda a: _relative(a) and not a.rescales)
def agreement_is_kept(a: Aggregator, within: Federation | None) -> None:
    """n times the same fresh message gives that message."""
    ms = messages(a)
    alike = [replace(m, x=ms[0].x) for m in ms]
    got = together(a, alike)  # of several models there are several aggregates
    hold(got.numel() > LAYOUT.size or near(got, ms[0].x), "all agreed on something else")


@law(Aggregator)
def it_is_pure(a: Aggregator, within: Federation | None) -> None:
    """Messages are left as they were, and the same messages give the same bits."""
    ms = messages(a)
    before = kept(ms)
    one, two = together(a, ms), together(a, ms)
    hold(same(one, two), "two aggregates of the same messages differ")
    hold(same(ms, before), "it changed a message in place")
    hold(one.dtype == torch.float32, f"an aggregate is fp32, this is {one.dtype}")


@law(Aggregator)
def values_in_bf16_are_accepted(a: Aggregator, within: Federation | None) -> None:
    """Payloads in half precision are summed in full."""
    ms = messages(a)
    half = together(a, [replace(m, x=m.x.bfloat16()) for m in ms])
    hold(
        half.dtype == torch.float32,
        f"the aggregate of bf16 messages is {half.dtype}: convert to fp32 before the sum",
    )
    hold(near(half, together(a, ms), rtol=0.05), "bf16 messages give something else")


@law(Aggregator, when=lambda a: a.form == "sum")
def lifts_have_the_declared_length(a: Aggregator, within: Federation | None) -> None:
    """`lifted(layout)` says how long a summand is."""
    n = a.lift(messages(a)[0], ctx()).x.numel()
    hold(a.lifted(LAYOUT) == n, f"lifted() says {a.lifted(LAYOUT)}, a lift has {n} values")


@law(Aggregator, when=lambda a: a.form == "sum" and a.plain)
def plain_means_that_the_lift_only_scales(a: Aggregator, within: Federation | None) -> None:
    """The summand is alpha times the message, so a clipped message stays bounded."""
    for m in messages(a):
        hold(same(a.lift(m, ctx()).x, m.x), "the lift changed the payload")


@law(Aggregator, when=lambda a: a.shares)
def what_the_client_lifts_is_what_the_server_would_lift(a: Aggregator, within: Federation | None) -> None:
    """share == lift for fresh messages."""
    for m in messages(a):
        one, two = a.share(m, ctx()), a.lift(m, ctx())
        hold(
            same((one.x, one.alpha), (two.x, two.alpha)) and same(one.mass, two.mass),
            f"share {one}, lift {two}",
        )


@law(Aggregator, when=lambda a: a.form == "all" and getattr(a, "f", 0))
def f_arbitrary_messages_do_not_carry_it_away(a: Aggregator, within: Federation | None) -> None:
    """With f messages of any size, aligned or not, the aggregate stays within the honest messages' reach."""
    f = a.f  # type: ignore[attr-defined]
    ms = messages(a, max(a.least, 2 * f + 3))
    reach = max(float(m.x.norm()) for m in ms[f:])
    for size in (1e3, 1e18):
        for attack in (lambda k, s: normal(LAYOUT.size, k) * s, lambda k, s: torch.full((LAYOUT.size,), -s)):
            forged = [replace(m, x=attack(k, size)) if k < f else m for k, m in enumerate(ms)]
            got = float(together(a, forged).norm())
            hold(
                got <= 2 * reach, f"{f} messages of size {size:g} of {len(ms)} moved it to a norm of {got:g}"
            )


@law(Aggregator, when=lambda a: a.form == "all")
def too_few_messages_fail_the_round(a: Aggregator, within: Federation | None) -> None:
    """One fewer than it needs raises RoundFailed; as many as it needs do not."""
    from fedfm.core.errors import RoundFailed

    a.combine(messages(a, a.least), _state(a), ctx())
    try:
        a.combine(messages(a)[: a.least - 1], _state(a), ctx())
    except RoundFailed:
        return
    raise AssertionError(f"{a.least - 1} messages were combined, {a.least} are needed")


@law(Aggregator)
def what_nobody_touched_stays(a: Aggregator, within: Federation | None) -> None:
    """Padding stays 0, and so do differences of 0; weights on which all agree are kept to 1e-6."""
    ms, layout = messages(a), LAYOUT
    there, lora = padding(layout), [e.name for e in layout.entries if e.name != "head"]
    for m in ms:
        for name in lora:
            layout.views(m.x)[name].copy_(layout.views(ms[0].x)[name] * (a.takes == ("weights",)))
    got = together(a, ms)[: layout.size]
    hold(not bool(got[there].any()), "values appear in the padding between tensors")
    for name in lora:
        now, was = layout.views(got)[name], layout.views(ms[0].x)[name]
        hold(near(now, was, 1e-6) if a.takes == ("weights",) else not bool(now.any()), f"{name} became {now}")
