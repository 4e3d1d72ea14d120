"""A promise that nothing could keep is refused where it is made."""

from __future__ import annotations

from typing import Any

import pytest

from fedfm.trust.privacy.mechanism.discrete_gaussian import DiscreteGaussian
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian


@pytest.mark.parametrize("mechanism", [ClipNoise, LocalGaussian, DiscreteGaussian])
@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"epsilon": 0.0}, "above 0"),
        ({"epsilon": -1.0}, "above 0"),
        ({"delta": 1.0}, "0 < delta < 1"),
        ({"delta": 0.0}, "0 < delta < 1"),
        ({"budget": 5.0, "no_guarantee": True}, "a budget needs a guarantee"),
    ],
)
def test_a_promise_that_nothing_keeps(mechanism: Any, knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        mechanism(**knobs)
