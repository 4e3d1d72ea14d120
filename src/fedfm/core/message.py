"""Whatever crosses parties is a `Message`; its length is measured on the bytes that would be sent.

The bytes are a safetensors file: JSON header, then the raw tensors. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fedfm.core.errors import MessageRefused

DTYPES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
NAMED = {v: k for k, v in DTYPES.items()}


@dataclass(frozen=True)
class Message:
    """One payload `x` (1-D, any dtype) and what its wire stages put beside it.

    `side` holds one dict a stage, flattened: a pipe prefixes the keys of its i-th stage with `i/`, so that a stage
    sees only its own. `mass` is the weight (never inside `x`), `version` the server version that the work began from.
    """

    x: Tensor
    kind: str = "delta"  # weights, delta, mask, logits, activations, gradients, scalars, ...
    mass: float = 1.0
    sender: str = ""
    version: int = 0
    side: Mapping[str, Tensor] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    def coded(self, codec: Any, ctx: Any) -> Message:
        """As a conversation's `codec` sends it; it keeps no state."""
        x, side, _ = codec.encode(self.x, {}, ctx)
        return replace(self, x=x, side={**self.side, **side})

    def decoded(self, codec: Any, ctx: Any) -> Message:
        return replace(self, x=codec.decode(self.x, self.side, {}, ctx)[0])

    @property
    def nbytes(self) -> int:
        """Exactly len(pack(self)), without copying the tensors."""
        return len(_header(self)) + sum(t.nbytes for t in _tensors(self).values())


def nothing(**info: Any) -> Message:
    """A message without a payload."""
    return Message(torch.empty(0), kind="info", info=info)


def finite(t: Tensor) -> bool:
    """Whether every value is finite: a NaN or Inf makes the sum one, and only a sum that overflowed needs a second look."""
    return not t.is_floating_point() or bool(torch.isfinite(t.sum())) or bool(torch.isfinite(t).all())


def _tensors(m: Message) -> dict[str, Tensor]:
    return {"x": m.x, **{f"side/{k}": v for k, v in m.side.items()}}


def _header(m: Message) -> bytes:
    meta = {"kind": m.kind, "mass": m.mass, "sender": m.sender, "version": m.version, "info": dict(m.info)}
    head: dict[str, Any] = {"__metadata__": {"message": json.dumps(meta, separators=(",", ":"))}}
    at = 0
    for name, t in _tensors(m).items():
        head[name] = {"dtype": DTYPES[t.dtype], "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # safetensors wants the data aligned to 8 bytes
    return struct.pack("<Q", len(text)) + text


def raw(t: Tensor) -> memoryview:
    """The bytes of a tensor (copied to the CPU if it is elsewhere)."""
    t = t.detach().to("cpu").contiguous()
    return memoryview(t.reshape(-1).view(torch.uint8).numpy().data) if t.numel() else memoryview(b"")


def parts(m: Message) -> list[bytes | memoryview]:
    """The bytes of `pack` in pieces, the tensors uncopied."""
    return [_header(m), *(raw(t) for t in _tensors(m).values())]


def pack(m: Message) -> bytes:
    """The message as safetensors bytes."""
    return b"".join(parts(m))


def unpack(data: bytes | bytearray | memoryview) -> Message:
    """The inverse of `pack`; raises MessageRefused on anything that is not a whole message.

    The tensors lie in `data` itself when it can be written to: hand it over and forget it.
    """
    try:
        (n,) = struct.unpack("<Q", data[:8])
        head = json.loads(bytes(data[8 : 8 + n]))
        meta = json.loads(head.pop("__metadata__")["message"])
        body, tensors = memoryview(data)[8 + n :], {}
        if body.readonly:
            body = memoryview(bytearray(body))
        for name, spec in head.items():
            dtype, (start, end), shape = (
                NAMED[spec["dtype"]],
                spec["data_offsets"],
                [int(n) for n in spec["shape"]],
            )
            if not 0 <= start <= end <= len(body) or min(shape, default=0) < 0:
                raise ValueError(f"tensor {name} lies at {start} to {end}, the data end at {len(body)}")
            if math.prod(shape) * dtype.itemsize != end - start:  # before memory is taken for it
                raise ValueError(f"tensor {name} of {dtype} and shape {shape} has {end - start} bytes")
            t = (
                torch.frombuffer(body, dtype=torch.uint8, offset=start, count=end - start)
                if end > start
                else None
            )
            tensors[name] = (
                torch.empty(shape, dtype=dtype)
                if t is None
                else (t if t.data_ptr() % 8 == 0 else t.clone()).view(dtype).reshape(shape)
            )
        return Message(
            tensors.pop("x"),
            str(meta["kind"]),
            float(meta["mass"]),
            str(meta["sender"]),
            int(meta["version"]),
            {k.removeprefix("side/"): v for k, v in tensors.items()},
            dict(meta["info"]),
        )
    except (
        KeyError,
        ValueError,
        struct.error,
        TypeError,
        RuntimeError,
        AttributeError,
        RecursionError,
        OverflowError,
    ) as e:
        raise MessageRefused(f"these bytes are no whole message: {e}") from e
