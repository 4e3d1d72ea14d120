"""`engine=ray` on a stand-in for the library: the same bits, who gets which job, and what is refused before work."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fedfm
from federations import FEDERATIONS, SECURE, SGD, digits
from fedfm.config.configure import configure
from fedfm.config.record import to_config
from fedfm.core.errors import ConfigError, FedfmError, MachineFault, MissingExtra
from fedfm.core.job import Job
from fedfm.core.message import nothing
from fedfm.data.digits import Digits
from fedfm.data.source import Parties
from fedfm.efficiency.training.scaffold import Scaffold
from fedfm.engines import actor, carried
from fedfm.engines.ray import DEPTH, Ray
from fedfm.laws.homes import quadratics
from fedfm.tasks.quadratic import Quadratics
from ray_here import Here

Stand = Callable[..., Here]
ALL = {**FEDERATIONS, **SECURE}
SOME = [
    *("fedavg", "scaffold", "feedback, quantised", "fedmd", "buffered, feedback", "personal, by party"),
    *("split", "stages", "secure", "secure, two phases"),
]


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Stand:
    """`stand(cores=2, dies={})` puts the stand-in into the library's place."""
    monkeypatch.setattr(actor, "carry", lambda given: None)  # this process has the modules

    def put(*given: Any, **more: Any) -> Here:
        here = Here(*given, **more)
        monkeypatch.setitem(sys.modules, "ray", here)
        return here

    return put


@pytest.mark.parametrize("name", SOME)
def test_the_bits_of_one_process(name: str, stand: Stand, drive: Any) -> None:
    here = stand()
    fed = digits(**ALL[name])
    one, two = drive(fed, workers=0), drive(fed, engine=Ray(2))
    assert torch.equal(one.model, two.model) and one.digest == two.digest
    assert {number for number, *_ in here.told} >= {0, 1} and set(here.killed) == set(range(here.made))


def test_a_state_travels_with_its_job_and_a_brief_once(stand: Stand, drive: Any, tmp_path: Path) -> None:
    here = stand()
    played = drive(digits(client=Scaffold(SGD)), engine=Ray(2), folder=tmp_path)
    begun = [(n, json.loads(head), brief, state) for n, head, brief, state in here.told]
    trained = [t for t in begun if t[1]["do"] == "start" and t[1]["job"]["kind"] == "train"]
    assert [t[3] is not None for t in trained] == [t[1]["job"]["base"] > 0 for t in trained]
    assert any(t[3] is not None for t in trained)
    came = [(n, head["brief"]) for n, head, brief, _ in begun if head["do"] == "start" and brief is not None]
    assert len(came) == len(set(came))
    assert played.run.state.accepted and all(
        (tmp_path / "clients" / id / f"{version:08d}.safetensors").is_file()
        for id, version in played.run.state.accepted.items()
    )


def test_the_longest_is_handed_out_first(stand: Stand, drive: Any) -> None:
    """Of unequal shares, two passes over them: who has most rows begins."""
    here = stand(cores=1)
    fed = digits(client=replace(SGD, steps=None, epochs=2.0), rounds=1)
    rows = drive(fed, engine=Ray(1)).run.parties
    heads = [json.loads(head) for _, head, _, _ in here.told]
    order = [h["job"]["id"] for h in heads if h["do"] == "start" and h["job"]["kind"] == "train"]
    window = Ray(1).make().ahead
    most = sorted([rows[i] for i in list(rows)[:window]], reverse=True)
    assert [rows[i] for i in order[:DEPTH]] == most[:DEPTH] != [rows[i] for i in list(rows)[:DEPTH]]


def test_a_job_of_an_actor_that_dies_goes_to_another(stand: Stand, drive: Any) -> None:
    fed = digits(**FEDERATIONS["scaffold"])
    one = drive(fed, workers=0)
    for call in (1, 3, 6):
        here = stand(dies={1: call})
        two = drive(fed, engine=Ray(2))
        assert torch.equal(one.model, two.model) and one.digest == two.digest and 1 in here.killed


def test_when_all_die_the_run_stops_and_goes_on_elsewhere(stand: Stand, drive: Any, tmp_path: Path) -> None:
    fed = digits(**FEDERATIONS["scaffold"])
    one = drive(fed, workers=0)
    stand(dies={0: 9, 1: 9})
    with pytest.raises(MachineFault, match="all actors died.*fedfm resume"):
        drive(fed, engine=Ray(2), folder=tmp_path)
    two = drive(fed, workers=0, folder=tmp_path, resume=True)
    assert torch.equal(one.model, two.model) and one.digest == two.digest


def test_what_was_said_is_not_said_twice(stand: Stand, drive: Any, tmp_path: Path) -> None:
    """An actor dies in mid-conversation: the run stops, and goes on in one process."""
    fed = digits(**SECURE["secure"])
    stand(dies={1: 8})
    with pytest.raises(MachineFault, match="in mid-conversation(?s:.)*fedfm resume"):
        drive(fed, engine=Ray(2), folder=tmp_path)
    one, two = drive(fed, workers=0), drive(fed, workers=0, folder=tmp_path, resume=True)
    assert torch.equal(one.model, two.model) and one.digest == two.digest


def test_a_run_goes_from_engine_to_engine(stand: Stand, drive: Any, tmp_path: Path) -> None:
    stand()
    fed = digits(**FEDERATIONS["feedback, quantised"] | {"horizon": 3})
    one = drive(fed, workers=0)
    drive(replace(fed, rounds=1), engine=Ray(2), folder=tmp_path)
    drive(replace(fed, rounds=2), workers=0, folder=tmp_path, resume=True)
    two = drive(fed, engine=Ray(2), folder=tmp_path, resume=True)
    assert torch.equal(one.model, two.model) and one.digest == two.digest


def test_a_state_that_is_gone_stops_the_run(stand: Stand, drive: Any, tmp_path: Path) -> None:
    stand()
    fed = digits(client=Scaffold(SGD), rounds=2)
    drive(replace(fed, rounds=1), engine=Ray(2), folder=tmp_path)
    for path in (tmp_path / "clients" / "party-0").iterdir():
        path.unlink()
    with pytest.raises(MachineFault, match=r"party-0 is missing; restore it"):
        drive(fed, engine=Ray(2), folder=tmp_path, resume=True)


# ---- refused --------------------------------------------------------------------------------------------------
def test_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"engine=ray needs ray.*pip install 'fedfm\[ray\]'"):
        fedfm.run(quadratics(engine=Ray()), out=tmp_path / "run")


def test_more_actors_than_there_is_room_for(stand: Stand, drive: Any) -> None:
    stand(cores=2)
    with pytest.raises(
        ConfigError, match=r"3 actors are more.*\n.*it has 2 times 1 cores\n.*engine.workers=2"
    ):
        drive(quadratics(), engine=Ray(3))


@dataclass(frozen=True)
class Other(Quadratics):
    """Other rows each time that they are opened."""

    def open(self, seed: int, columns: Any = None) -> Parties:
        os.environ["OTHER"] = str(int(os.environ.get("OTHER", "0")) + 1)
        return Quadratics(a=(float(os.environ["OTHER"]), 2.0), b=(0.0, 1.0)).open(seed, columns)


def test_other_rows_on_another_machine(stand: Stand, drive: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stand()
    monkeypatch.setenv("OTHER", "0")
    with pytest.raises(FedfmError, match=r"the rows on .* is not what it is here(?s:.)*fix: the same files"):
        drive(quadratics(data=Other()), engine=Ray(2))


@pytest.mark.parametrize("what", ["torch", "processor", "the model"])
def test_another_version_processor_or_model(
    what: str, stand: Stand, drive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand()
    common, calls = actor.common, iter(range(10))
    monkeypatch.setattr(actor, "common", lambda *a: common(*a) | {what: f"number {next(calls)}"})
    with pytest.raises(FedfmError, match=f"{what} on .* is not what it is here: number 0, not number 2"):
        drive(quadratics(), engine=Ray(2))


def test_data_that_are_not_there(stand: Stand, drive: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stand()
    fed = digits()

    def missing(self: Any, *a: Any) -> Any:
        raise FileNotFoundError("/data/digits.csv")

    parties = fed.data.open(0)
    opened = iter([parties])
    monkeypatch.setattr(Digits, "open", lambda self, *a: next(opened, None) or missing(self))
    with pytest.raises(
        FedfmError, match=r"cannot open the federation: FileNotFoundError(?s:.)*same path on every"
    ):
        drive(fed, engine=Ray(2))


def test_what_cannot_be_sent(stand: Stand, drive: Any) -> None:
    stand()

    class Local(Quadratics):
        """A class that only a function knows: the stand-in cannot pickle it."""

    with pytest.raises(FedfmError, match=r"cannot be sent to other machines(?s:.)*engine=processes"):
        drive(quadratics(data=Local(a=(1.0, 2.0), b=(0.0, 1.0))), engine=Ray(2))


# ---- its parts ------------------------------------------------------------------------------------------------
def test_a_hand_holds_one_state() -> None:
    hand = actor.Hand()
    assert hand.load("a", 0) == {} and hand.save("a", 3, {"client": {}, "wire": {"_k": 1}}) == 0
    assert hand.save("a", 3, {"client": {"x": torch.ones(2)}}) == 3
    hand.came = ("a", 3, hand.leaves)
    assert torch.equal(hand.load("a", 3)["client"]["x"], torch.ones(2))
    with pytest.raises(FedfmError, match="the state 2 of a is missing"):
        hand.load("a", 2)


def test_nobody_is_due(stand: Stand, drive: Any, tmp_path: Path) -> None:
    engine = Ray(2).make()
    with pytest.raises(RuntimeError, match="nobody can have"):
        engine.next()
    engine._site = drive(quadratics(), workers=0).run  # for its lengths
    engine._site.home = engine._site
    engine.start(Job("score", "a", 1), nothing())
    engine.cancel("a", 1)
    with pytest.raises(RuntimeError, match="nobody can have"):
        engine.next()


def test_its_settings_are_spelt_like_others() -> None:
    assert to_config(Ray(4, "auto")) == {"name": "ray", "workers": 4, "address": "auto"}
    assert configure("quickstart", ["engine=ray", "engine.workers=3"]).fed.engine == Ray(3)


def test_own_modules_are_sent_as_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wide" / "deep").mkdir(parents=True)
    (tmp_path / "wide" / "deep" / "own_method.py").write_text("from own_helper import TWO\nFOUR = 2 * TWO\n")
    (tmp_path / "own_helper.py").write_text("TWO = 2\n\n\ndef fails():\n    raise ValueError('own')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("wide.deep.own_method")
    sent = carried.sources()
    assert sent["own_helper"][1].startswith("TWO") and sent["wide"] == sent["wide.deep"] == ("", "")
    assert not {"torch", "fedfm", "__main__", "json", "pytest"} & set(sent)
    monkeypatch.undo()  # where they are not found
    for name in ("own_helper", "wide.deep.own_method", "wide.deep", "wide"):
        del sys.modules[name]
    monkeypatch.setattr(sys, "meta_path", [carried.Carried(sent), *sys.meta_path])
    helper = importlib.import_module("own_helper")
    assert importlib.import_module("wide.deep.own_method").FOUR == 4
    assert helper.__file__ == str(tmp_path / "own_helper.py")
    with pytest.raises(ValueError, match="own") as caught:
        helper.fails()
    assert str(caught.traceback[-1].path) == helper.__file__
    for name in ("own_helper", "wide.deep.own_method", "wide.deep", "wide"):
        del sys.modules[name]
