"""Wire stages: codecs and protection."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, ClassVar

from torch import Tensor

from fedfm.core.context import Ctx
from fedfm.core.message import Message
from fedfm.core.protocols.slot import NOTHING, Barrier, Replies, Say, Slot, State
from fedfm.vectors.layout import Layout


class Wire(Slot):
    """A codec or a protection stage: client half, server half and, if it must, their conversation."""

    rests = {
        "covers": ("encode", "decode_sum", "add", "join", "leave", "host", "serve"),
        "survivors": ("host", "serve"),
        **dict.fromkeys(("linear", "lossless"), ("encode", "decode")),
    }
    takes: str = "values"  # payload that it codes: "values" of coordinates, or "any"
    makes: str = "values"  # payload that it gives: "values", or "codes", behind which only a stage that takes any stands
    linear: ClassVar[bool] = False  # decode commutes with the sum
    unbiased: ClassVar[bool] = False  # the mean of decode(encode(x)) is x
    contracts: ClassVar[bool] = False  # ||x - decode(encode(x))|| <= sqrt(1 - a) ||x|| with some a > 0
    lossless: ClassVar[bool] = False  # decode(encode(x)) is x
    separate: ClassVar[bool] = False  # what becomes of a value does not hang on the others
    after_sum: ClassVar[bool] = False  # undone once, on the sum
    # no single message is readable; only its own `add` and `decode_sum` understand it
    opaque: ClassVar[bool] = False
    perturbs: ClassVar[bool] = False  # adds noise for differential privacy
    fresh: bool = False  # draws from the operating system: no two encodings are alike
    remembers: ClassVar[bool] = False  # encoder or decoder keeps a state from round to round
    follows: bool = False  # lossy, and yet each message gives its receiver about all of x: fit for a downlink
    covers: ClassVar[frozenset[str]] = NOTHING  # channels that it protects: "x", "mass", "side"
    # from whom: "server" (then from everybody), or "recipients" of models and files
    against: ClassVar[str] = ""
    relation: str = ""  # what its guarantee hides of a party: "zero-out", "replace-one", "add-or-remove"
    epsilon: float | None = None  # for which its noise is made, over the horizon
    budget: float | None = None  # epsilon at which a run stops
    shares: int = 0  # parties among whom its noise is divided, so that it protects in a hidden sum alone; 0: it is whole
    step: ClassVar[float] = 0.0  # values travel as whole multiples of this; 0: as they are
    least: ClassVar[int] = 1  # fewest parties of a round
    phases: ClassVar[Mapping[str, Barrier]] = {}  # in order; "upload" among them makes the upload a barrier

    @property
    def stages(self) -> tuple[Wire, ...]:
        """What it is made of, protection among it: none for a plain stage."""
        return ()

    @property
    def off(self) -> str:
        """Why this protection, asked for, gives nothing (its noise is 0); empty: it does."""
        return ""

    @property
    def accountant(self) -> Any:
        """Who knows what its releases cost (`core.spending.Accountant`); None: it promises nothing."""
        return None

    def release(self) -> Mapping[str, Any]:
        """The facts of the `privacy` event of one release, its event as data; empty: it releases nothing."""
        return {}

    def survivors(self, parties: int) -> int:
        """The fewest parties of so many whose sum is ever revealed."""
        return 1

    def fits(self, magnitude: float, parties: int) -> str:
        """Why values of this magnitude of so many parties cannot travel, and the setting with which they can."""
        return ""

    def admits(self, host: State, phase: str, sender: str) -> str:
        """Why this party may not speak in this phase now; empty: it may. Asked before its words count."""
        return ""

    def gives(self, layout: Layout) -> Layout | None:
        """The layout of its payload, of a vector of `layout`; None: its length depends on the values."""
        return layout if type(self) is Wire else None

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        return x, {}, state

    def decode(self, x: Tensor, side: Mapping[str, Tensor], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        """`state` is the server's memory for this sender."""
        return x, state

    def holds(self, x: Tensor, n: int) -> bool:
        """Can this be its payload of n values? Asked of an opaque stage before a message counts."""
        return x.shape == (n,)

    def add(self, total: Tensor | None, x: Tensor, ctx: Ctx) -> Tensor:
        """The sum with one more payload (`total` may be reused); an opaque stage says what summing is for it."""
        return x.clone() if total is None else total.add_(x)

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
