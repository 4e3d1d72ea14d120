"""Parties of different owners: rows of their own, noise of the operating system, and nothing told that needs not be."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from fedfm.core.errors import MachineFault
from fedfm.core.federation import Federation
from fedfm.data.files import Files
from fedfm.deploy.authority import Authority
from fedfm.deploy.server import Service, serve
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.ledger.file import read
from fedfm.models import tiny
from fedfm.running.verdict import Result
from fedfm.tasks.text.classify import SequenceClassification
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian
from loopback import Loopback

COLUMNS = {"text": "body", "label": "sort"}


def rows(path: Path, seed: int, n: int, labels: tuple[str, ...] = ("bad", "good")) -> Files:
    draw = random.Random(seed)
    lines = [{"body": f"a {(kind := draw.choice(labels))} film, no. {k}", "sort": kind} for k in range(n)]
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return Files(str(path), columns=COLUMNS)


def served(
    folder: Path,
    sources: dict[str, Any] | None = None,
    models: dict[str, str] | None = None,
    **slots: Any,
) -> tuple[Result, Loopback]:
    ca = Authority.create(folder / "ca", "acme")
    found = sources or {n: rows(folder / f"{n}.jsonl", k, 20 + k) for k, n in enumerate(("a", "b"))}
    for name in found:
        ca.invite(name, "loopback:1")
    task = SequenceClassification(model=str(tiny("encoder", folder / "base")), tuning=LoRA(), max_tokens=16)
    base: dict[str, Any] = {"client": Local(lr=0.01, steps=2, batch=4), "rounds": 2}
    fed = Federation(task, rows(folder / "test.jsonl", 9, 30), **base | slots)
    carrier = Loopback(folder / "run", sources=found)
    carrier.models |= models or {}
    service = Service(authority=folder / "ca", listen=carrier.listen, clock=carrier.clock, wait_s=30.0)
    return serve(fed, folder / "run", service), carrier


def test_rows_of_their_own_are_all_trained_on_and_only_counted_elsewhere(tmp_path: Path) -> None:
    result, carrier = served(tmp_path)
    assert result.status == "finished"
    assert {i: p["rows"] for i, p in result.summary["parties"].items()} == {"a": 20, "b": 21}
    uploads = [e for e in read(tmp_path / "run" / "events.jsonl") if e["kind"] == "upload"]
    assert len(uploads) == 4 and all("norm" not in e for e in uploads)
    said = json.dumps([head for _, head in carrier.said])
    assert "film" not in said
    assert "a.jsonl" not in said


def test_a_site_has_a_copy_of_the_model_elsewhere(tmp_path: Path) -> None:
    same, other = str(tiny("encoder", tmp_path / "copy")), str(tiny("encoder", tmp_path / "other"))
    weights = load_file(f"{other}/model.safetensors")
    weights["embeddings.word_embeddings.weight"][0] += 1
    save_file(weights, f"{other}/model.safetensors", metadata={"format": "pt"})
    assert served(tmp_path / "one", models={"b": same})[0].status == "finished"
    with pytest.raises(MachineFault, match=r"b: base: the server has .*model 0"):
        served(tmp_path / "two", models={"b": other})
    with pytest.raises(MachineFault, match="b: its data or settings do not fit"):
        served(tmp_path / "three", models={"b": str(tmp_path / "nowhere")})


def test_noise_is_the_operating_systems(tmp_path: Path) -> None:
    slots = {"uplink": LocalGaussian(clip_norm=1.0, noise_multiplier=4.0), "aggregate": Mean(weights="equal")}
    found = []
    for time in ("one", "two"):
        (folder := tmp_path / time).mkdir()
        result, _ = served(folder, **slots)
        found.append(result.summary["model_digest"])
        events = [e for e in read(folder / "run" / "events.jsonl") if e["kind"] == "privacy"]
        assert events and all(e["noise"] == "system" and not e["simulated"] for e in events)
    assert found[0] != found[1]


def test_a_label_that_nobody_agreed_on_is_told_at_the_site_and_not_to_the_server(tmp_path: Path) -> None:
    strange = rows(tmp_path / "b.jsonl", 1, 20, ("bad", "secret-diagnosis"))
    with pytest.raises(MachineFault) as e:
        served(tmp_path, {"a": rows(tmp_path / "a.jsonl", 0, 20), "b": strange})
    assert "b: its data or settings do not fit" in str(e.value) and "secret-diagnosis" not in str(e.value)
