"""Two runs that differ in one party's rows leave the same public files to the byte, but for the noisy model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedfm
from fedfm.incentives.selection.poisson import Poisson
from fedfm.laws.homes import quadratics
from fedfm.tasks.quadratic import Quadratics
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise


def public(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "select,secret",
    [({}, False), ({"select": Poisson(0.5)}, False), ({"select": Poisson(0.5)}, True)],
    ids=["all", "seeded draw", "secret draw"],
)
def test_nothing_but_the_noisy_model_differs(select: dict[str, Any], secret: bool, tmp_path: Path) -> None:
    noise = ClipNoise(noise_multiplier=2.0, real_noise=secret)
    slots = {
        "uplink": noise,
        "aggregate": fedfm.Mean(weights="equal", denominator=2.0),
        "rounds": 3,
        **select,
    }
    found = []
    for name, b in (("one", 0.0), ("two", -30.0)):
        data = Quadratics(a=(1.0, 2.0, 4.0), b=(b, 1.0, -1.0), rows=4)
        run = fedfm.run(quadratics(data=data, **slots), out=tmp_path / name)
        found.append(public(run.folder / "public"))
    one, two = found
    assert one.keys() == two.keys() and "events.jsonl" in one
    differ = {name for name in one if one[name] != two[name]}
    assert "model/model.safetensors" in differ and len(one["model/model.safetensors"]) == len(
        two["model/model.safetensors"]
    )
    told = [json.loads(files["summary.json"]) for files in found]
    assert told[0]["model_digest"] != told[1]["model_digest"]
    for files, summary in zip(found, told, strict=True):
        digest = summary["model_digest"]  # of the noisy model, so released with it
        for name, held in files.items():
            for shown in (digest, f"{digest[:9]}\u2026{digest[-4:]}"):
                held = held.replace(shown.encode(), b"-")
            files[name] = held.replace(b"  - -30.0", b"  - 0.0")  # the fixture keeps its rows in its config
    assert {name for name in one if one[name] != two[name]} == {"model/model.safetensors"}


@pytest.mark.parametrize("relation", ["zero-out", "add-or-remove"])
def test_rows_that_were_given_from_python_leave_no_print_and_no_digest(relation: str, tmp_path: Path) -> None:
    """The config records an object by what it prints and by its digest: both are functions of its rows."""
    parties = {f"clinic-{k}": (np.full((6, 3), 4.25 + k), np.arange(6) % 2) for k in range(3)}
    test = (np.ones((4, 3)), np.arange(4) % 2)
    fed = fedfm.Federation(
        fedfm.Torch(lambda: torch.nn.Linear(3, 2)),
        fedfm.Arrays(parties, test=test, labels=("a", "b")),
        uplink=ClipNoise(noise_multiplier=3.0, relation=relation),
        aggregate=fedfm.Mean(weights="equal", denominator=3.0),
        rounds=1,
    )
    run = fedfm.run(fed, out=tmp_path / "run", baselines="none")
    inside, outside = ((run.folder / part / "config.yaml").read_text() for part in (".", "public"))
    assert "digest" in inside or "4.25" in inside  # the record is whole where it stays
    data = outside[outside.index("\ndata:") :].split("\nselect:")[0]
    assert "digest" not in data and "4.25" not in data
    names = [n for n, b in public(run.folder / "public").items() if b"clinic-1" in b]
    assert relation == "zero-out" or not names
