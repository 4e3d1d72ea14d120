"""What carries letters: one small protocol, for the server's end of all links and for a party's end of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from fedfm.core.errors import FedfmError
from fedfm.deploy.letters import Letter

SERVER = "server"  # what a party's end calls the other one


def checked(address: str) -> str:
    """HOST:PORT as it is. Raises FedfmError for anything else."""
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise FedfmError(
            f"{address[:100]!r} is no address\n    fix: HOST:PORT, a port from 0 (a free one) to 65535"
        )
    return address


@dataclass(frozen=True)
class Frame:
    """What a transport has to tell: a link is there, a letter came on it, or it is lost (`letter.head["why"]`).

    `peer` is the name in the other end's certificate, never one that a letter says. `link` numbers the connections, so
    nothing of an earlier one is taken for news.
    """

    peer: str
    link: int
    kind: Literal["linked", "letter", "lost"]
    letter: Letter = field(default_factory=lambda: Letter({"do": ""}))


class Transport(Protocol):
    """Letters in order, each whole or not at all, between ends whose names are proven."""

    address: (
        str  # where the server listens, or is dialled; a port of 0 is a free one's number once it is open
    )

    @property
    def totals(self) -> Mapping[str, int]:
        """Bytes on the wire so far, without TLS and framing: "sent" and "received"."""

    def open(self) -> None:
        """Listen, or begin to dial. Raises MachineFault where that cannot be."""

    def send(self, peer: str, letter: Letter) -> None:
        """Hand over a letter; where the link is lost it is dropped, and `receive` says so. Any thread."""

    def receive(self, timeout_s: float | None = None) -> Frame | None:
        """The next frame of any link; None when there was none in that time. One thread."""

    def drop(self, peer: str, why: str) -> None:
        """End a link after what was handed over, and tell the other end why."""

    def close(self) -> None:
        """End all links."""
