"""An order-0 entropy coder for bytes: interleaved rANS (asymmetric numeral systems) over numpy vectors.

Frequencies are scaled to 2^16; each lane has a 32-bit state in [2^16, 2^32) and spills 16-bit words. All lanes step
together, so one numpy call codes one symbol of each. Integer arithmetic only: the same bytes on every platform.
Stream: 32-byte set of the symbols present, their frequencies less 1 (u16), number of lanes (u32), final states (u32),
words (u16). Source: Duda, Asymmetric numeral systems, 2013; Giesen, Interleaved entropy coders, 2014.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
SCALE = 16
LEAST = 1 << 16
LANE = 1000  # output bytes per lane: a lane costs about 3 bytes, hence 0.3 %
STEPS = 1 << 14  # no more sequential steps than this, however well the data compress
MOST_LANES = 4096


class Model:
    """Scaled frequencies of the symbols of `data`, and what coding with them would cost."""

    def __init__(self, data: Bytes):
        count = np.bincount(data, minlength=256)
        self.freq = np.where(count > 0, np.maximum(1, (count << SCALE) // max(1, data.size)), 0)
        self.freq[int(count.argmax())] += (1 << SCALE) - int(self.freq.sum())
        # log2 to 1/256 by exact integers: floats could differ in the last place from machine to machine.
        cost = sum(
            int(c) * (256 * SCALE + 1 - (int(f) ** 256).bit_length())
            for c, f in zip(count, self.freq, strict=True)
            if c
        )
        body = cost // (256 * 8) + 1
        self.lanes = max(fewest(data.size), min(MOST_LANES, body // LANE))
        self.size = body + 3 * self.lanes + 36 + 2 * int((count > 0).sum())


def fewest(n: int) -> int:
    """Lanes that `n` bytes have at least: so many that they are decoded in about STEPS steps."""
    return max(1, min(MOST_LANES, n // STEPS))


def encode(data: Bytes, model: Model) -> bytes:
    """The stream of `data` (shape (n,), n >= 1)."""
    freq = model.freq.astype(np.uint32)
    start = (model.freq.cumsum() - model.freq).astype(np.uint32)
    states, words = np.full(model.lanes, LEAST, np.uint32), []
    for at in reversed(range(0, data.size, model.lanes)):
        row = data[at : at + model.lanes]
        x, f = states[: row.size], freq[row]
        spill = (x >> 16) >= f
        words.append(x[spill].astype("<u2"))
        x >>= spill.astype(np.uint32) << np.uint32(4)
        q, r = np.divmod(x, f)
        x[:] = (q << 16) + r + start[row]
    there = model.freq > 0
    return b"".join(
        [
            np.packbits(there, bitorder="little").tobytes(),
            (model.freq[there] - 1).astype("<u2").tobytes(),
            np.array([model.lanes], "<u4").tobytes(),
            states.astype("<u4").tobytes(),
            *(w.tobytes() for w in reversed(words)),
        ]
    )


def decode(stream: bytes, n: int) -> Bytes:
    """The `n` bytes behind `stream`; raises ValueError when it is not a whole stream of that many."""
    there = np.unpackbits(np.frombuffer(stream, np.uint8, 32), bitorder="little").astype(bool)
    k = int(there.sum())
    table = np.zeros(256, np.int64)
    table[there] = np.frombuffer(stream, "<u2", k, 32).astype(np.int64) + 1
    if int(table.sum()) != 1 << SCALE:
        raise ValueError("the frequencies do not add up")
    lanes = int(np.frombuffer(stream, "<u4", 1, 32 + 2 * k)[0])
    if lanes < fewest(n):  # 417 bytes once were a minute and a half of work
        raise ValueError(f"{n} bytes have {fewest(n)} lanes at least, this stream has {lanes}")
    states = np.frombuffer(stream, "<u4", lanes, 36 + 2 * k).astype(np.uint32)
    words = np.frombuffer(stream, "<u2", offset=36 + 2 * k + 4 * lanes).astype(np.uint32)
    symbol = np.repeat(np.arange(256, dtype=np.uint8), table)
    freq, start = table.astype(np.uint32), (table.cumsum() - table).astype(np.uint32)
    out, used = np.empty(n, np.uint8), 0
    for at in range(0, n, lanes):
        x = states[: n - at]
        slot = x & np.uint32(0xFFFF)
        s = symbol[slot]
        out[at : at + s.size] = s
        x[:] = freq[s] * (x >> np.uint32(16)) + slot - start[s]
        low = np.flatnonzero(x < LEAST)
        x[low] = (x[low] << np.uint32(16)) | words[used : used + low.size]
        used += low.size
    if used != words.size or bool((states != LEAST).any()):
        raise ValueError("the stream does not end where its data end")
    return out
