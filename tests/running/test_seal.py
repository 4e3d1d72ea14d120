"""A finished run that was damaged since is not called finished: what is damaged is named, and what can be is written again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import fedfm
from fedfm.core.errors import ResumeError
from fedfm.laws.homes import quadratics


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fedfm.run(quadratics(rounds=2), out=tmp_path_factory.mktemp("whole") / "run").folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def weights(run: Path) -> Path:
    return next(p for p in sorted((run / "model").iterdir()) if p.name != "README.md")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_what_is_whole_is_finished(run: Path) -> None:
    (run / "model" / "README.md").write_text("for people")
    (run / "model" / "notes.txt").write_text("of one's own")
    assert fedfm.resume(run).status == "finished"


@pytest.mark.parametrize("harm", [cut, flip, Path.unlink])
def test_a_damaged_model_is_named_and_written_again(harm: object, run: Path) -> None:
    before, file = fedfm.resume(run).summary["model_digest"], weights(run)
    kept = file.read_bytes()
    harm(file)  # type: ignore[operator]
    with pytest.raises(
        ResumeError, match=rf"(?s)damaged.*model/{file.name}.*fix: delete .*model, and fedfm resume"
    ):
        fedfm.resume(run)
    shutil.rmtree(run / "model")
    assert fedfm.resume(run).summary["model_digest"] == before
    assert file.read_bytes() == kept and fedfm.resume(run).status == "finished"


@pytest.mark.parametrize("name", ["events.jsonl", "metrics.jsonl"])
@pytest.mark.parametrize("harm", [cut, flip])
def test_a_damaged_ledger_is_named(harm: object, name: str, run: Path) -> None:
    harm(run / name)  # type: ignore[operator]
    with pytest.raises(ResumeError, match=rf"(?s){name}.*restore"):
        fedfm.resume(run)


def test_a_run_of_before_there_were_seals(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    assert record.pop("seal")
    (run / "run.json").write_text(json.dumps(record))
    assert fedfm.resume(run).status == "finished"
    lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
    (run / "events.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(ResumeError, match=r"(?s)events.jsonl: it is not the ledger.*restore"):
        fedfm.resume(run)


def test_an_extended_run_has_a_seal_of_its_own(run: Path) -> None:
    assert fedfm.resume(run, rounds=3).summary["rounds"] == 3
    assert fedfm.resume(run).status == "finished"
    flip(weights(run))
    with pytest.raises(ResumeError, match="damaged"):
        fedfm.resume(run)
