"""Shards and parties: digests, views, order and groups."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest

from fedfm.data.source import Parties, Shard, group_rows, natural
from said import said


def test_digest_is_of_the_content_in_order() -> None:
    a, b = {"text": "x", "label": "1"}, {"label": "1", "text": "x"}
    assert Shard("p", (a,)).digest == Shard("q", (b,)).digest  # neither key order nor party
    assert Shard("p", (a,)) != Shard("q", (b,)) and Shard("p", (a,)) == Shard("p", (b,))
    assert Shard("p", (a, {"text": "y"})).digest != Shard("p", ({"text": "y"}, a)).digest
    # Derived by hand: the canonical line is {"label":"1","text":"x"} and a line break.
    assert Shard("p", (a,)).digest == hashlib.sha256(b'{"label":"1","text":"x"}\n').hexdigest()


def test_digest_sees_pixels_and_shape() -> None:
    zero = np.zeros((1, 2, 2), np.uint8)
    digest = [
        Shard("p", ({"image": x},)).digest
        for x in (zero, zero + 1, zero.reshape(1, 4, 1), zero.astype(np.int8))
    ]
    assert len(set(digest)) == 4
    torch = pytest.importorskip("torch")
    assert Shard("p", ({"image": torch.from_numpy(zero)},)).digest == digest[0]


def test_shard_is_small_to_print_and_frozen() -> None:
    shard = Shard("p", ({"text": "secret", "label": "1"}, {"text": "b", "input": "c"}))
    assert "secret" not in repr(shard) and len(shard) == 2 and shard.columns == ("text", "label", "input")
    with pytest.raises(dataclasses.FrozenInstanceError):
        shard.party = "q"  # type: ignore[misc]


def test_parties_views() -> None:
    rows = [{"text": str(i), "label": "ab"[i % 2]} for i in range(6)]
    parties = Parties(
        (Shard("x", tuple(rows[:4])), Shard("y", tuple(rows[4:]))),
        (Shard("g", tuple(rows[:3])), Shard("h", tuple(rows[3:4]))),
    )
    assert parties.ids == ("x", "y") and parties.groups == ("g", "h")
    assert parties.pooled().rows == tuple(rows)
    assert parties.group("h").rows == (rows[3],)
    assert parties.test().rows == (rows[0], rows[3], rows[1], rows[2])  # in turns
    assert parties.distribution() == {"x": {"a": 2, "b": 2}, "y": {"a": 1, "b": 1}}
    assert "did you mean 'x'" in said(lambda: parties.train("xx"))
    assert "test group 'k'" in said(lambda: parties.group("k"))
    assert Parties((Shard("x", ({"text": "t"},)),)).distribution() == {"x": {"rows": 1}}
    assert len(Parties(parties.shards).test()) == 0


def test_natural_order_and_groups() -> None:
    assert sorted(["p10", "p2", "a", "2", "p"], key=natural) == ["2", "a", "p", "p2", "p10"]
    assert [s.party for s in group_rows([{"group": "b"}, {"group": "a"}])] == ["a", "b"]
    assert [s.party for s in group_rows([{"group": "b"}, {}])] == [""]
