"""Wire stages: codecs and protection."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import ClassVar

from torch import Tensor

from fedfm.core.context import Ctx
from fedfm.core.message import Message
from fedfm.core.protocols.slot import NOTHING, Barrier, Replies, Say, Slot, State


class Wire(Slot):
    """A codec or a protection stage: client half, server half and, if it must, their conversation."""

    linear: ClassVar[bool] = False  # decode commutes with the sum
    unbiased: ClassVar[bool] = False  # the mean of decode(encode(x)) is x
    contracts: ClassVar[bool] = False  # ||x - decode(encode(x))|| <= sqrt(1 - a) ||x|| with some a > 0
    lossless: ClassVar[bool] = False  # decode(encode(x)) is x
    after_sum: ClassVar[bool] = False  # undone once, on the sum
    opaque: ClassVar[bool] = False  # no single message is readable; its payload is int64, its sum modulo 2^64
    perturbs: ClassVar[bool] = False  # adds noise for differential privacy
    remembers: ClassVar[bool] = False  # encoder or decoder keeps a state from round to round
    covers: ClassVar[frozenset[str]] = NOTHING  # channels that it protects: "x", "mass", "side"
    least: ClassVar[int] = 1  # fewest parties of a round
    phases: ClassVar[Mapping[str, Barrier]] = {}  # in order; "upload" among them makes the upload a barrier

    @property
    def stages(self) -> tuple[Wire, ...]:
        """What it is made of, protection among it: none for a plain stage."""
        return ()

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        return x, {}, state

    def decode(self, x: Tensor, side: Mapping[str, Tensor], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        """`state` is the server's memory for this sender."""
        return x, state

    def decode_sum(self, x: Tensor, host: State, ctx: Ctx) -> Tensor:
        """May raise RoundFailed. An opaque stage gets and returns the mass behind the payload."""
        return x

    def join(self, state: State, ctx: Ctx) -> Generator[Say, Message, State]:
        """The client's conversation before its work."""
        return state
        yield

    def leave(self, state: State, reply: Message, ctx: Ctx) -> Generator[Say, Message, None]:
        """The client's conversation after its upload was answered with `reply`."""
        return None
        yield

    def host(self, ctx: Ctx) -> State:
        """The server's state for one round."""
        return {}

    def serve(
        self, host: State, phase: str, messages: Mapping[str, Message], ctx: Ctx
    ) -> tuple[Replies, State]:
        raise NotImplementedError
