"""Integers of b bits each, packed without gaps: n codes take ceil(n b / 8) bytes, to the byte.

Whole bytes of the codes lie as planes behind each other (all low bytes, then all second bytes); the 1-7 bits left
over are packed eight codes at a time. Planes need no shifts across bytes and compress better than interleaved codes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedfm.core.errors import MessageRefused

CHUNK = 1 << 14  # groups of eight: the 64-bit temporaries stay in cache


def length(n: int, bits: int) -> int:
    """Bytes that `n` codes of `bits` bits take."""
    return -(-n * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """uint8 bytes of non-negative integer codes below 2^bits (shape (n,), bits 0..32)."""
    v, out, shift, at = codes.numpy(), np.empty(length(codes.numel(), bits), np.uint8), 0, 0
    while bits - shift >= 8:
        out[at : at + v.size] = (v >> shift).astype(np.uint8)
        at, shift = at + v.size, shift + 8
    if left := bits - shift:
        for a in range(0, v.size, 8 * CHUNK):
            piece = v[a : a + 8 * CHUNK] >> shift
            eight = np.zeros((-(-piece.size // 8), 8), "<u8")
            eight.reshape(-1)[: piece.size] = piece
            word = eight[:, 0].copy()
            for j in range(1, 8):
                word |= eight[:, j] << np.uint64(j * left)
            packed = word.view(np.uint8).reshape(-1, 8)[:, :left].reshape(-1)[: length(piece.size, left)]
            out[at : at + packed.size] = packed
            at += packed.size
    return torch.from_numpy(out)


def unpack(packed: Tensor, n: int, bits: int) -> Tensor:
    """The `n` codes as int32 (int64 above 31 bits); raises MessageRefused when the bytes are not as many as agreed."""
    if packed.dtype != torch.uint8 or packed.numel() != length(n, bits):
        raise MessageRefused(
            f"{packed.numel()} values of {packed.dtype} came where {n} codes of {bits} bits take "
            f"{length(n, bits)} bytes"
        )
    raw, shift, at = packed.reshape(-1).numpy(), 0, 0
    out: npt.NDArray[Any] = np.zeros(n, np.int32 if bits < 32 else np.int64)
    while bits - shift >= 8:
        out |= raw[at : at + n].astype(out.dtype) << shift
        at, shift = at + n, shift + 8
    if left := bits - shift:
        for a in range(0, n, 8 * CHUNK):
            m = min(8 * CHUNK, n - a)
            groups, size = -(-m // 8), length(m, left)
            some = np.zeros(groups * left, np.uint8)
            some[:size] = raw[at : at + size]
            at += size
            word = np.zeros((groups, 8), np.uint8)
            word[:, :left] = some.reshape(groups, left)
            moves = np.arange(8, dtype=np.uint64) * np.uint64(left)
            eight = (word.view("<u8") >> moves) & np.uint64((1 << left) - 1)
            out[a : a + m] |= eight.reshape(-1)[:m].astype(out.dtype) << shift
    return torch.from_numpy(out)
