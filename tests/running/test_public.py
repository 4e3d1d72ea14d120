"""What may leave the house under a protection: a copy that names no party, no seed, no score."""

from __future__ import annotations

import json
from pathlib import Path

import fedfm
from fedfm.config import text
from fedfm.laws.homes import pictures
from fedfm.ledger import file as ledger
from fedfm.running.record.public import PUBLIC
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise

EQUAL = fedfm.Mean(weights="equal", denominator=3.0)
NOISE = ClipNoise(1.0, 1.0)


def test_a_run_under_noise_leaves_a_copy_that_tells_of_nobody(tmp_path: Path) -> None:
    fed = pictures(select=fedfm.Poisson(rate=0.6), aggregate=EQUAL, uplink=NOISE, rounds=3)
    result = fedfm.run(fed, out=tmp_path / "run")
    public = result.folder / PUBLIC
    held = {p.relative_to(public).as_posix() for p in public.rglob("*") if p.is_file()}
    assert {"config.yaml", "events.jsonl", "summary.json", "report.html"} <= held
    assert any(name.startswith("model/") for name in held)
    parties = result.summary["parties"]
    for name in held:
        words = (public / name).read_bytes()
        assert not [i for i in parties if i.encode() in words], name
    assert "seed" not in text.load(public / "config.yaml")
    told = json.loads((public / "summary.json").read_text())
    assert told["privacy"]["epsilon"] == result.summary["privacy"]["epsilon"]
    assert not {"metric", "metrics", "parties", "baselines", "config_digest", "seed"} & told.keys()


def test_the_public_ledger_is_enough_to_compute_epsilon(tmp_path: Path) -> None:
    fed = pictures(select=fedfm.Poisson(rate=0.6), aggregate=EQUAL, uplink=NOISE, rounds=3)
    result = fedfm.run(fed, out=tmp_path / "run")
    from fedfm.trust.privacy.accountant import spent

    found = spent(ledger.read(result.folder / PUBLIC / "events.jsonl"))
    assert found is not None and found.epsilon == result.summary["privacy"]["epsilon"]


def test_without_a_protection_there_is_no_second_copy(tmp_path: Path) -> None:
    result = fedfm.run(pictures(rounds=1), out=tmp_path / "run")
    assert not (result.folder / PUBLIC).exists()
