"""Messages: what survives the wire, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as safetensors_load

from effort import few
from fedfm.core.errors import MessageRefused
from fedfm.core.message import DTYPES, Message, nothing, pack, unpack
from fedfm.laws.compare import normal, same


def tensor(dtype: torch.dtype, n: int, seed: int = 0) -> torch.Tensor:
    raw = torch.randint(
        0,
        256,
        (n * torch.empty(0, dtype=dtype).element_size(),),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(seed),
    )
    return raw.view(dtype) if dtype != torch.bool else raw > 127


@pytest.mark.parametrize("dtype", list(DTYPES), ids=str)
@pytest.mark.parametrize("n", [0, 1, 3, 1000])
def test_every_type_survives_the_wire(dtype: torch.dtype, n: int) -> None:
    m = Message(
        tensor(dtype, n),
        "delta",
        2.5,
        "party-é",
        7,
        {"0/a": tensor(torch.uint8, 3), "s": torch.tensor(1.5), "e": torch.zeros(2, 0, 3)},
        {"loss": 0.1, "list": [1, None, "x"]},
    )
    data = pack(m)
    assert len(data) == m.nbytes and same(unpack(data), m)
    assert same(unpack(memoryview(bytearray(data))), m)
    theirs = safetensors_load(data)  # the library reads it
    assert set(theirs) == {"x", "side/0/a", "side/s", "side/e"} and same(theirs["x"], m.x)


@few
@given(
    st.floats(allow_nan=False),
    st.text(max_size=9),
    st.integers(0, 10**12),
    st.dictionaries(
        st.text(max_size=5),
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    ),
)
def test_what_is_not_a_tensor_survives_too(
    mass: float, sender: str, version: int, info: dict[str, Any]
) -> None:
    m = Message(torch.zeros(2), "info", mass, sender, version, {}, info)
    assert same(unpack(pack(m)), m) and len(pack(m)) == m.nbytes
    assert nothing(a=1).x.numel() == 0


WHOLE = pack(Message(normal(40), "delta", 3.0, "party-0", 2, {"0/index": torch.arange(6)}, {"loss": 1.0}))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_bytes_are_refused_or_harmless(data: st.DataObject) -> None:
    """Cut short: refused. Bits changed: refused, or a message whose tensors have the size that they claim."""
    if data.draw(st.booleans()):
        broken = WHOLE[: data.draw(st.integers(0, len(WHOLE) - 1))]
        with pytest.raises(MessageRefused):
            unpack(broken)
        return
    raw = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(WHOLE) - 1))] = data.draw(st.integers(0, 255))
    try:
        m = unpack(bytes(raw))
    except MessageRefused:
        return
    assert m.x.numel() * m.x.element_size() <= len(WHOLE)


def header(head: Any, body: bytes = b"") -> bytes:
    text = json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + body


META = {"message": json.dumps({"kind": "delta", "mass": 1.0, "sender": "a", "version": 0, "info": {}})}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 8,
        b"\xff" * 40,
        header({}),
        header([]),
        header({"__metadata__": META}),
        header(
            {"__metadata__": META, "x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 16]}}, b"\0" * 16
        ),
        header(
            {"__metadata__": META, "x": {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}}, b"\0" * 16
        ),
        header(
            {"__metadata__": META, "x": {"dtype": "F32", "shape": [4], "data_offsets": [-4, 12]}}, b"\0" * 16
        ),
        header(
            {"__metadata__": META, "x": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}}, b"\0" * 16
        ),
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(MessageRefused):
        unpack(data)


@pytest.mark.parametrize(
    "data",
    [
        header(5),
        header(
            {"__metadata__": {"message": "{}"}, "x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}
        ),
        header(
            {"__metadata__": {"message": "[]"}, "x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}
        ),
        header({"__metadata__": META, "x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 0]}}),
        header(
            {"__metadata__": META, "x": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}, b"\0" * 16
        ),
    ],
)
def test_what_looks_like_a_message_is_refused(data: bytes) -> None:
    with pytest.raises(MessageRefused):
        unpack(data)
