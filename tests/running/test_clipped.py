"""A clip that takes nearly everything away is a finding, in the house alone, and the privacy card tells its share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import fedfm


def ran(folder: Path, uplink: Any) -> Any:
    g = torch.Generator().manual_seed(0)

    def points(n: int) -> tuple[Any, Any]:
        x = torch.randn(n, 4, generator=g)
        return x.numpy(), (x[:, 0] > 0).long().numpy()

    data = fedfm.Arrays({f"c{i}": points(16) for i in range(5)}, points(40), labels=("0", "1"))
    fed = fedfm.Federation(
        task=fedfm.Torch(lambda: torch.nn.Linear(4, 2)),
        data=data,
        client=fedfm.Local(lr=0.3, steps=3, batch=8),
        uplink=uplink,
        aggregate=fedfm.Mean(weights="equal", denominator=5.0),
    )
    return fedfm.run(fed, rounds=2, out=folder)


@pytest.mark.parametrize("kind", [fedfm.ClipNoise, fedfm.LocalGaussian])
def test_a_clip_far_below_every_update_is_said(kind: Any, tmp_path: Path) -> None:
    run = ran(tmp_path / "run", kind(noise_multiplier=1.5, clip_norm=0.001))
    assert run.status == "finished with findings"
    assert any("clipped away: 100%" in r and "uplink.clip_norm=0.001" in r for r in run.reasons)
    assert "100 % of uploads; median norm" in (tmp_path / "run" / "report.html").read_text()
    outside = tmp_path / "run" / "public"
    told = json.loads((outside / "summary.json").read_text())
    assert told["status"] == "finished" and "clipped" not in told
    assert "median norm" not in (outside / "report.html").read_text()


def test_a_clip_that_cuts_some_is_no_finding(tmp_path: Path) -> None:
    run = ran(tmp_path / "run", fedfm.ClipNoise(noise_multiplier=1.5, clip_norm=1.0))
    assert not any("clipped away" in r for r in run.reasons)
    assert run.summary["clipped"]["clip_norm"] == 1.0
