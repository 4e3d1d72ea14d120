"""The project's own measurements: they run, they measure what they say, and their figures are plain data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from fedfm import bench
from fedfm.bench import aggregate, clients, machine, overhead, secagg, speed, start, wire
from fedfm.bench.bed.arena import ENDLESS, NEVER, opened
from fedfm.bench.bed.idle import Crowd, Idle, Vector
from fedfm.cards.registry import methods, recipes
from fedfm.cli import app
from fedfm.core.errors import ConfigError, FedfmError
from fedfm.core.federation import Federation, replace
from fedfm.engines.inprocess import InProcess
from fedfm.engines.processes import Processes


def idle(parties: int, size: int = 64, **slots: Any) -> Federation:
    return Federation(
        Vector(size),
        Crowd(parties),
        client=Idle(),
        engine=InProcess(),
        evaluate=NEVER,
        rounds=ENDLESS,
        **slots,
    )


def test_names_and_their_modules() -> None:
    assert bench.names() == [
        "overhead",
        "start",
        "clients",
        "aggregate",
        "imports",
        "wire",
        "secagg",
        "links",
        "served",
        "speed",
    ]
    with pytest.raises(ConfigError, match="did you mean 'overhead'"):
        bench.run("overhed")


def test_figures_are_plain_data_and_progress_is_not_among_them(capsys: pytest.CaptureFixture[str]) -> None:
    found = bench.run("wire", quick=True)
    assert json.loads(json.dumps(found)) == found
    assert set(found) >= set(wire.measure(size=100, repeats=1)) | {"took_s"}
    assert found["name"] == "wire" and found["quick"] is True
    assert found["machine"]["cores"] >= 1 and torch.__version__.startswith(
        found["machine"]["versions"]["torch"]
    )
    out, err = capsys.readouterr()
    assert out == "" and "bench wire" in err


def test_wire_covers_every_registered_codec() -> None:
    found = wire.measure(size=2000, repeats=1)
    assert found["wires"].keys() | found["skipped"].keys() == {
        n for n, c in methods().items() if "wire" in c.slots
    }
    assert "secagg" in found["skipped"]
    assert found["wires"]["quantise"]["sent_bytes"] < found["wires"]["pipe"]["sent_bytes"]


def test_overhead_takes_the_same_steps_on_both_sides() -> None:
    """The bare loop's last losses are the federation's: same weights, same batches, same optimiser."""
    found = overhead.measure(clients=2, steps=2, batch=4, repeats=1, model="tiny-encoder", workers=1)
    for name in ("inprocess", "processes"):
        assert found[name]["largest_loss_difference"] < 1e-4
        assert found[name]["overhead"] > 0 and found[name]["outside"] < 1
        assert found[name]["work_cpu"]["raw"][0] <= found[name]["cpu"]["raw"][0]
        assert found[name]["bare_cpu"]["raw"][0] <= found[name]["aside_cpu"]["raw"][0]
    assert (found["overhead"], found["outside"]) == (
        found["inprocess"]["overhead"],
        found["inprocess"]["outside"],
    )


@pytest.mark.parametrize("engine", [InProcess(), Processes(2)])
def test_idle_rounds(engine: Any) -> None:
    """Every party sends 0.001 everywhere, so each round moves the model by 0.001; nothing is scored after the start."""
    threads = torch.get_num_threads()
    with opened(replace(idle(5), engine=engine)) as arena:
        folder = Path(arena.run.folder)
        laps = [arena.lap() for _ in range(2)]
        assert torch.allclose(arena.run.state.server["w"], torch.full((64,), 2e-3))
        assert len(machine.workers(arena.run.engine)) == (2 if isinstance(engine, Processes) else 0)
    assert not folder.exists() and torch.get_num_threads() == threads
    for k, lap in enumerate(laps, 1):
        assert lap.record["round"] == k and lap.record["clients"] == 5 and "metrics" not in lap.record
        assert sorted(e["client"] for e in lap.events if e["kind"] == "upload") == [
            f"party-{i}" for i in range(5)
        ]
        assert lap.wall > 0 and lap.cpu > 0


@pytest.mark.slow
def test_what_is_held_stays_within_the_window() -> None:
    """Behind a slow first party at most a window's messages wait, not the cohort's."""
    found = clients.measure(clients=40, size=100, repeats=1, sleep_s=0.05, workers=2)
    for kind in (found, found["slow"]):
        assert kind["inprocess"]["held"] == 1
        assert 1 <= kind["processes"]["held"] <= kind["processes"]["window"] + 1 < 40
    assert found["update_bytes"] == 400 and found["clients"] == 40


def test_the_clock_of_another_process() -> None:
    """The workers' processor time is seen from outside, and only grows."""
    code = "sum(range(3_000_000)); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None and child.stdin is not None
        child.stdout.readline()
        own, both = machine.cpu(), machine.cpu([child.pid])
        assert both > own and machine.resident(child.pid) > 0
        child.stdin.close()


def test_aggregate_compares_with_the_plain_sum() -> None:
    found = aggregate.measure(messages=5, size=4000, repeats=1)
    assert set(found["ratio"]) == {"mean", "checked", "fixed", "krum", "median"}
    assert found["mean"] == found["ratio"]["mean"] > 0 and found["message_bytes"] == 16_000


@pytest.mark.slow
def test_imports() -> None:
    seconds = bench.run("imports", quick=True)["seconds"]
    assert {"python", "import fedfm", "list of cards"} <= set(seconds)
    done = subprocess.run(
        [sys.executable, "-c", "import sys, fedfm, fedfm.bench; print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"  # naming the measurements imports nothing heavy


def test_start_stops_at_the_first_local_step(tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(
        "recipe: quickstart\ntask.model: tiny-encoder\ndata.train_rows: 100\ndata.test_rows: 20\n"
    )
    stages = start.first_step(str(config), "inprocess")
    assert list(stages) == ["python", "loop", "config", "model", "data", "score", "step"]
    assert all(v >= 0 for v in stages.values())


def test_start_tells_why_there_was_no_step() -> None:
    with pytest.raises(RuntimeError, match="quickstat"):
        start.first_step("quickstat")


def test_secagg_rounds() -> None:
    found = secagg.measure(parties=(4,), size=50, repeats=1)["rounds"]["4"]
    assert found["secagg"]["bytes"]["talk"] > 0 == found["plain"]["bytes"]["talk"]
    assert found["secagg"]["bytes"]["up"] > found["plain"]["bytes"]["up"]


def test_a_speed_run_ends_where_the_score_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    small = ("data.train_rows=120", "data.test_rows=20", "client.steps=1", "rounds=3")
    found = speed.measure(recipe="fedavg-vision", settings=small, until=0.0, repeats=2)
    assert found["rounds"] == 1 and len(found["scores"]) == 2 and found["metric"] == "accuracy"
    assert (
        found["seconds"] == pytest.approx(sum(found["seconds_each"]) / 2, abs=0.06) and found["seconds"] > 0
    )
    never = speed.measure(True, recipe="fedavg-vision", settings=small, until=1.1)
    assert never["seconds"] is None and len(never["scores"]) == 4 and "not reached" in capsys.readouterr().err


def test_a_speed_run_says_what_it_needs(tmp_path: Path) -> None:
    assert set(speed.UNTIL) <= set(recipes())
    with pytest.raises(ConfigError, match="--until"):
        speed.measure(recipe="krum")
    with pytest.raises(ConfigError, match="clinet"):
        speed.measure(True, recipe="fedavg-vision", settings=("clinet.lr=1",), until=0.5)
    with pytest.raises(FedfmError, match="does not run: "):
        speed.measure(True, recipe="fedavg-vision", settings=("data.train_rows=1",), until=0.5)
    done = CliRunner().invoke(app, ["bench", "wire", "quickstart"])
    assert done.exit_code == 1 and isinstance(done.exception, ConfigError)
