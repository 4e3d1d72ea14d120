"""DataInf against explicit solves, and in a federation where one party's labels are lies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from federations import VALUED, digits
from fedfm import Arrays, Federation, InProcess, Processes, Torch, run
from fedfm.cards.registry import name_of
from fedfm.checks.rules import check
from fedfm.efficiency.training.local import Local
from fedfm.incentives.contribution.datainf import DataInf, influences
from fedfm.ledger.file import digest
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


class Moody(nn.Module):
    """A network that is another one in training."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers(x)
        return found


def test_values_are_those_of_every_engine(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = {
        f"p{k}": ((x := rng.normal(size=(20, 4)).astype("float32")), (x[:, 0] > 0).astype("int64"))
        for k in range(4)
    }
    parties, test = {i: rows[i] for i in ("p0", "p1", "p2")}, rows["p3"]
    fed = Federation(
        task=Torch(Moody),
        data=Arrays(parties, test=test, server_rows=10),
        client=Local(lr=0.1, steps=2, batch=8),
        value=DataInf(),
        rounds=2,
    )
    for engine in (InProcess(), Processes(workers=2)):
        run(replace(fed, engine=engine), out=tmp_path / name_of(engine))
    one, two = (digest(tmp_path / name / "events.jsonl") for name in ("inprocess", "processes"))
    assert one == two


def test_gradients_are_refused_under_noise() -> None:
    assert any(
        "datainf" in f"{p.what}{p.why}"
        for p in check(digits(data=VALUED, value=DataInf(), uplink=ClipNoise()))
    )
    assert LabelFlip
