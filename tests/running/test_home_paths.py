"""`~` is the home folder wherever a person gives a path, in Python and on the command line, and no folder of that name is made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from typer.testing import CliRunner

import fedfm
from fedfm import files, report
from fedfm.cli import app
from fedfm.config.configure import configure
from fedfm.config.places import places
from fedfm.core.errors import ConfigError
from fedfm.models import tiny
from fedfm.running.audits import audit
from fedfm.running.commands.sweep import sweep
from fedfm.running.verdict import Result
from fedfm.tasks import load_tuned


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder, here = tmp_path / "home", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(here)
    yield folder
    assert not os.path.lexists(here / "~")


def fedfm_(*args: str) -> Any:
    return CliRunner().invoke(app, args, catch_exceptions=False)


def test_every_path_of_the_command_line_is_one() -> None:
    found = set()
    for group in (app, *(g.typer_instance for g in app.registered_groups if g.typer_instance)):
        for command in group.registered_commands:
            assert command.callback is not None
            for name, hint in get_type_hints(command.callback, include_extras=True).items():
                if "pathlib" in str(hint):
                    told = [m for m in getattr(hint, "__metadata__", ()) if hasattr(m, "parser")]
                    assert [m.parser for m in told] == [files.path], (
                        f"{command.callback}: {name} needs parser=path"
                    )
                    found.add(f"{command.callback.__name__} {name}")
    assert {"run out_dir", "resume folder", "join policy", "invite folder", "export to"} <= found


def test_runs_go_home_and_are_found_there(home: Path) -> None:
    tiny("encoder", "~/m")
    small = {"task.model": "~/m", "client.steps": 1}
    made = fedfm.run("quickstart", rounds=1, out="~/runs/a", settings=small)
    assert made.folder == home / "runs/a" and (made.folder / "summary.json").is_file()
    assert load_tuned("~/runs/a/model").predict(["a word"])
    assert fedfm.resume("~/runs/a", rounds=2).folder == Result.read("~/runs/a").folder == home / "runs/a"
    assert audit("~/runs/a")
    assert report.write(["~/runs/a"], "~/page.html") == home / "page.html"
    said = fedfm_("predict", "~/runs/a", "--text", "a word")
    assert said.exit_code == 0, said.output
    assert fedfm_("status", "~/runs/a").exit_code == 0
    assert fedfm_("export", "~/runs/a", "--to=~/merged", "--merged").exit_code == 0
    assert fedfm_("report", "~/runs/a", "--to=~/r.html").exit_code == 0
    assert {"merged", "r.html", "page.html"} <= {p.name for p in home.iterdir()}


def test_a_sweep_and_a_config_lie_at_home(home: Path) -> None:
    tiny("encoder", "~/m")
    (home / "c.yaml").write_text("recipe: quickstart\ntask:\n  model: ~/m\nclient:\n  steps: 1\nrounds: 1\n")
    (point,) = sweep("~/c.yaml", ["seed=0"], out="~/s")
    assert point.folder.is_relative_to(home / "s") and (home / "s/report.html").is_file()


def test_the_place_of_no_user_is_refused_and_a_folder_of_the_name_can_be_meant(home: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no home folder is known for '~nobody-here'[\s\S]*\./~nobody-here/x"
    ):
        files.path("~nobody-here/x")
    assert files.path(files.path("./~nobody-here/x")) == Path.cwd() / "~nobody-here/x"
    assert files.path("a/~/b") == Path("a/~/b")
    Path("~nobody-here").mkdir()
    assert files.path("~nobody-here/x") == Path.cwd() / "~nobody-here/x"  # as a shell has it
    assert files.path("~") == home


def test_a_new_method_is_written_there(home: Path) -> None:
    (home / "own").mkdir()
    assert fedfm_("new", "wire", "mine-of-home", "--folder=~/own").exit_code == 0
    assert (home / "own/mine_of_home.py").is_file()


def test_every_place_that_a_config_names_holds_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("rows", "saved", "adapter"):
        Path(folder).mkdir()
    Path("rows/a.jsonl").write_text('{"text": "x", "label": "a"}\n')
    files = ["data=files", "data.path=rows/*.jsonl", "data.test_path=[rows/a.jsonl]", "data.labels=[a, b]"]
    columns = "data.columns={text: text, label: label}"
    told = {
        at: v for at, v, _ in places(configure("quickstart", [*files, columns, "task.start=adapter"]).config)
    }
    saved = {at: v for at, v, _ in places(configure("quickstart", ["data=hub", "data.dataset=saved"]).config)}
    ids = {at: v for at, v, _ in places(configure("quickstart", ["data=hub", "data.dataset=ag_news"]).config)}
    assert told["data.path"] == str(tmp_path / "rows/*.jsonl")
    assert told["data.test_path"] == [str(tmp_path / "rows/a.jsonl")]
    assert told["task.start"] == str(tmp_path / "adapter")
    assert told["task.model"] == "minilm"  # a packaged one
    assert saved["data.dataset"] == str(tmp_path / "saved")
    assert ids["data.dataset"] == "ag_news"
