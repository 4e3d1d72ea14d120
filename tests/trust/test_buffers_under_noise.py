"""Running statistics travel beside the update: noise does not cover them, so the two are refused together."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fedfm
from fedfm.core.combine import Pipe
from fedfm.core.errors import ConfigError
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.training.mean import Mean
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian
from fedfm.trust.privacy.secure.secagg import SecAgg

EQUAL = Mean(weights="equal", denominator=3.0)


def normed() -> Any:
    """Three parties, two features, a batch norm in front of a linear layer."""
    rng = torch.Generator().manual_seed(0)
    rows = {
        f"p{k}": (torch.randn(12, 2, generator=rng), torch.randint(0, 2, (12,), generator=rng))
        for k in range(3)
    }
    task = fedfm.Torch(  # type: ignore[attr-defined]
        lambda: torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2)),
        lambda net, batch: torch.nn.functional.cross_entropy(net(batch[0]), batch[1]),
    )
    arrays = {i: {"x": x.numpy(), "y": y.numpy()} for i, (x, y) in rows.items()}
    return fedfm.Federation(task, fedfm.Arrays(arrays, arrays["p0"]), rounds=1)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "uplink",
    [
        LocalGaussian(0.5, 50.0),
        ClipNoise(0.5, 1.0),
        Pipe(ClipNoise(0.5, 1.0), SecAgg()),
        Pipe(LocalGaussian(0.5, 4.0)),
    ],
    ids=["local", "central", "central under masks", "in a pipe"],
)
def test_noise_beside_running_statistics_is_refused(uplink: Any, drive: Any) -> None:
    with pytest.raises(ConfigError, match="running_mean"):
        drive(fedfm.replace(normed(), uplink=uplink, aggregate=EQUAL))


def test_the_fix_names_a_norm_with_which_it_runs(drive: Any) -> None:
    def net() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.GroupNorm(1, 2), torch.nn.Linear(2, 2))

    with pytest.raises(ConfigError) as e:
        drive(fedfm.replace(normed(), uplink=ClipNoise(0.5, 1.0), aggregate=EQUAL))
    (problem,) = e.value.problems
    assert "torch.nn.GroupNorm(1, CHANNELS)" in problem.fix and "fedfm show" not in problem.fix
    assert "GroupNorm" not in problem.why
    mended = fedfm.replace(normed().task, module=net)
    assert not drive(fedfm.replace(normed(), task=mended, uplink=ClipNoise(0.5, 1.0), aggregate=EQUAL)).failed


def test_without_noise_they_travel_and_are_averaged(drive: Any) -> None:
    played = drive(fedfm.replace(normed(), uplink=TopK(0.5)))
    assert not played.failed and played.run.bound.layout.mixed
