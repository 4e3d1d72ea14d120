"""A run that ends far worse than it began says so, and honest runs, noisy ones too, say nothing of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fedfm
from fedfm.core.federation import Federation
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.efficiency.training.servers import Apply
from fedfm.engines.inprocess import InProcess
from fedfm.running.verdict import judge
from fedfm.tasks.quadratic import Quadratic, Quadratics
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise


def judged(*scores: dict[str, Any], primary: str = "accuracy", **more: Any) -> tuple[str, ...]:
    records = [{"round": r, "metrics": s} for r, s in enumerate(scores)]
    return judge(records=records, events=[], rows={"a": 1}, malicious=(), primary=primary, **more).reasons


def score(accuracy: float, loss: float | None) -> dict[str, Any]:
    return {"accuracy": accuracy, "loss": loss}


@pytest.mark.parametrize(
    "slots",
    [
        {"client": Local(lr=30.0, steps=2, batch=0)},
        {"client": Local(lr=0.02, steps=2, batch=0), "server": Apply(lr=200.0)},
    ],
    ids=["client", "server"],
)
def test_a_run_that_diverges_has_a_finding(slots: dict[str, Any], tmp_path: Path) -> None:
    data = Quadratics(a=(1.0, 2.0), b=(0.0, 1.0))
    fed = Federation(Quadratic(dim=3), data, rounds=3, engine=InProcess(), **slots)
    result = fedfm.run(fed, out=tmp_path / "run")
    assert result.status == "finished with findings"
    assert "far worse than the one it began with: its loss is" in result.reasons[0]
    assert "client.lr" in result.reasons[0] and "base model's" in result.reasons[0]


def test_only_a_fall_without_doubt_is_one() -> None:
    assert "12438 times" in judged(score(0.1, 2.3), score(0.1, 28608.0), higher=True)[0].replace(
        "1.24e+04", "12438"
    )
    assert not judged(score(0.1, 2.3), score(0.1, 20.0), higher=True)  # noise, an attack
    assert not judged(score(0.1, 2.3), score(0.6, 28.0), higher=True)  # too sure, and right
    assert judged(score(0.6, 0.01), score(0.1, 28.0), higher=True)
    assert not judged(score(1.0, 1e-9), score(1.0, 1e-4), higher=True)  # perfect before and after
    assert judged(score(1.0, 0.0), score(0.1, 28.0), higher=True)


def test_of_the_primary_loss_and_of_the_round_that_is_kept() -> None:
    lines = {"loss": 2.0}, {"loss": 1.0}, {"loss": 900.0}
    assert judged(*lines, primary="loss", higher=False)
    assert not judged(*lines, primary="loss", higher=False, best=1)  # its model is that of round 1
    assert not judged(lines[0], primary="loss", higher=False)  # no round


def test_a_noisy_run_has_none(tmp_path: Path) -> None:
    data = Quadratics(a=(1.0, 2.0), b=(0.0, 1.0))
    noise = ClipNoise(clip_norm=1.0, noise_multiplier=1.0, budget=None)
    mean = Mean(weights="equal", denominator=2.0)
    client = Local(lr=0.02, steps=2, batch=0)
    fed = Federation(Quadratic(dim=3), data, client=client, aggregate=mean, uplink=noise, rounds=3)
    result = fedfm.run(fed, out=tmp_path / "run", engine="inprocess")
    assert not [r for r in result.reasons if "far worse" in r]
