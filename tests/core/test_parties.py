"""Shards and parties: digests, views, order and groups."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedfm
from fedfm.data.source import Parties, Shard, group_rows
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.efficiency.training.personal.by_client import ByClient
from fedfm.pace import Link, SimulatedPace
from fedfm.text import natural
from fedfm.vectors.patterns import first, matches
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
    long = "9" * 5000  # no number that Python reads
    assert sorted([long, "b", "1"], key=natural) == ["1", long, "b"]
    assert [s.party for s in group_rows([{"group": "b"}, {"group": "a"}])] == ["a", "b"]
    assert [s.party for s in group_rows([{"group": "b"}, {}])] == [""]


class Net(torch.nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)


def test_a_party_that_is_called_like_a_pattern_is_meant_by_its_name(tmp_path: Path) -> None:
    """As a file that was downloaded twice is: rows[1].csv."""
    names = ("rows[1]", "rows1", "rows?")
    rules = {"rows[1]": Local(lr=0.1, steps=1, batch=4), "*": Local(lr=0.1, steps=2, batch=4)}

    def rows(k: int) -> tuple[Any, Any]:
        return np.arange(100 * k, 100 * k + 16, dtype=np.float32).reshape(8, 2), np.arange(8) % 2

    fed = fedfm.Federation(
        task=fedfm.Torch(Net),
        data=fedfm.Arrays({name: rows(k) for k, name in enumerate(names)}, test=rows(9)),
        client=ByClient(rules),
        aggregate=Mean(factors={"rows[1]": 0.5, "rows?": 0.25}),
        rounds=1,
    )
    assert (
        fedfm.run(fed, out=tmp_path / "run", baselines="none").status == "finished"
    )  # every name is somebody's
    assert [first(rules, i, "rules") for i in ("rows[1]", "rows?")] == ["rows[1]", "*"]
    links = SimulatedPace(links={"rows[1]": Link(latency_s=1.0)})
    assert links._link("rows[1]").latency_s == 1.0
    assert [Mean(factors={"rows[1]": 0.5})._factor(i) for i in ("rows[1]", "rows1", "rows2")] == [
        0.5,
        0.5,
        1.0,
    ]
    assert matches("rows*", "rows[1]") and not matches("rows[2]", "rows[1]")
