"""The page of results: a record a recipe and seed, made anew only when its config or the bits epoch has moved."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedfm.config.record import digest
from fedfm.core.errors import MachineFault

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_results.py"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("make_results", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "make_results", module)
    spec.loader.exec_module(module)
    for name in ("PAGE", "RECORDS", "RUNS"):
        monkeypatch.setattr(module, name, tmp_path / name.lower())
    return module


@pytest.fixture
def record(results: Any, recorded: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A record of a real run, as if the recipe `dp-fedavg` had given it."""
    found: dict[str, Any] = results.record(recorded("noise"), "dp-fedavg", 0)
    return found | {"config": digest(results.configure("dp-fedavg", seed=0).config)}


def test_records_stand_until_config_or_bits_move(
    results: Any, record: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert results.fresh(record, "dp-fedavg", 0)
    assert not results.fresh(record, "dp-fedavg", 1) and not results.fresh(None, "dp-fedavg", 0)
    assert not results.fresh(record | {"status": "interrupted"}, "dp-fedavg", 0)
    results.keep(("dp-fedavg", 0), record)
    assert results.known() == {("dp-fedavg", 0): record}
    monkeypatch.setattr(results, "BITS", results.BITS + 1)
    assert not results.fresh(record, "dp-fedavg", 0)
    monkeypatch.setattr(results, "FORMAT", 2)
    assert results.known() == {}


def test_only_what_changed_is_run(
    results: Any, record: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, int]] = []

    def run(name: str, seed: int) -> dict[str, Any]:
        ran.append((name, seed))
        return record | {"recipe": name, "seed": seed}

    results.keep(("dp-fedavg", 0), record)
    monkeypatch.setattr(results, "run", run)
    monkeypatch.setattr(sys, "argv", ["make_results", "dp-fedavg", "krum", "--seeds", "0"])
    results.main()
    assert ran == [("krum", 0)] and len(results.RECORDS.read_text().splitlines()) == 2


def test_two_at_a_time_keep_each_others_records_and_one_that_fails_stops_nobody(
    results: Any, record: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(name: str, seed: int) -> dict[str, Any]:
        if name == "krum":
            raise MachineFault("the disk is full")
        other = record | {
            "recipe": "sparse",
            "seed": 0,
            "config": digest(results.configure("sparse", seed=0).config),
        }
        results.keep(("sparse", 0), other)  # another process, meanwhile
        return record | {"recipe": name, "seed": seed}

    monkeypatch.setattr(results, "run", run)
    monkeypatch.setattr(sys, "argv", ["make_results", "krum", "dp-fedavg", "sparse", "--seeds", "0"])
    results.main()
    assert results.known().keys() == {("dp-fedavg", 0), ("sparse", 0)}
    assert "krum, seed 0: the disk is full" in capsys.readouterr().out
    assert "`sparse`" in results.PAGE.read_text()


def test_a_run_goes_on_where_it_stopped_or_is_begun_anew(
    results: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ["data.train_rows=120", "data.test_rows=20", "client.steps=1", "rounds=2"]
    whole = results.configure
    monkeypatch.setattr(results, "configure", lambda name, seed: whole(name, small, seed=seed))
    done = results.execute

    def stopped(setup: Any, folder: Path, **more: Any) -> None:
        def stop(line: dict[str, Any]) -> None:
            if line["round"] == 1:
                raise KeyboardInterrupt

        done(setup, folder, callbacks=stop, **more)

    monkeypatch.setattr(results, "execute", stopped)
    with pytest.raises(KeyboardInterrupt):
        results.run("fedavg-vision", 0)
    (folder,) = results.RUNS.iterdir()
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    assert results.run("fedavg-vision", 0)["status"] == "finished"  # by resuming: `execute` would stop again
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("steps: 1", "steps: 2"))
    monkeypatch.setattr(results, "execute", done)
    assert results.run("fedavg-vision", 0)["status"] == "finished"
    assert "steps: 1" in (folder / "config.yaml").read_text()


def test_the_page_says_what_is_old_and_lets_nobody_write_markdown(
    results: Any, record: dict[str, Any]
) -> None:
    found = record | {"reasons": ["party | [x](http://y) never contributed"]}
    text = results.page({("dp-fedavg", 0): found, ("dp-fedavg", 1): record | {"seed": 1}})
    row = text.splitlines()[-1]
    assert row.startswith("| `dp-fedavg` † | 0, 1 | accuracy |") and "epsilon" in row
    assert r"party \| \[x\](http&#58;//y)" in row
    assert "†" not in results.page({("dp-fedavg", 0): record}).splitlines()[-1]
    assert str(results.BITS) in text and json.loads(json.dumps(found))["metric"]["name"] == "accuracy"
