"""The main job on the real model: federated beats the mean of the parties alone by a margin, whatever the seed."""

from __future__ import annotations

from pathlib import Path

import pytest

import fedfm


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_federated_beats_parties_alone(seed: int, tmp_path: Path) -> None:
    metric = fedfm.run("quickstart", seed=seed, baselines="local,pooled", out=tmp_path / "run").metric
    assert metric["base"] < 0.25  # ten topics, an untrained head
    assert metric["federated"] > metric["local"] + 0.1
    assert metric["pooled"] > metric["local"] + 0.1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_saved_adapter_scores_as_the_run_reported(tmp_path: Path) -> None:
    """`model/` alone (plain PEFT adapter and head) gives the accuracy that the summary states."""
    from fedfm.data.wordnet_topics import WordnetTopics
    from fedfm.tasks import load_tuned

    result = fedfm.run("quickstart", rounds=1, out=tmp_path / "run")
    rows = WordnetTopics(test_rows=300).open(0).test().rows
    tuned = load_tuned(tmp_path / "run" / "model", "cpu")
    labels = tuned.predict([r["text"] for r in rows])
    right = sum(a == r["label"] for a, r in zip(labels, rows, strict=True)) / len(rows)
    assert right == pytest.approx(result.metric["federated"], abs=1 / len(rows))
