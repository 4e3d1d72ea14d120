"""Keys that two parties agree on, what they seal with them, and masks drawn from them.

X25519 and HKDF-SHA256 for keys, ChaCha20-Poly1305 for sealed bytes, AES-256 in counter mode for masks over
Z_2^64. Every derived key serves one purpose once, so nonces and counters start at zero.
"""

from __future__ import annotations

import functools
import hashlib
import json
from typing import Any

import torch
from torch import Tensor

KEY = 32  # bytes of a private key, a public key, a seed
TAG = 16  # bytes that sealing adds
CHUNK = 1 << 16  # elements of a mask at a time: 512 kB stay in cache


@functools.cache
def _library() -> Any:
    """The primitives of `cryptography`, imported when first needed."""
    from cryptography.hazmat.primitives import ciphers, hashes
    from cryptography.hazmat.primitives.asymmetric import x25519
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return ciphers, hashes, x25519, ChaCha20Poly1305, HKDF


def public(private: bytes) -> bytes:
    """The public key of a private one."""
    raw: bytes = _library()[2].X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    return raw


def topic(*facts: Any) -> bytes:
    """32 bytes that stand for these facts (numbers, strings, lists, bytes): the context of derived keys."""
    return hashlib.sha256(json.dumps(facts, default=bytes.hex).encode()).digest()


def derive(secret: bytes, about: bytes) -> bytes:
    """A 32-byte key for one purpose, `about`, from a secret."""
    _, hashes, _, _, hkdf = _library()
    key: bytes = hkdf(algorithm=hashes.SHA256(), length=KEY, salt=None, info=about).derive(secret)
    return key


def agree(private: bytes, other: bytes, about: bytes) -> bytes:
    """The key that the owners of `private` and of the public key `other` share for one purpose.

    Raises ValueError on a public key of low order.
    """
    x25519 = _library()[2]
    mine, theirs = (
        x25519.X25519PrivateKey.from_private_bytes(private),
        x25519.X25519PublicKey.from_public_bytes(other),
    )
    return derive(mine.exchange(theirs), about)


def seal(key: bytes, data: bytes, about: bytes) -> bytes:
    """`data` encrypted and bound to `about`; a key seals once."""
    sealed: bytes = _library()[3](key).encrypt(bytes(12), data, about)
    return sealed


def unseal(key: bytes, sealed: bytes, about: bytes) -> bytes:
    """The inverse of `seal`; raises ValueError when a bit or the context differs."""
    from cryptography.exceptions import InvalidTag

    try:
        data: bytes = _library()[3](key).decrypt(bytes(12), sealed, about)
        return data
    except InvalidTag:
        raise ValueError("the sealed bytes were altered, or meant for something else") from None


def add(x: Tensor, key: bytes, sign: int) -> None:
    """Add (`sign` > 0) or subtract the mask of `key` to `x` (int64, in place), modulo 2^64."""
    ciphers = _library()[0]
    stream = ciphers.Cipher(ciphers.algorithms.AES(key), ciphers.modes.CTR(bytes(16))).encryptor()
    n = min(CHUNK, x.numel())
    zeros, out = memoryview(_zeros())[: 8 * n], bytearray(8 * n + 15)  # the cipher wants a block to spare
    mask = torch.frombuffer(out, dtype=torch.int64, count=n) if n else x
    for at in range(0, x.numel(), CHUNK):
        part = x[at : at + CHUNK]
        stream.update_into(zeros[: 8 * part.numel()], out)
        part.add_(mask[: part.numel()], alpha=1 if sign > 0 else -1)


@functools.cache
def _zeros() -> bytes:
    return bytes(8 * CHUNK)
