"""Letters come back as they were written, or are refused; no bytes make the reader crash or take memory unasked."""

from __future__ import annotations

import random
import struct
import zlib

import pytest
import torch

from fedfm.core.errors import MessageRefused
from fedfm.core.message import Message, pack
from fedfm.deploy.letters import Letter, Reader, shards

SIZE = 256


def letter(n: int, side: bool = False) -> Letter:
    x = torch.randn(n, generator=torch.Generator().manual_seed(n))
    beside = {"0/scale": torch.ones(3)} if side else {}
    return Letter({"do": "said", "epoch": n, "why": "ä" * (n % 7)}, Message(x, side=beside, info={"n": n}))


@pytest.mark.parametrize("n", [0, 1, 50, 64, 1000])
def test_a_letter_comes_back_bit_for_bit(n: int) -> None:
    reader = Reader(1 << 20, SIZE)
    for sent in (letter(n), letter(n, True), Letter({"do": "beat"})):
        pieces = list(shards(sent, SIZE))
        assert all(len(p) <= SIZE + 8 for p in pieces)
        *before, last = [reader.feed(p) for p in pieces]
        assert before == [None] * len(before) and last is not None and last.head == sent.head
        assert (last.message is None) == (sent.message is None)
        if sent.message is not None and last.message is not None:
            assert pack(last.message) == pack(sent.message)


def test_what_is_longer_than_agreed_is_refused_before_memory_is_taken() -> None:
    head = b'{"do":"x"}'
    rest = struct.pack("<IQ", len(head), 1 << 50) + head
    with pytest.raises(MessageRefused, match="are agreed"):
        Reader(1 << 20, SIZE).feed(struct.pack("<II", 0, zlib.crc32(rest)) + rest)


def test_a_line_too_long_is_not_written() -> None:
    with pytest.raises(ValueError, match="are read"):
        list(shards(Letter({"do": "x" * (1 << 21)})))


def spoilt(seed: int) -> None:
    """A stream of letters with something wrong in it is refused there, or says what was written."""
    draw = random.Random(seed)
    sent = [letter(draw.randrange(200), draw.random() < 0.5) for _ in range(3)]
    stream = [p for one in sent for p in shards(one, SIZE)]
    at = draw.randrange(len(stream))
    piece = bytearray(stream[at])
    what = draw.choice(["flip", "cut", "drop", "double", "swap", "noise", "grow"])
    if what == "flip":
        piece[draw.randrange(len(piece))] ^= 1 << draw.randrange(8)
    elif what == "cut":
        piece = piece[: draw.randrange(len(piece))]
    elif what == "noise":
        piece = bytearray(draw.randbytes(draw.randrange(2 * SIZE)))
    elif what == "grow":
        piece += draw.randbytes(draw.randrange(1, SIZE))
    stream[at] = bytes(piece)
    if what == "drop":
        del stream[at]
    elif what == "double":
        stream.insert(at, stream[at])
    elif what == "swap":
        stream[at - 1], stream[at] = stream[at], stream[at - 1]
    reader, heard = Reader(1 << 16, SIZE), []
    try:
        heard += [found for p in stream if (found := reader.feed(p)) is not None]
    except MessageRefused:
        pass
    written = [pack(one.message) for one in sent if one.message is not None]
    told = [pack(one.message) for one in heard if one.message is not None]
    assert len(told) == len(heard) and all(t in written for t in told)


def test_spoilt_streams() -> None:
    for seed in range(2000):
        spoilt(seed)


@pytest.mark.slow
def test_many_spoilt_streams() -> None:
    for seed in range(2000, 100_000):
        spoilt(seed)


@pytest.mark.parametrize(
    "line",
    [b"", b"[]", b"{", b'{"do":1}', b'{"x":1}', b'{"do":"a","do":"b"}', b'{"do":NaN}', b"\xff", b"[" * 5000],
)
def test_a_line_that_says_nothing_is_refused(line: bytes) -> None:
    rest = struct.pack("<IQ", len(line), 0) + line
    with pytest.raises(MessageRefused):
        Reader(1 << 20, 1 << 14).feed(struct.pack("<II", 0, zlib.crc32(rest)) + rest)
