"""Malicious parties, and who looks at single messages for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from fedfm.core.context import Ctx
from fedfm.core.message import Message
from fedfm.core.protocols.slot import Slot, State
from fedfm.core.protocols.training import Bound, Client


class Adversary(Slot):
    """Malicious parties: poison a client from inside, or forge messages knowing all of them."""

    reads: ClassVar[bool] = False  # it forges
    takes: tuple[str, ...] = ("delta", "weights")  # kinds of messages that it can forge

    def init(self, parties: Sequence[str], ctx: Ctx) -> State:
        return {}

    def members(self, ids: Sequence[str], ctx: Ctx) -> frozenset[str]:
        """The malicious parties: the same for the whole run."""
        return frozenset()

    def idle(self, data: Any, ctx: Ctx, bound: Bound) -> str:
        """Why it would change nothing at a malicious party with these rows, encoded; empty: it would."""
        return ""

    def wrap(self, client: Client) -> Client:
        return client

    def forge(
        self, messages: dict[str, Message], members: frozenset[str], state: State, ctx: Ctx
    ) -> tuple[dict[str, Message], State]:
        return messages, state


class Detector(Slot):
    """Who is refused, and why, from the messages themselves."""

    reads: ClassVar[bool] = False  # it looks at single messages
    takes: tuple[str, ...] = ("delta", "weights")  # kinds of messages that it can judge

    def init(self, parties: Sequence[str], ctx: Ctx) -> State:
        return {}

    def flag(self, messages: Mapping[str, Message], state: State, ctx: Ctx) -> tuple[dict[str, str], State]:
        """Reasons by party; what is flagged is left out of the round."""
        return {}, state
