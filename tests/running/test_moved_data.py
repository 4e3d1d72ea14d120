"""A run goes on where the same rows and models lie elsewhere, and refuses other ones; where nothing lies it says what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import architectures as arch
import fedfm
from fedfm.core.errors import ResumeError
from fedfm.running.commands.status import status
from fedfm.running.commands.sweep import sweep
from fedfm.running.execute import configure
from fedfm.running.record.places import moved, places, renamed


def _rows(folder: Path, shift: float = 0.0) -> Path:
    folder.mkdir()
    for k, party in enumerate("ab"):
        rows = [json.dumps({"a": 1.0, "b": float(i + k) + shift}) for i in range(6)]
        (folder / f"{party}.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def _config(data: Path, **more: Any) -> dict[str, Any]:
    return {"task": "quadratic", "data": {"name": "files", "path": f"{data}/*.jsonl"}, "rounds": 1, **more}


def _edit(run: Path, old: Path, new: Path) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text().replace(str(old), str(new)))


def test_rows_that_were_moved_are_found_through_the_config(tmp_path: Path) -> None:
    old, new = _rows(tmp_path / "old"), tmp_path / "new"
    whole = fedfm.run(_config(old, rounds=3), out=tmp_path / "whole", baselines="none")
    fedfm.run(_config(old, horizon=3), out=tmp_path / "run", baselines="none")
    shutil.move(old, new)
    with pytest.raises(
        ResumeError, match="(?s)data.path names .*nothing is there.*`data.path` in .*config.yaml"
    ) as e:
        fedfm.resume(tmp_path / "run", rounds=3)
    assert "another pattern" not in str(e.value)
    assert fedfm.resume(tmp_path / "run").summary["rounds"] == 1  # finished: nothing is read
    _edit(tmp_path / "run", old, new)
    assert status(tmp_path / "run").reasons == ()  # the same rows at another place: nothing is strange
    again = fedfm.resume(tmp_path / "run", rounds=3)
    assert status(tmp_path / "run").reasons == ()
    assert again.summary["model_digest"] == whole.summary["model_digest"]
    assert [h["what"] for h in again.summary["history"] if h["what"] == "data.path"] == ["data.path"]
    assert fedfm.resume(tmp_path / "run", rounds=4).summary["rounds"] == 4  # and from there on


def test_other_rows_at_another_place_are_refused(tmp_path: Path) -> None:
    old, other = _rows(tmp_path / "old"), _rows(tmp_path / "other", shift=1.0)
    fedfm.run(_config(old), out=tmp_path / "run", baselines="none")
    _edit(tmp_path / "run", old, other)
    with pytest.raises(ResumeError, match=r"(?s)run of something else.*data\.a: was "):
        fedfm.resume(tmp_path / "run", rounds=3)


def test_test_rows_and_rows_given_from_python_move_too(tmp_path: Path) -> None:
    old, new, test = _rows(tmp_path / "old"), tmp_path / "new", _rows(tmp_path / "test")

    def fed(at: Path, tests: Path, rounds: int) -> fedfm.Federation:
        data = {"name": "files", "path": [str(at)], "test_path": str(tests)}
        return configure(_config(at, rounds=rounds) | {"data": data}).fed

    fedfm.run(fed(old, test, 1), out=tmp_path / "run", baselines="none")
    shutil.move(old, new)
    shutil.move(test, tmp_path / "there")
    with pytest.raises(ResumeError, match="`data.path` of the federation"):
        fedfm.resume(tmp_path / "run", fed(old, test, 1), rounds=2)
    assert fedfm.resume(tmp_path / "run", fed(new, tmp_path / "there", 1), rounds=2).summary["rounds"] == 2
    with pytest.raises(ResumeError, match="was other held-out rows"):
        fedfm.resume(tmp_path / "run", fed(new, _rows(tmp_path / "x", shift=2.0), 1), rounds=3)


def test_a_sweep_goes_on_where_its_rows_were_moved(tmp_path: Path) -> None:
    old, new = _rows(tmp_path / "old"), tmp_path / "new"
    sweep(_config(old), ["seed=0,1"], out=tmp_path / "s")
    shutil.move(old, new)
    points = sweep(_config(new), ["seed=0,1,2"], out=tmp_path / "s")
    assert [p.error for p in points] == [""] * 3 and all(p.result is not None for p in points)


def test_a_model_that_was_moved_is_the_same_model_and_another_is_not(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for party in "ab":
        rows = [json.dumps({"text": f"word {i}", "number": i / 6.0}) for i in range(6)]
        (tmp_path / "data" / f"{party}.jsonl").write_text("\n".join(rows) + "\n")
    base = arch.encoder(tmp_path / "base")
    task = {"name": "text-regression", "model": base, "max_tokens": 8}
    config = _config(tmp_path / "data", task=task, client={"name": "local", "steps": 1, "lr": 0.01})
    fedfm.run(config, out=tmp_path / "run", baselines="none")
    shutil.move(base, tmp_path / "moved")
    with pytest.raises(ResumeError, match="task.model names .*nothing is there"):
        fedfm.resume(tmp_path / "run", rounds=2)
    _edit(tmp_path / "run", Path(base), tmp_path / "moved")
    assert fedfm.resume(tmp_path / "run", rounds=2).summary["rounds"] == 2
    other = arch.encoder(tmp_path / "other", hidden_dropout_prob=0.3)
    _edit(tmp_path / "run", tmp_path / "moved", Path(other))
    with pytest.raises(ResumeError, match="base model"):
        fedfm.resume(tmp_path / "run", rounds=3)


def test_a_name_is_no_place() -> None:
    was = {"task": {"name": "causal-lm", "model": "smollm2"}, "data": {"name": "files", "path": "/a/*"}}
    now = {"task": {"name": "causal-lm", "model": "minilm"}, "data": {"name": "files", "path": "/b/*"}}
    assert moved(was, now) == {"data.path": ("/a/*", "/b/*")}
    assert [at for at, _, _ in places({"stages": [now], **was})] == [
        *("stages.0.task.model", "stages.0.data.path", "task.model", "data.path")
    ]
    assert renamed(
        {"weights of /b/m": "1"},
        {"task": {"name": "causal-lm", "model": "/a/m"}},
        {"task": {"name": "causal-lm", "model": "/b/m"}},
    ) == {"weights of /a/m": "1"}
