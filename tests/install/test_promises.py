"""What pyproject.toml promises: every range has a lowest version that was tried, every extra a pin and a use."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement

import fedfm
from fedfm.core.federation import Federation
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.engines.inprocess import InProcess
from fedfm.tasks.quadratic import Quadratic, Quadratics
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
TOOLS = {"ruff", "mypy", "types-pyyaml"}  # they look at the source, whatever it runs on


def name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", Requirement(requirement).name).lower()


def pins(file: str) -> dict[str, str]:
    """Exact versions by name."""
    lines = (ROOT / file).read_text().splitlines()
    pairs = (line.split("#")[0].split("==") for line in lines if "==" in line.split("#")[0])
    return {re.sub(r"[-_.]+", "-", a.strip()).lower(): b.strip() for a, b in pairs}


def wanted() -> list[str]:
    lines = [*PROJECT["dependencies"], *(r for rs in EXTRAS.values() for r in rs)]
    return [r for r in lines if name(r) != "fedfm" and name(r) not in TOOLS]


def test_every_lower_bound_is_the_version_that_was_tried() -> None:
    lowest = pins("constraints-lowest.txt")
    assert set(lowest) == {name(r) for r in wanted()}
    for r in wanted():
        bounds = [s.version for s in Requirement(r).specifier if s.operator == ">="]
        assert bounds == [lowest[name(r)]] or Requirement(r).specifier.contains(lowest[name(r)]), r
        low, tried = (v.split(".") for v in (bounds[0], lowest[name(r)]))
        assert tried[: len(low)] == low and set(tried[len(low) :]) <= {"0"}, (
            f"{r}: {lowest[name(r)]} was tried"
        )


def test_the_tested_set_holds_everything_that_is_promised() -> None:
    tested = pins("constraints.txt")
    for r in wanted():
        assert name(r) in tested, f"{r} has no version in constraints.txt"
        assert Requirement(r).specifier.contains(tested[name(r)]), f"{r}: {tested[name(r)]} is tested"


def test_versions_with_known_holes_are_not_promised() -> None:
    safe = {"torch": "2.6", "cryptography": "44.0.1", "onnx": "1.17"}
    for r in wanted():
        if name(r) in safe:
            assert not Requirement(r).specifier.contains(f"{safe[name(r)].rsplit('.', 1)[0]}.0"), r
            assert Requirement(r).specifier.contains(safe[name(r)]), r


# ---- one use of every extra -----------------------------------------------------------------------------------
USES = {"data", "privacy", "vision", "tensorboard", "mlflow", "wandb", "deploy", "ray", "test"}


def test_every_extra_has_a_use_here_or_in_its_own_room() -> None:
    assert set(EXTRAS) == USES
    for extra in USES - {"test"}:
        text = "".join(p.read_text() for p in (ROOT / "src").rglob("*.py"))
        modules = {"scikit-learn": "sklearn", "mlflow-skinny": "mlflow", "grpcio": "grpc"}
        names = [modules.get(name(r), name(r).replace("-", "_")) for r in EXTRAS[extra]]
        assert any(n in text for n in names), f"nothing in the package uses the extra {extra}"


def _quadratics() -> Federation:
    data = Quadratics(a=(1.0, 2.0, 5.0), b=(3.0, 1.0, -1.0))
    return Federation(
        Quadratic(dim=3), data, client=Local(lr=0.02, steps=2, batch=0), engine=InProcess(), rounds=2
    )


def test_mlflow_keeps_what_a_run_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mlflow-skinny with its database, which it does not bring itself."""
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("alembic")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    fedfm.run(_quadratics(), out=tmp_path / "run", trackers=["mlflow"])
    client = mlflow.tracking.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'run' / 'mlruns.db'}")
    experiment = client.get_experiment_by_name("fedfm")
    (run,) = client.search_runs([experiment.experiment_id])
    logged = client.get_metric_history(run.info.run_id, "loss")
    assert [m.step for m in logged] == [0, 1, 2] and run.info.status == "FINISHED"
    assert run.data.params["client.lr"] == "0.02"
    fedfm.resume(tmp_path / "run", rounds=4)
    (run,) = client.search_runs([experiment.experiment_id])
    logged = client.get_metric_history(run.info.run_id, "loss")
    assert {m.step for m in logged} == {0, 1, 2, 3, 4} and run.info.status == "FINISHED"


def test_wandb_keeps_what_a_run_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    fedfm.run(_quadratics(), out=tmp_path / "run", trackers=["wandb"])
    assert list((tmp_path / "run" / "wandb").rglob("*.wandb"))


def test_tensorboard_keeps_what_a_run_logs(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fedfm.run(_quadratics(), out=tmp_path / "run", trackers=["tensorboard"])
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    assert [e.step for e in found.Scalars("loss")] == [0, 1, 2]


def test_the_accountant_of_the_extra_privacy_counts(tmp_path: Path) -> None:
    pytest.importorskip("dp_accounting")
    fed = fedfm.replace(
        _quadratics(), uplink=ClipNoise(clip_norm=0.5, noise_multiplier=2.0), aggregate=Mean(weights="equal")
    )
    told = fedfm.run(fed, out=tmp_path / "run").summary["privacy"]
    assert told is not None and 0.0 < told["epsilon"] < 100.0


def test_the_extra_data_reads_what_it_is_for(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import parquet, table

    from fedfm.data.files import Files

    for party in ("a", "b"):
        rows = {"text": [f"{party} {k}" for k in range(6)], "label": ["x", "y"] * 3}
        parquet.write_table(table(rows), tmp_path / f"{party}.parquet")
    assert Files(str(tmp_path / "*.parquet")).open(0).ids == ("a", "b")


def test_the_extra_vision_reads_a_graph() -> None:
    onnx = pytest.importorskip("onnx")
    weight = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])
    assert torch.tensor(onnx.numpy_helper.to_array(weight)).tolist() == [1.0, 2.0]


# ---- installed for real ---------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("extra", sorted(USES))
def test_every_extra_can_be_resolved_under_the_tested_set(extra: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed"]
    more = ["-c", str(ROOT / "constraints.txt"), f"{ROOT}[{extra}]"]
    told = subprocess.run([*command, *more], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_lowest_versions_run(tmp_path: Path) -> None:
    """An environment with the lower bounds: the list of methods, a round of the quickstart, the fast tests."""
    python = tmp_path / "lowest" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "lowest"], check=True)
    lowest = ["-c", str(ROOT / "constraints-lowest.txt")]
    subprocess.run([python, "-m", "pip", "install", "-q", *lowest, "-e", f"{ROOT}[test]"], check=True)
    for command in (["list"], ["run", "quickstart", "--rounds", "1", "--baselines", "none", "--out", "q"]):
        subprocess.run([python, "-m", "fedfm", *command], check=True, cwd=tmp_path)
    tests = [str(ROOT / "tests" / room) for room in ("core", "running", "trust")]
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([python, "-m", "pytest", "-q", "-n", "2", *tests], check=True, cwd=ROOT, env=clean)


def test_every_core_requirement_is_installed_here() -> None:
    modules = {"pyyaml": "yaml"}
    for r in PROJECT["dependencies"]:
        assert importlib.util.find_spec(modules.get(name(r), name(r))) is not None, r
