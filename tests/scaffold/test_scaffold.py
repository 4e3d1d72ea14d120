"""What `fedfm new` writes for any slot runs as it is, and says every fact of its base class."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

import fedfm
from fedfm import laws
from fedfm.around import KEPT
from fedfm.cli import app
from fedfm.core.federation import replace
from fedfm.core.protocols import Aggregator, Selector, Wire
from fedfm.data.digits import Digits
from fedfm.data.partition.iid import Iid
from fedfm.engines.inprocess import InProcess
from fedfm.laws.homes import quadratics
from fedfm.pace import AllArrive
from fedfm.scaffold import BODIES, hint, new, publish
from fedfm.scaffold.facts import declared, facts
from fedfm.tasks.vision.image import ImageClassification


def made(slot: str, folder: Path, name: str = "") -> Any:
    """The class that `fedfm new SLOT` wrote."""
    name = name or f"own-{slot}-thing"
    path, test = new(slot, name, folder)
    module = module_of(path)
    module_of(test).test_it_keeps_the_laws()
    return getattr(module, "".join(part.capitalize() for part in name.split("-")))


def module_of(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "slot",
    sorted(set(BODIES) - {"tuning", "data", "task", "partition", "speed", "link", "schedule", "audit"}),
)
def test_it_fills_its_slot_and_runs(slot: str, tmp_path: Path) -> None:
    spec = made(slot, tmp_path)()
    where = "uplink" if slot == "wire" else slot
    fed = quadratics(**{"engine": InProcess(), "rounds": 1, where: spec})
    if "server rows" in getattr(spec, "needs", ()):
        fed = replace(fed, data=replace(fed.data, server_rows=2))
    result = fedfm.run(fed, out=tmp_path / "run")
    assert (
        result.summary["rounds"] == 1
        and type(spec).method_name in (tmp_path / "run" / "config.yaml").read_text()
    )


def test_task_and_data_of_ones_own_run_together(tmp_path: Path) -> None:
    task, data = made("task", tmp_path), made("data", tmp_path)
    fed = fedfm.Federation(
        task=task(), data=data(), engine=InProcess(), rounds=2, client=fedfm.Local(steps=2)
    )
    result = fedfm.run(fed, out=tmp_path / "run")
    assert result.metric["federated"] is not None
    again = fedfm.run(tmp_path / "run" / "config.yaml", out=tmp_path / "again")
    assert again.summary["model_digest"] == result.summary["model_digest"]


def test_parts_of_slots_run_in_theirs(tmp_path: Path) -> None:
    speed, partition = made("speed", tmp_path)(mean_s=1.0), made("partition", tmp_path)(parties=3)
    assert fedfm.Local(schedule=made("schedule", tmp_path)()).schedule is not None
    assert made("audit", tmp_path)().run(None, None)["meaning"]
    data = Digits(train_rows=30, test_rows=10, partition=partition)
    fed = fedfm.Federation(ImageClassification(channels=(2,)), data, engine=InProcess(), rounds=1)
    fed = replace(fed, pace=AllArrive(speed=speed, links={"party-*": made("link", tmp_path)(latency_s=0.5)}))
    assert fedfm.run(fed, out=tmp_path / "run").summary["parties"].keys() == {f"party-{i}" for i in range(3)}
    assert set(data.open(0).ids) == set(Digits(train_rows=30, partition=Iid(parties=3)).open(0).ids)


@pytest.mark.parametrize("base", [Wire, Aggregator, Selector])
def test_a_template_follows_its_base(base: Any) -> None:
    """Facts are read from the class: a new one is in the next template, with its meaning."""
    known = {f.name for f in facts(base)}
    assert {"needs", "info"} <= known  # what all slots share
    for name, value in vars(base).items():
        told = not name.startswith("_") and name not in KEPT  # those speak of facts, and are none
        if told and not callable(value) and not hasattr(value, "__func__"):
            assert name in known, f"{base.__name__}.{name} is no fact of the template"
    said = {f.name: f for f in facts(base)}
    assert all(f.meaning for f in said.values() if f.default), "every fact has its comment beside it"


class Later(Wire):
    """A base of tomorrow."""

    brand_new: ClassVar[str] = "no"  # what nobody knows today

    @property
    def derived(self) -> bool:
        """Is it so?"""
        return False


def test_facts_that_the_code_sets_are_not_said_twice() -> None:
    later = type("Later", (Later,), {"__module__": "fedfm.nowhere"})
    del later
    text = declared("    linear = True\n", Wire)
    assert "    opaque = False  # no single message is readable" in text and "    linear = " not in text
    assert "# stages, a property:" in text
    Later.__module__, kept = "fedfm.of_tomorrow", Later.__module__
    try:
        sys.modules["fedfm.of_tomorrow"] = sys.modules[kept]
        assert '    brand_new = "no"  # what nobody knows today' in declared("", Later)
        assert "# derived, a property: Is it so?" in declared("", Later)
    finally:
        Later.__module__ = kept
        del sys.modules["fedfm.of_tomorrow"]


def test_what_it_writes_is_clean(tmp_path: Path) -> None:
    for slot in BODIES:
        new(slot, f"own-{slot}-thing", tmp_path)
    said = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--select", "F,E", "--line-length", "120", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stdout


def test_uplink_is_a_wire(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["new", "uplink", "own-code", "--folder", str(tmp_path)])
    assert said.exit_code == 0 and 'slot="wire"' in (tmp_path / "own_code.py").read_text()
    laws.check(module_of(tmp_path / "own_code.py").OwnCode())


def test_what_new_writes_is_known_by_name_once_installed(tmp_path: Path) -> None:
    """One project for all methods of a folder; a project that is somebody else's is left alone."""
    mine = tmp_path / "My Rules"
    mine.mkdir()
    for slot, name in (("aggregate", "one-rule"), ("wire", "two-code")):
        path = publish(name, new(slot, name, mine))
        assert path == mine / "pyproject.toml"
    found = tomllib.loads((mine / "pyproject.toml").read_text())
    assert found["project"]["name"] == "my-rules-methods"
    assert set(found["tool"]["setuptools"]["py-modules"]) == {"one_rule", "two_code"}
    assert found["project"]["entry-points"]["fedfm.methods"] == {
        "one-rule": "one_rule",
        "two-code": "two_code",
    }
    below = mine / "below"
    below.mkdir()
    paths = new("select", "three-pick", below)
    assert publish("three-pick", paths) is None and not (below / "pyproject.toml").exists()
    assert "YOUR_PACKAGE.three_pick" in hint("select", "three-pick", paths)
    (below / "pyproject.toml").write_text(theirs := "[project]\nname = 'theirs'\n")
    assert publish("three-pick", paths) is None and (below / "pyproject.toml").read_text() == theirs
    assert "fedavg uplink=two-code" in hint("wire", "two-code", paths, mine / "pyproject.toml")
