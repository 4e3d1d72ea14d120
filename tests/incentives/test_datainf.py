"""DataInf against explicit solves, and in a federation where one party's labels are lies."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from federations import VALUED, digits
from fedfm.checks.rules import check
from fedfm.efficiency.training.local import Local
from fedfm.incentives.contribution.datainf import DataInf, influences
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.robustness.attack.label_flip import LabelFlip
from fedfm.vectors.layout import Layout


def test_equals_the_mean_of_explicit_inverses() -> None:
    layout = Layout.of({"a": (3, 2), "b": (5,), "still": (4,)}, buffers=("still",))
    rng = torch.Generator().manual_seed(3)
    rows = {
        f"p{k}": layout.pack({e.name: torch.randn(e.shape, generator=rng) for e in layout.entries})
        for k in range(4)
    }
    v = layout.pack({e.name: torch.randn(e.shape, generator=rng) for e in layout.entries})
    wanted = dict.fromkeys(rows, 0.0)
    for name in ("a", "b"):
        g = {i: layout.views(x)[name].reshape(-1).double() for i, x in rows.items()}
        goal = layout.views(v)[name].reshape(-1).double()
        lam = 0.1 * torch.stack(list(g.values())).square().mean()
        eye = torch.eye(goal.numel(), dtype=torch.float64)
        inverse = torch.stack([torch.linalg.inv(torch.outer(x, x) + lam * eye) for x in g.values()]).mean(0)
        for i, x in g.items():
            wanted[i] += float(x @ inverse @ goal)
    assert influences(layout, rows, v, 0.1) == pytest.approx(wanted, rel=1e-9)


def test_a_liar_is_worth_least(drive: Any) -> None:
    slots = {"data": VALUED, "value": DataInf(), "rounds": 6, "client": Local(lr=0.3, steps=6, batch=16)}
    played = drive(digits(**slots))
    values = {e["client"] for e in played.events if e["kind"] == "value"}
    assert values == set(played.run.parties) and not played.failed
    asked = [e for e in played.events if e["kind"] == "bytes" and e["direction"] == "talk"]
    assert len(asked) == 36  # a gradient a party and round


def test_gradients_are_refused_under_noise() -> None:
    assert any(
        "datainf" in f"{p.what}{p.why}"
        for p in check(digits(data=VALUED, value=DataInf(), uplink=ClipNoise()))
    )
    assert LabelFlip
