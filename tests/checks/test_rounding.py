"""Masks that round an update before the sum is noised let a party move it by more than its clip."""

from __future__ import annotations

import pytest

from fedfm import check
from fedfm.core.combine import Pipe
from fedfm.efficiency.training.mean import Mean
from fedfm.laws.homes import quadratics
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian
from fedfm.trust.privacy.secure.secagg import SecAgg

PUBLIC = Mean("equal", denominator=5.0)


@pytest.mark.parametrize("clip_norm, bits", [(1.0, 24), (1.0, 0), (1e-3, 32), (0.5, 25)])
def test_masks_that_round_coarsely_behind_central_noise_are_refused(clip_norm: float, bits: int) -> None:
    fed = quadratics(uplink=Pipe(ClipNoise(clip_norm=clip_norm), SecAgg(bits=bits)), aggregate=PUBLIC)
    (found,) = check(fed)
    assert found.where == "uplink.1.bits" and "rounding adds" in found.why
    finer = int(found.fix.split("=")[1].split()[0])
    mended = Pipe(ClipNoise(clip_norm=clip_norm), SecAgg(bits=finer))
    assert check(quadratics(uplink=mended, aggregate=PUBLIC)) == []


@pytest.mark.parametrize(
    "uplink",
    [
        Pipe(ClipNoise(), SecAgg()),
        Pipe(ClipNoise(noise_multiplier=1.0, no_guarantee=True), SecAgg(bits=8)),
        Pipe(LocalGaussian(), SecAgg(bits=8)),
    ],
    ids=["fine", "no guarantee", "noise comes first"],
)
def test_rounding_elsewhere_is_nobodys_guarantee(uplink: Pipe) -> None:
    assert [p for p in check(quadratics(uplink=uplink, aggregate=PUBLIC)) if "bits" in p.where] == []
