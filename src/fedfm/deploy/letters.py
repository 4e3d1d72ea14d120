"""Letters: a JSON line and a message, cut into shards that a stream carries in order, each with a checksum.

A shard is its number in the letter, from 0, and the CRC-32 of the rest. The first one goes on with the two lengths, the
line, and the beginning of the message. Nothing is unpickled; what a letter may hold is agreed beforehand.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from fedfm.core.errors import MessageRefused
from fedfm.core.message import Message, parts, strict, unpack

SHARD = 4 << 20  # bytes of a letter in one shard
MOST_LINE = 1 << 20
_MARK = struct.Struct("<II")
_LENGTHS = struct.Struct("<IQ")


@dataclass(frozen=True)
class Letter:
    """What one side tells the other: `head["do"]` says what it is."""

    head: dict[str, Any]
    message: Message | None = None


def shards(letter: Letter, size: int = SHARD) -> Iterator[bytes]:
    """The letter in pieces of at most `size` bytes and a mark; no more than one of them is in memory."""
    line = json.dumps(letter.head, separators=(",", ":"), allow_nan=False).encode()
    if len(line) > MOST_LINE:
        raise ValueError(f"a line of {len(line)} bytes; {MOST_LINE} are read")
    body = [memoryview(p) for p in parts(letter.message)] if letter.message is not None else []
    waiting = [memoryview(_LENGTHS.pack(len(line), sum(map(len, body)))), memoryview(line), *body]
    number = 0
    while waiting:
        piece, room = bytearray(_MARK.size), size
        while waiting and room:
            part = waiting.pop(0)
            piece += part[:room]
            if len(part) > room:
                waiting.insert(0, part[room:])
            room -= min(room, len(part))
        _MARK.pack_into(piece, 0, number, zlib.crc32(memoryview(piece)[_MARK.size :]))
        yield bytes(piece)
        number += 1


class Reader:
    """Puts letters together again. `most` is how many bytes a message may have: more is refused before memory is taken."""

    def __init__(self, most: int, size: int = SHARD):
        self.most, self.size = most, size
        self._line, self._body, self._at = b"", memoryview(b""), 0
        self._next = 0  # the number of the shard that is awaited

    def feed(self, shard: bytes) -> Letter | None:
        """The letter that ends with this shard. Raises MessageRefused; the link cannot go on after that."""
        if not _MARK.size < len(shard) <= _MARK.size + self.size:
            raise MessageRefused(f"a shard of {len(shard)} bytes")
        number, sum_ = _MARK.unpack_from(shard)
        rest = memoryview(shard)[_MARK.size :]
        if zlib.crc32(rest) != sum_:
            raise MessageRefused("a shard whose checksum is wrong")
        if number != self._next:
            raise MessageRefused(f"shard {number} of a letter, after {self._next} of them")
        if number == 0:
            rest = self._begin(rest)
        if self._at + len(rest) > len(self._body):
            raise MessageRefused("a letter longer than it says")
        self._body[self._at : self._at + len(rest)] = rest
        self._at, self._next = self._at + len(rest), number + 1
        return self._whole() if self._at == len(self._body) else None

    def _begin(self, rest: memoryview) -> memoryview:
        if len(rest) < _LENGTHS.size:
            raise MessageRefused("a letter without its lengths")
        line, body = _LENGTHS.unpack_from(rest)
        rest = rest[_LENGTHS.size :]
        if line > min(MOST_LINE, len(rest)):
            raise MessageRefused(f"a line of {line} bytes in a shard of {len(rest)}")
        if body > self.most:
            raise MessageRefused(f"a message of {body:,} bytes; {self.most:,} are agreed")
        self._line, self._at = bytes(rest[:line]), 0
        self._body = torch.empty(body, dtype=torch.uint8).numpy().data if body else memoryview(bytearray())
        return rest[line:]

    def _whole(self) -> Letter:
        body, self._body, self._next = self._body, memoryview(b""), 0
        try:
            head = strict(self._line.decode())
        except (ValueError, RecursionError) as e:
            raise MessageRefused(f"a line that is no JSON: {e}") from e
        if not isinstance(head, dict) or not isinstance(head.get("do"), str):
            raise MessageRefused("a line that does not say what it is")
        return Letter(head, unpack(body) if len(body) else None)
