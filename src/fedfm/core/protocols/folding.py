"""Aggregators: from messages to one vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from fedfm.core.context import Ctx
from fedfm.core.message import Message
from fedfm.core.protocols.slot import Slot, State
from fedfm.vectors.layout import Layout


@dataclass(frozen=True)
class Aggregate:
    """What a round's messages became: `x` over the client's layout, and who contributed (not who was planned)."""

    x: Tensor
    count: int
    ids: tuple[str, ...]
    population: int  # parties there are in all, N
    versions: tuple[int, ...] = ()  # the round that each began from, in the order of `ids`


@dataclass(frozen=True)
class Lift:
    """One client's summand: the fold adds `alpha * x` to the sum and `mass` (number or vector) to the weight."""

    x: Tensor
    alpha: float
    mass: float | Tensor


class Aggregator(Slot):
    """Messages to one vector: `lift`/`finish` in sum form (O(1) memory), or `combine` over all of them."""

    rests = {
        **dict.fromkeys(("plain", "alpha_max", "alike", "shares", "averages"), ("lift", "share")),
        "divisor": ("lift", "finish"),
    }
    # folded one by one (`lift`, `finish`), or all at once (`combine`)
    form: ClassVar[Literal["sum", "all"]] = "sum"
    shares: ClassVar[bool] = False  # `share` exists: the lift can run on the client, under masks
    takes: ClassVar[tuple[str, ...]] = ("delta", "weights", "logits")  # kinds of messages that it understands
    plain: ClassVar[bool] = False  # the lift only scales: a clipped update stays as long as it was
    widens: ClassVar[bool] = False  # knows sub-models: lifts them to the whole model, with their coverage
    rescales: ClassVar[bool] = False  # what all agree on comes back in another length
    averages: ClassVar[bool] = (
        False  # messages of one mass come back as their plain mean, whoever sent them, and when
    )
    least: ClassVar[int] = 1  # fewest messages that it accepts
    needs_model: ClassVar[bool] = False  # it scores the server's one model

    @property
    def reads(self) -> bool:
        """Does it look at single messages?"""
        return self.form == "all"

    @property
    def alpha_max(self) -> float | None:
        """The largest `alpha` that any party can get; None: no public bound is known."""
        return None

    @property
    def alike(self) -> bool:
        """Does every party get the `alpha` 1, whatever it holds?"""
        return False

    @property
    def divisor(self) -> str:
        """What the sum is divided by: "public" (agreed beforehand), "count" of contributors, or "mass" (theirs)."""
        return "mass"

    def init(self, parties: Sequence[str], ctx: Ctx) -> State:
        return {}

    def lift(self, m: Message, ctx: Ctx) -> Lift:
        raise NotImplementedError

    def share(self, m: Message, ctx: Ctx) -> Lift:
        """The part of `lift` that may run on the client: no staleness, the weight public."""
        raise NotImplementedError

    def lifted(self, layout: Layout) -> int:
        """The length of a lifted vector, from the layout of the messages."""
        return layout.size

    def finish(
        self, x: Tensor, mass: float | Tensor, count: int, state: State, ctx: Ctx
    ) -> tuple[Tensor, State]:
        """From the sum to the result; `x` belongs to the fold, which is done with it: it may be changed in place."""
        raise NotImplementedError

    def combine(self, messages: Sequence[Message], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        """`messages` decoded, in plan order."""
        raise NotImplementedError
