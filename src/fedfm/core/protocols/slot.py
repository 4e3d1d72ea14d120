"""What all slots share: states, words of a conversation, and the facts that any method may declare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fedfm.core.errors import MethodFault
from fedfm.core.message import Message

if TYPE_CHECKING:
    from fedfm.core.context import Ctx
    from fedfm.core.protocols.training import Bound

State = dict[str, Any]
Scores = dict[str, tuple[float, float]]  # metric -> (sum over examples, their number or weight)
Barrier = Literal["each", "all"]
Replies = dict[str, Message]
NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Say:
    """What a client says in a conversation: `phase` names who answers and whether it waits for the others."""

    phase: str
    message: Message
    state_version: int = 0  # of the client's state, with an upload
    last: bool = False  # no answer is expected


@dataclass(frozen=True)
class Slot:
    """What all slots share: two identities of a slot are equal, and print as what makes them."""

    needs: ClassVar[frozenset[str]] = NOTHING  # what must exist: "server rows", "public rows"
    info: ClassVar[frozenset[str]] = NOTHING  # keys of `Message.info` that it fills

    @classmethod
    def identity(cls) -> bool:
        """Is this the base class of its slot, which changes nothing?"""
        return cls.__module__.startswith("fedfm.core.protocols")

    def answer(self, question: Message, data: Any, ctx: Ctx, bound: Bound) -> Message:
        """A party's answer to a question of this server-side slot."""
        raise MethodFault(type(self).__name__, "it asks parties and has no `answer`")

    def feasible(self, parties: int, bound: Bound) -> str:
        """Why it cannot act on this task and at most so many parties a round, once both are known; empty: it can."""
        return str(self.local.feasible(parties, bound)) if hasattr(self, "local") else ""
