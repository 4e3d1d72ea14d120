"""The federations of the engine tests give the bits that they gave before."""

from __future__ import annotations

import json

import pytest

import golden

KNOWN = json.loads(golden.PATH.read_text()).get(golden.machine(), {})


@pytest.mark.skipif(not KNOWN, reason="the digests are of another kind of machine")
@pytest.mark.parametrize("name", golden.ALL)
def test_bits_are_what_they_were(name: str) -> None:
    assert golden.digests(name) == KNOWN.get(name), "python tests/golden.py lists what moved"
