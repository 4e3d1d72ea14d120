"""A frame: a JSON line and a safetensors message, each behind its length. Nothing in it is pickled."""

from __future__ import annotations

import json
import struct
from typing import Any

from fedfm.core.job import Said
from fedfm.core.message import Message, nothing, parts, unpack

LENGTHS = struct.Struct("<QQ")  # of a frame's line and message


def pieces(head: dict[str, Any], message: Message | None) -> list[bytes | memoryview]:
    """The bytes of a frame, the tensors uncopied."""
    line = json.dumps(head, separators=(",", ":")).encode()
    body = parts(message) if message is not None else []
    return [LENGTHS.pack(len(line), sum(map(len, body))), line, *body]


def parted(frame: memoryview) -> tuple[dict[str, Any], Message | None, memoryview]:
    """The inverse of `pieces`, and what lies behind the frame."""
    line, body = LENGTHS.unpack(frame[: LENGTHS.size])
    at = LENGTHS.size + line
    end = at + body
    head = json.loads(bytes(frame[LENGTHS.size : at]))
    return head, unpack(frame[at:end]) if body else None, frame[end:]


def told(said: Said) -> dict[str, Any]:
    """The line of a word."""
    return {k: v for k, v in vars(said).items() if k != "message"}


def word(head: dict[str, Any], message: Message | None) -> Said:
    """The word of a line and its message."""
    return Said(**head | {"events": tuple(head["events"]), "message": message or nothing()})


def same(a: Message, b: Message) -> bool:
    """One brief? A question, or a model to score, may hold the very vector of a round's brief and say something else."""
    facts = [(m.kind, m.mass, m.sender, m.version, dict(m.info), m.side.keys()) for m in (a, b)]
    return a.x is b.x and facts[0] == facts[1] and all(t is b.side[k] for k, t in a.side.items())
