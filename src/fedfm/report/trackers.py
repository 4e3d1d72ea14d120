"""Trackers: each round's metrics to TensorBoard, MLflow or Weights & Biases, offline by default."""

from __future__ import annotations

import importlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from fedfm.core.errors import ConfigError, MissingExtra, Problem, ResumeError
from fedfm.files import write
from fedfm.report.ledgers import read_lines
from fedfm.report.numbers import finite
from fedfm.text import nearest

TRACKERS = ("tensorboard", "mlflow", "wandb")


class Tracker(Protocol):
    """Takes the metrics of each round; `close` flushes and may be called once."""

    def log(self, round: int, metrics: dict[str, float]) -> None: ...

    def close(self) -> None: ...


def open_tracker(name: str, run_dir: Path, config: Mapping[str, Any] | str | None) -> Tracker:
    """A tracker writing under `run_dir`: `tensorboard/`, `mlruns.db` or `wandb/`.

    MLflow goes elsewhere when MLFLOW_TRACKING_URI is set; Weights & Biases goes online only when WANDB_MODE
    says so.
    Raises MissingExtra with the install line, or ConfigError that names the nearest known tracker.
    """
    kinds: dict[str, Callable[[Path, Mapping[str, Any] | str | None], Tracker]]
    kinds = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}
    if name not in kinds:
        fix = nearest(name, TRACKERS)
        raise ConfigError(
            [Problem("tracker", f"there is no tracker '{name}'", "only these are known to fedfm", fix)]
        )
    Path(run_dir).mkdir(parents=True, exist_ok=True)
    return kinds[name](Path(run_dir), config)


def tensorboard(run_dir: Path) -> Path:
    """Writes a run's metrics.jsonl as TensorBoard events and gives their folder; ResumeError without it."""
    source = Path(run_dir) / "metrics.jsonl"
    if not source.is_file():
        raise ResumeError(
            f"{run_dir}: has no metrics.jsonl; give a run directory that `fedfm run NAME --out DIR` wrote"
        )
    config = Path(run_dir) / "config.yaml"
    tracker = TensorBoard(Path(run_dir), config.read_text("utf-8", "replace") if config.is_file() else None)
    try:
        for row in read_lines(source)[0]:
            number = finite(row.get("round"))
            if number is not None:
                tracker.log(int(number), flat(row))
    finally:
        tracker.close()
    return tracker.place


def flat(row: Mapping[str, Any]) -> dict[str, float]:
    """A line of metrics.jsonl as flat numbers: metrics by their own name, the rest as `bytes/up`."""
    found: dict[str, float] = {}
    for key, value in row.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for name, item in inner:
            number = float(item) if isinstance(item, bool) else finite(item)
            if number is not None and key != "round":
                found[name if key == "metrics" else f"{key}/{name}" if name else key] = number
    return found


class TensorBoard:
    """TensorBoard event files, written without TensorFlow or torch; scalars by tag, step = round."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any] | str | None):
        writer = _library(
            "tensorboard.summary.writer.event_file_writer", "tensorboard", "the tracker 'tensorboard'"
        )
        self._event = importlib.import_module("tensorboard.compat.proto.event_pb2").Event
        self._summary = importlib.import_module("tensorboard.compat.proto.summary_pb2").Summary
        self.place = run_dir / "tensorboard"
        self._writer = writer.EventFileWriter(str(self.place))
        if config is not None:
            plugin = importlib.import_module("tensorboard.plugins.text.metadata")
            tensors = importlib.import_module("tensorboard.util.tensor_util")
            text = "\n".join(f"    {line}" for line in _text(config).splitlines())  # indented: Markdown code
            value = self._summary.Value(
                tag="config",
                metadata=plugin.create_summary_metadata("config", "the resolved config"),
                tensor=tensors.make_tensor_proto([text]),
            )
            self._add(0, self._summary(value=[value]))

    def log(self, round: int, metrics: dict[str, float]) -> None:
        """One event with a scalar per metric; what is not finite is left out."""
        values = [self._summary.Value(tag=k, simple_value=v) for k, v in _finite(metrics).items()]
        if values:
            self._add(round, self._summary(value=values))

    def close(self) -> None:
        """Flushes and closes the event file."""
        self._writer.close()

    def _add(self, step: int, summary: Any) -> None:
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=summary))


class MLflow:
    """An MLflow run in `mlruns.db` of the run directory, or wherever MLFLOW_TRACKING_URI points."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any] | str | None):
        mlflow = _library("mlflow", "mlflow", "the tracker 'mlflow'")
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(run_dir / 'mlruns.db').resolve()}"
        self._client = mlflow.tracking.MlflowClient(tracking_uri=uri)
        self._run = self._again(run_dir, mlflow.exceptions.MlflowException) or self._new(run_dir, config)

    def _again(self, run_dir: Path, unknown: type[Exception]) -> str:
        """The run that was begun for this directory, going on; empty: there is none here."""
        run = _began(run_dir, "mlflow")
        try:
            if run:
                self._client.update_run(run, status="RUNNING")
        except unknown:  # another place is tracked to than when it was begun
            return ""
        return run

    def _new(self, run_dir: Path, config: Mapping[str, Any] | str | None) -> str:
        known = self._client.get_experiment_by_name("fedfm")
        home = known.experiment_id if known else self._client.create_experiment("fedfm")
        run = str(self._client.create_run(home, run_name=run_dir.name).info.run_id)
        for key, value in _leaves(config):
            self._client.log_param(run, key[:250], str(value)[:500])
        _begin(run_dir, "mlflow", run)
        return run

    def log(self, round: int, metrics: dict[str, float]) -> None:
        """One value per metric, step = round; what is not finite is left out."""
        for key, value in _finite(metrics).items():
            self._client.log_metric(self._run, key, value, step=round)

    def close(self) -> None:
        """Marks the run as finished."""
        self._client.set_terminated(self._run)


class WandB:
    """A Weights & Biases run in `wandb/` of the run directory, offline unless WANDB_MODE says otherwise."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any] | str | None):
        wandb = _library("wandb", "wandb", "the tracker 'wandb'")
        self._run = wandb.init(
            project="fedfm",
            name=run_dir.name,
            dir=str(run_dir),
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=dict(_leaves(config)),
            id=_began(run_dir, "wandb") or None,
            resume="allow",
        )
        _begin(run_dir, "wandb", str(self._run.id))

    def log(self, round: int, metrics: dict[str, float]) -> None:
        """One row, step = round; what is not finite is left out."""
        self._run.log(_finite(metrics), step=round)

    def close(self) -> None:
        """Finishes the run."""
        self._run.finish()


_BEGAN = "trackers.json"  # tracker -> the name that it gave to this run, so that a resumed run goes on in it


def _began(run_dir: Path, tracker: str) -> str:
    try:
        found = json.loads((run_dir / _BEGAN).read_text("utf-8")).get(tracker)
    except (OSError, ValueError, AttributeError):  # none, or one that somebody spoilt: begun anew
        return ""
    return found if isinstance(found, str) else ""


def _begin(run_dir: Path, tracker: str, run: str) -> None:
    names = {t: _began(run_dir, t) for t in TRACKERS} | {tracker: run}
    write(run_dir / _BEGAN, json.dumps({t: n for t, n in names.items() if n}).encode())


def _library(module: str, extra: str, what_for: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(extra, extra, what_for) from error


def _finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {key: number for key, value in metrics.items() if (number := finite(value)) is not None}


def _text(config: Mapping[str, Any] | str) -> str:
    return config if isinstance(config, str) else json.dumps(config, indent=2, default=str)


def _leaves(config: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(config, str) and not path:
        return [("config", config)]
    items = (
        config.items()
        if isinstance(config, Mapping)
        else enumerate(config)
        if isinstance(config, list)
        else None
    )
    if items is None:
        return [(path, config)] if path else []
    return [leaf for key, value in items for leaf in _leaves(value, f"{path}.{key}" if path else str(key))]
