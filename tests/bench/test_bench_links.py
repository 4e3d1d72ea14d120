"""The carrier's measurement runs, with tiny messages, and its figures are plain data; no figure is judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedfm import bench
from fedfm.bench import links, served
from fedfm.cli import app
from fedfm.core.errors import ConfigError, MachineFault

pytest.importorskip("grpc")


def test_links_beside_bare_sockets() -> None:
    found = links.measure(sizes=(4000, 400_000), exchanges=2, repeats=1, beat_s=0.2, patience_s=4.0)
    assert json.loads(json.dumps(found)) == found
    assert set(found["rounds"]) == {"4000", "400000"} and found["exchange"] > 0
    for by in found["seconds"].values():
        assert set(by) == {"exchange", "4000", "400000"} and all(v["min"] > 0 for v in by.values())
    assert set(found["peak_bytes"]) == {"server", "party", "bare server", "bare party"}
    assert all(p["400000"] >= p["start"] for p in found["peak_bytes"].values())
    assert found["killed_s"] > 0 and found["stopped_s"] > 0
    assert found["parties"] == {"exchange": 1, "4000": 2, "400000": 2}


def test_an_end_that_is_gone_says_its_last_words(tmp_path: Path) -> None:
    end = links._End(tmp_path, "serve", 1, 1)  # no authority there
    try:
        with pytest.raises(MachineFault, match="is gone"):
            end.hears()
    finally:
        end.close()


def test_without_the_carriers_library_all_others_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(bench, "_NAMES", ("links",))
    assert "fedfm[deploy]" in bench.run()["links"]["missing"]


def test_only_links_has_a_large_message() -> None:
    done = CliRunner().invoke(app, ["bench", "wire", "--large"])
    assert isinstance(done.exception, ConfigError)


@pytest.mark.slow
def test_a_served_run_is_measured_whole() -> None:
    found = served.measure(rounds=6, size=1000)
    assert json.loads(json.dumps(found)) == found
    assert found["rounds"] == 6 and found["wire"] > 1.0 and found["ledger_bytes"] > 6 * 4 * 4000
    assert set(found["slope"]) == {"server", "party-0", "party-1"} and found["round_s"]["min"] > 0
