"""A directory that holds files of two runs, or files cut short, says so: on its page, on one of several, in its status."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import fedfm
from fedfm import report
from fedfm.laws.homes import quadratics
from fedfm.report.rundir import read_runs
from fedfm.running.commands.status import status
from fedfm.tasks.quadratic import Quadratics

FILES = ("metrics.jsonl", "events.jsonl", "summary.json", "config.yaml", "run.json")
FEW = Quadratics(a=(1.0, 2.0), b=(0.0, 3.0), rows=4)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("two")
    feds = quadratics(rounds=2), quadratics(rounds=2, data=FEW)
    return tuple(fedfm.run(f, out=place / f"run-{k}").folder for k, f in enumerate(feds))  # type: ignore[return-value]


@pytest.fixture
def run(two: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(two[0], tmp_path / "run"))


def half(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) // 2]))


def empty(path: Path) -> None:
    path.write_text("")


def notes(run: Path) -> tuple[str, ...]:
    return read_runs([run])[0].notes


def test_a_whole_run_has_no_note(run: Path, two: tuple[Path, Path]) -> None:
    assert notes(run) == notes(two[1]) == () and status(run).reasons == ()
    (run / "run.json").unlink()
    assert notes(run) == ()


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_run_is_named(name: str, run: Path, two: tuple[Path, Path]) -> None:
    shutil.copy(two[1] / name, run / name)
    (said,) = notes(run)
    assert said.startswith(name) and "restore it" in said
    assert said in status(run).reasons
    report.write([run, two[1]], run / "both.html")
    page = (run / "both.html").read_text()
    assert "missing or wrong in this run" in page and name in page


@pytest.mark.parametrize("harm", [half, empty])
@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl", "config.yaml"])
def test_a_file_that_was_cut_is_named(harm: Callable[[Path], None], name: str, run: Path) -> None:
    harm(run / name)
    assert [n.split()[0] for n in notes(run)] == [name]
    assert any(r.startswith(name) for r in status(run).reasons)


@pytest.mark.parametrize("name", FILES[:-1])
def test_without_the_record_the_summary_tells(name: str, run: Path, two: tuple[Path, Path]) -> None:
    (run / "run.json").unlink()
    shutil.copy(two[1] / name, run / name)
    assert any(name in note and "restore" in note for note in notes(run))


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl", "config.yaml"])
def test_what_is_missing_is_in_the_status(name: str, run: Path) -> None:
    (run / name).unlink()
    assert f"{name} is missing" in "".join(status(run).reasons)


def test_a_run_that_goes_on_is_not_blamed(run: Path) -> None:
    record = (run / "run.json").read_text().replace('"complete": true', '"complete": false')
    (run / "run.json").write_text(record)
    half(run / "metrics.jsonl")
    assert notes(run) == ()
