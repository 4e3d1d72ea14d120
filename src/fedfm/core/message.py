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
MOST_HEADER = 1 << 20  # bytes: a roster of some 20,000 names
MOST_AXES = 16
_META = {"kind", "mass", "sender", "version", "info"}
_SPEC = {"dtype", "shape", "data_offsets"}


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
    """The JSON before the tensors; ValueError on what no message can carry (a NaN in `info`, an unknown dtype)."""
    # JSON has no number for an infinite mass; the receiver refuses it
    mass = m.mass if math.isfinite(m.mass) else str(m.mass)
    meta = {"kind": m.kind, "mass": mass, "sender": m.sender, "version": m.version, "info": dict(m.info)}
    text = json.dumps(meta, separators=(",", ":"), allow_nan=False)
    head: dict[str, Any] = {"__metadata__": {"message": text}}
    at = 0
    for name, t in _tensors(m).items():
        if t.dtype not in DTYPES:
            raise ValueError(f"a message carries {', '.join(NAMED)}; {name} is {t.dtype}")
        head[name] = {"dtype": DTYPES[t.dtype], "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    data = json.dumps(head, separators=(",", ":")).encode()
    data += b" " * (-len(data) % 8)  # safetensors wants the data aligned to 8 bytes
    if len(data) > MOST_HEADER:
        raise ValueError(f"a header of {len(data)} bytes; {MOST_HEADER} are read: put numbers into tensors")
    return struct.pack("<Q", len(data)) + data


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
    """The inverse of `pack`; raises MessageRefused on anything that is not one whole message and nothing more.

    The tensors lie behind each other in the order of the header, without gaps, overlaps or rest, so what is read
    takes at most twice the bytes that came. They lie in `data` itself when it can be written to: hand it over and
    forget it.
    """
    try:
        (n,) = struct.unpack("<Q", data[:8])
        if not n <= min(MOST_HEADER, len(data) - 8):
            raise ValueError(f"a header of {n} bytes in a message of {len(data)}")
        head = strict(str(data[8 : 8 + n], "utf-8"))
        text = head.pop("__metadata__")["message"]
        kind, mass, sender, version, info = _meta(strict(text))
        body = memoryview(data)[8 + n :]
        tensors, at = {}, 0
        if body.readonly:
            body = memoryview(bytearray(body))
        for name, spec in head.items():
            tensors[name], at = _tensor(name, spec, body, at)
        if at != len(body):
            raise ValueError(f"{len(body) - at} bytes belong to no tensor")
        x = tensors.pop("x")
        if stray := [name for name in tensors if not name.startswith("side/")]:
            raise ValueError(f"a tensor '{stray[0]}' beside x and its sides")
        return Message(
            x, kind, mass, sender, version, {k.removeprefix("side/"): v for k, v in tensors.items()}, info
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


def strict(text: str) -> Any:
    """JSON by the letter: no NaN or Infinity, no key twice, no half of a character. Raises ValueError."""
    found = json.loads(text, parse_constant=_constant, parse_float=_float, object_pairs_hook=_pairs)
    if "\\u" in text:  # an escaped surrogate without its other half is no text that anybody could write down
        json.dumps(found, ensure_ascii=False).encode()
    return found


def _constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _float(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"{digits} is beyond every number")
    return value


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _meta(meta: dict[str, Any]) -> tuple[str, float, str, int, dict[str, Any]]:
    kind, mass, sender, version, info = (meta[k] for k in ("kind", "mass", "sender", "version", "info"))
    named = isinstance(kind, str) and isinstance(sender, str) and isinstance(info, dict)
    if not named or type(version) is not int or isinstance(mass, bool) or set(meta) != _META:
        raise ValueError("kind and sender are strings, version is an integer, mass a number, info a mapping")
    return kind, float(mass), sender, version, info


def _tensor(name: str, spec: dict[str, Any], body: memoryview, at: int) -> tuple[Tensor, int]:
    """The tensor that begins at `at`, and where the next one begins."""
    dtype, (start, end), shape = NAMED[spec["dtype"]], spec["data_offsets"], spec["shape"]
    if any(type(k) is not int for k in (start, end, *shape)) or set(spec) != _SPEC:
        raise ValueError(f"tensor {name} has dtype, shape and two offsets, all integers")
    if len(shape) > MOST_AXES or min(shape, default=0) < 0:
        raise ValueError(f"tensor {name} has the shape {shape[: MOST_AXES + 1]}")
    if not at == start <= end <= len(body):
        raise ValueError(
            f"tensor {name} lies at {start} to {end}, it must begin at {at}, the data end at {len(body)}"
        )
    if math.prod(shape) * dtype.itemsize != end - start:  # before memory is taken for it
        raise ValueError(f"tensor {name} of {dtype} and shape {shape} has {end - start} bytes")
    if end == start:
        return torch.empty(shape, dtype=dtype), end
    t = torch.frombuffer(body, dtype=torch.uint8, offset=start, count=end - start)
    if dtype == torch.bool and int(t.max()) > 1:
        raise ValueError(f"tensor {name} of booleans has other values than 0 and 1")
    return (t if t.data_ptr() % 8 == 0 else t.clone()).view(dtype).reshape(shape), end
