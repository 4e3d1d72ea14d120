"""What a new method of each slot starts as: the imports, fields and functions of a law-abiding identity."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Body:
    """One slot's start: section of the survey, base class, imports, the sentence that stands for the equation, code."""

    section: str
    base: str
    imports: str
    now: str
    code: str


METHODS = {
    "client": Body(
        "IV.A",
        "Client",
        """\
from typing import Any

from fedfm.core.context import Ctx
from fedfm.core.message import Message
from fedfm.core.protocols import Bound, Client, State
from fedfm.cards.registry import knob, method
from fedfm.efficiency.training.local import Local
""",
        "Local steps as `local` takes them.",
        """\
    local: Local = knob(factory=Local, doc="the local steps")

    @property
    def makes(self) -> str:
        return self.local.makes

    @property
    def per_step(self) -> int:
        return self.local.per_step

    def alone(self) -> Client:
        return self.local

    def steps_for(self, rows: int) -> int:
        return self.local.steps_for(rows)

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> tuple[Message, State]:
        # `descend` in fedfm.efficiency.training.local takes a hook that changes each gradient (see fedprox.py);
        # for a model of its own add `own`, for a server of its own `server_half`, for a part of the model `gives`
        return self.local.work(brief, data, state, ctx, bound)  # `state` is this party's, kept from round to round
""",
    ),
    "server": Body(
        "IV.A",
        "Server",
        """\
from fedfm.core.context import Ctx
from fedfm.core.protocols import Aggregate, Server, State
from fedfm.cards.registry import knob, method
from fedfm.efficiency.training.servers import apart, together
""",
        "theta += lr * mean(delta).",
        """\
    lr: float = knob(1.0, "server rate", low=0.0)

    def step(self, state: State, agg: Aggregate, ctx: Ctx) -> State:
        # buffers (running statistics) are no weights: they become their mean, and no rate acts on them
        (w, still), (delta, news) = apart(state["w"], ctx.layout), apart(agg.x, ctx.layout)
        return state | {"w": together(w + self.lr * delta, still + news, ctx.layout)}
""",
    ),
    "schedule": Body(
        "IV.A",
        "Schedule",
        """\
from fedfm.cards.registry import knob, method
from fedfm.efficiency.training.schedule import Schedule
""",
        "factor = 1 - p, with p the share of the run that has passed.",
        """\
    warmup: int = knob(0, "rounds in which the rate climbs to its full value", low=0)

    def shape(self, p: float) -> float:
        return 1.0 - p
""",
    ),
    "aggregate": Body(
        "IV.A",
        "Aggregator",
        """\
from torch import Tensor

from fedfm.core.context import Ctx
from fedfm.core.errors import RoundFailed
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregator, Lift, State
from fedfm.cards.registry import method
""",
        "sum_i m_i x_i / sum_i m_i, with m_i = local examples.",
        """\
    form = "sum"  # "all": see the end
    shares = True  # the lift can run on the client, under secure aggregation
    plain = True  # the lift only scales, so a clipped message stays bounded

    def lift(self, m: Message, ctx: Ctx) -> Lift:
        return Lift(m.x, m.mass, m.mass)

    def share(self, m: Message, ctx: Ctx) -> Lift:
        return self.lift(m, ctx)

    def finish(
        self, x: Tensor, mass: float | Tensor, count: int, state: State, ctx: Ctx
    ) -> tuple[Tensor, State]:
        if not isinstance(mass, Tensor) and mass <= 0:
            raise RoundFailed("the weights of all contributions sum to zero")
        return x / mass, state

    # The other form sees every message at once; in place of all of the above (import torch and Sequence):
    #
    # form = "all"
    # least = 3  # messages
    #
    # def combine(self, messages: Sequence[Message], state: State, ctx: Ctx) -> tuple[Tensor, State]:
    #     if len(messages) < self.least:
    #         raise RoundFailed(f"{len(messages)} messages came, {self.least} are needed")
    #     return torch.stack([m.x.float() for m in messages]).median(0).values, state
""",
    ),
    "wire": Body(
        "IV.C",
        "Wire",
        """\
from collections.abc import Mapping

from torch import Tensor

from fedfm.core.context import Ctx
from fedfm.core.protocols import State, Wire
from fedfm.vectors.layout import Layout
from fedfm.cards.registry import method
from fedfm.efficiency.communication.codec.finite import finite
""",
        "C(x) = x.",
        """\
    linear = True  # decode commutes with the sum; declare only what holds, the laws try it
    unbiased = True
    lossless = True

    def gives(self, layout: Layout) -> Layout | None:
        # of the payload (x has layout.size values): Layout.flat(n), n without names; None: its length depends on x
        return layout

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        # draw from ctx.rng("purpose"), as in torch.rand(x.shape, generator=ctx.rng("purpose")); a code must repeat
        return finite(x, "NAME"), {}, state  # the payload, what travels beside it, the sender's memory

    def decode(self, x: Tensor, side: Mapping[str, Tensor], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        return x, state  # `state` is the receiver's memory of this sender
""",
    ),
    "select": Body(
        "VI.C",
        "Selector",
        """\
from collections.abc import Mapping

from fedfm.core.context import Ctx, Terms
from fedfm.core.message import Message
from fedfm.core.protocols import Plan, Selector, State
from fedfm.cards.registry import method
""",
        "Every free party, in pool order.",
        """\
    def select(self, pool: Mapping[str, int], state: State, ctx: Ctx, answers: Mapping[str, Message]
               ) -> tuple[Plan, State]:
        # `pool` maps free parties to their number of examples; draw from ctx.shared("a purpose")
        return Plan(tuple((i, Terms()) for i in pool), sampling={"kind": "all"}), state

    # To ask parties first: `asks = True`, with the model in the question `needs_model = True`, and these (import
    # Sequence, Any, Bound, nothing from fedfm.core.message, numbers from fedfm.incentives.answers); then
    # `numbers(answers, "loss")` in `select` is a float a party:
    #
    # def candidates(self, pool: Mapping[str, int], state: State, ctx: Ctx) -> Sequence[str]:
    #     return tuple(pool)
    #
    # def question(self, brief: Message, pool: Mapping[str, int], state: State, ctx: Ctx) -> Message:
    #     return brief
    #
    # def answer(self, question: Message, data: Any, ctx: Ctx, bound: Bound) -> Message:
    #     bound.load(question.x)
    #     total, count = bound.risk(data)
    #     return nothing(loss=total / max(1, count))
""",
    ),
    "pace": Body(
        "VII",
        "Pace",
        """\
import math

from fedfm.core.protocols import Pace
from fedfm.cards.registry import knob, method
""",
        "A round counts when ceil(fraction * planned) parties contributed.",
        """\
    fraction: float = knob(0.0, "share of the planned parties that must contribute", low=0.0, high=1.0)

    def quorum(self, planned: int) -> int:
        return max(1, math.ceil(self.fraction * planned - 1e-9))
""",
    ),
    "adversary": Body(
        "V.A",
        "Adversary",
        """\
import dataclasses
from collections.abc import Sequence

from fedfm.core.context import Ctx
from fedfm.core.message import Message
from fedfm.core.protocols import Adversary, State
from fedfm.cards.registry import knob, method
from fedfm.trust.robustness.attack.membership import drawn
""",
        "A malicious party sends scale times its own update.",
        """\
    fraction: float = knob(0.25, "share of the parties that are malicious", low=0.0, high=1.0)
    scale: float = knob(1.0, "factor on a malicious update; 1: honest")

    reads = True  # it acts at the barrier, knowing all messages; override `wrap` to poison a client from inside

    def members(self, ids: Sequence[str], ctx: Ctx) -> frozenset[str]:
        return drawn(ids, self.fraction, 0, ctx)

    def forge(
        self, messages: dict[str, Message], members: frozenset[str], state: State, ctx: Ctx
    ) -> tuple[dict[str, Message], State]:
        scaled = {i: dataclasses.replace(m, x=m.x * self.scale) for i, m in messages.items() if i in members}
        return messages | scaled, state
""",
    ),
    "detect": Body(
        "V.A",
        "Detector",
        """\
from collections.abc import Mapping

from fedfm.core.context import Ctx
from fedfm.core.message import Message
from fedfm.core.protocols import Detector, State
from fedfm.cards.registry import knob, method
""",
        "Refuse a message whose norm is above `limit`.",
        """\
    limit: float = knob(0.0, "largest Euclidean norm; 0: no limit", low=0.0)

    reads = True

    def flag(self, messages: Mapping[str, Message], state: State, ctx: Ctx) -> tuple[dict[str, str], State]:
        norms = {i: float(m.x.float().norm()) for i, m in messages.items()}
        flagged = {i: f"its norm is {n:.3g}, {self.limit:g} is allowed" for i, n in norms.items() if 0 < self.limit < n}
        return flagged, state
""",
    ),
    "value": Body(
        "VI.D",
        "Valuer",
        """\
from collections.abc import Sequence

from fedfm.core.context import Ctx
from fedfm.core.protocols import State, Valuer
from fedfm.cards.registry import method
""",
        "phi_i = v(N) - v(N without i).",
        """\
    needs = frozenset({"server rows"})  # data.server_rows=N: what the game is scored on
    reads = True  # the game needs each party's message

    def evaluations(self, n: int) -> int:
        return n + 1

    def value(self, ids: Sequence[str], state: State, ctx: Ctx) -> tuple[dict[str, float], State]:
        # the game scores the model that a coalition alone would have made; it is cached
        game, everybody = ctx.house.game, frozenset(ids)
        return {i: game(everybody) - game(everybody - {i}) for i in ids}, state
""",
    ),
    "reward": Body(
        "VI.E",
        "Reward",
        """\
from collections.abc import Mapping, Sequence

from fedfm.core.context import Ctx
from fedfm.core.protocols import Plan, Reward, State
from fedfm.cards.registry import method
""",
        "Pay what the plan promised to those who delivered.",
        """\
    def pay(self, plan: Plan, delivered: Sequence[str], values: Mapping[str, float], state: State, ctx: Ctx
            ) -> tuple[dict[str, float], State]:
        # who delivers late is still owed: `state` holds what is open
        return super().pay(plan, delivered, values, state, ctx)
""",
    ),
}
