"""Every recipe at its defaults is worth running: it beats what its parties reach alone."""

from __future__ import annotations

from pathlib import Path

import pytest

import fedfm
from fedfm.cards.registry import recipes

WHOLE_STORY = "quickstart"  # three seeds and a margin: test_quickstart.py


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("name", "seed"),
    [
        (name, seed)
        for name in sorted(set(recipes()) - {WHOLE_STORY})
        for seed in ((0,) if name.startswith("fedit") else (0, 1))
    ],
)
def test_a_recipe_beats_its_parties_alone(name: str, seed: int, tmp_path: Path) -> None:
    """A learning rate that diverges, on one seed or on all, passes every law and every check; a run to the end shows it."""
    result = fedfm.run(name, seed=seed, baselines="local", out=tmp_path / "run")
    metric, sign = result.metric, 1 if result.metric["higher_is_better"] else -1
    assert result.summary["status"] == "finished" and "round_failed" not in result.summary["failures"]
    assert sign * metric["federated"] > sign * max(metric["local"], metric["base"], key=lambda v: sign * v)
