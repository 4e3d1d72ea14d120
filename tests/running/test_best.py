"""The best round on rows that are not reported: a run that stops after it, the model that is kept, kills and extensions."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import fedfm
from fedfm.checks.rules import check
from fedfm.core import best
from fedfm.core.errors import ConfigError, DataError, ResumeError
from fedfm.core.federation import Federation
from fedfm.core.protocols import Aggregate, Server, State
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.personal.ifca import IFCA, ClusterMean
from fedfm.evaluation.by_party import ByParty
from fedfm.evaluation.held_out import HeldOut
from fedfm.laws.homes import pictures, quadratics
from fedfm.report.outline import chosen
from fedfm.report.rundir import read_runs
from fedfm.tasks.quadratic import Quadratics
from fedfm.trust.privacy.secure.secagg import SecAgg
from said import said
from stopping import apart, interrupted, killed

DATA = Quadratics(a=(1.0, 2.0, 4.0, 8.0, 3.0), b=(0.8, 1.0, 1.2, 1.0, 0.9), rows=4, server_rows=2)


@dataclass(frozen=True)
class Strays(Server):
    """A server that goes the wrong way from one round on."""

    after: int = 3

    def step(self, state: State, agg: Aggregate, ctx: Any) -> State:
        return {"w": state["w"] + (agg.x if ctx.round < self.after else -3 * agg.x)}


def straying(**slots: Any) -> Federation:
    evaluate = HeldOut(
        parts=2, **{k: slots.pop(k) for k in ("stop_after", "keep_best", "every") if k in slots}
    )
    return quadratics(**{"data": DATA, "server": Strays(), "rounds": 8, "evaluate": evaluate} | slots)


def lines(folder: Path) -> list[dict[str, Any]]:
    """The rounds without what a clock measured."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in ("seconds", "cpu")} for r in rows]


def same_run(a: Path, b: Path) -> None:
    """Rounds, ledger, model and what is said of them are equal."""
    one, two = (json.loads((f / "summary.json").read_text()) for f in (a, b))
    assert lines(a) == lines(b)
    for key in ("best", "stopped", "metric", "metrics", "model_digest", "ledger_digest", "status"):
        assert one[key] == two[key], key


def test_a_run_stops_after_so_many_rounds_without_a_gain(tmp_path: Path) -> None:
    result = fedfm.run(straying(stop_after=2), out=tmp_path / "run")
    rounds = lines(tmp_path / "run")
    values = {r["round"]: r["validation"]["loss"] for r in rounds}
    assert min(values, key=lambda k: values[k]) == 3 and result.summary["rounds"] == max(values) == 5
    assert result.summary["best"] == {
        "round": 3,
        "of": 5,
        "metric": "loss",
        "value": values[3],
        "kept": False,
    }
    assert "no gain for 2 rounds" in result.summary["stopped"] and result.status == "finished"
    assert result.metric["federated"] == rounds[-1]["metrics"]["loss"]  # its model is the last one
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [e["reason"] for e in events if e["kind"] == "stopped"] == [result.summary["stopped"]]


def test_the_model_of_the_best_round_is_the_runs_and_its_figures_are_that_models(tmp_path: Path) -> None:
    result = fedfm.run(straying(keep_best=True), out=tmp_path / "run")
    short = fedfm.run(straying(rounds=3), out=tmp_path / "short")  # it ends where the other was best
    assert result.summary["rounds"] == 8 and result.summary["best"]["round"] == 3
    assert result.metric["federated"] == short.metric["federated"] == result.summary["metrics"]["loss"]
    assert result.summary["model_digest"] == short.summary["model_digest"]
    (weights,), (others,) = (load_file(r.model / "model.safetensors").values() for r in (result, short))
    assert torch.equal(weights, others)
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").glob("best-*")) == [
        "best-000003.safetensors"
    ]
    (run,) = read_runs([tmp_path / "run"])
    assert chosen(run) == "The model is that of round 3 of 8, the best by loss on the validation rows."
    assert "The model is that of round 3 of 8" in (tmp_path / "run" / "report.html").read_text()


def test_validation_rows_are_the_servers_and_never_the_reported_ones(tmp_path: Path) -> None:
    data = replace(DATA, server_rows=2)
    parties = data.open(0)
    assert len(parties.server()) == 2 and len(parties.test()) == 3
    fedfm.run(straying(keep_best=True, rounds=1), out=tmp_path / "run")
    first = lines(tmp_path / "run")[0]

    def loss(rows: Any) -> float:
        return sum(r["a"] / 2 * 3 * r["b"] ** 2 for r in rows.rows) / len(rows)  # of the start, at zero

    assert math.isclose(first["validation"]["loss"], loss(parties.server()), rel_tol=1e-5)
    assert math.isclose(first["metrics"]["loss"], loss(parties.test()), rel_tol=1e-5)


@pytest.mark.parametrize("after", [1, 3, 4])
def test_a_run_that_was_killed_ends_as_one_that_was_not(after: int, tmp_path: Path) -> None:
    fed = straying(stop_after=3, keep_best=True)
    fedfm.run(fed, out=tmp_path / "whole")
    killed(fed, tmp_path / "run", after)
    fedfm.resume(tmp_path / "run", fed)
    same_run(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("name", ["freeze", "write"])
def test_a_kill_while_the_best_model_is_written_costs_a_round(name: str, tmp_path: Path) -> None:
    fed = straying(stop_after=3, keep_best=True)
    interrupted(fed, tmp_path / "run", after=2)
    fedfm.run(fed, out=tmp_path / "whole")

    def die() -> None:
        setattr(best, name, lambda *args: os._exit(9))
        fedfm.resume(tmp_path / "run", fed)

    apart(die)
    fedfm.resume(tmp_path / "run", fed)
    same_run(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize(("rounds", "every"), [(2, 1), (3, 2), (5, 2)])
def test_an_extended_run_is_the_run_of_more_rounds(rounds: int, every: int, tmp_path: Path) -> None:
    """The last round of the shorter run is scored although it is none of every second; it must decide nothing later."""
    fed = straying(keep_best=True, stop_after=4, every=every)
    fedfm.run(replace(fed, rounds=rounds), out=tmp_path / "run")
    fedfm.resume(tmp_path / "run", replace(fed, rounds=rounds), rounds=8)
    fedfm.run(fed, out=tmp_path / "whole")
    one, two = (json.loads((tmp_path / f / "summary.json").read_text()) for f in ("run", "whole"))
    for key in ("best", "stopped", "metric", "model_digest", "rounds"):
        assert one[key] == two[key], key


def test_history_and_trackers_see_the_validation_rows(tmp_path: Path) -> None:
    class Tracker:
        def __init__(self) -> None:
            self.logged: list[Any] = []

        def log(self, round: int, metrics: Any) -> None:
            self.logged.append((round, metrics["loss"], metrics["validation/loss"]))

        def close(self) -> None: ...

    tracker = Tracker()
    result = fedfm.run(straying(stop_after=2), out=tmp_path / "run", trackers=[tracker])
    told = [(r["round"], r["metrics"]["loss"], r["validation"]["loss"]) for r in lines(result.folder)]
    assert tracker.logged == told
    assert [float(v) for v in result.history["validation/loss"]] == [v for _, _, v in told]


def test_a_last_stage_that_stops_early_says_so(tmp_path: Path) -> None:
    """Rounds are numbered through: this one has seen more of them than its last stage was given."""
    fed = straying(stop_after=2, rounds=4, stages=(quadratics(data=DATA, rounds=2),))
    result = fedfm.run(fed, out=tmp_path / "run")
    assert result.summary["rounds"] == 5 and result.summary["stages"][1]["rounds"] == 3
    assert "no gain for 2 rounds" in result.summary["stopped"]
    assert "The run stopped early: no gain for 2 rounds" in (tmp_path / "run" / "report.html").read_text()
    whole = fedfm.run(replace(fed, evaluate=HeldOut(parts=2)), out=tmp_path / "whole")
    assert whole.summary["rounds"] == 6 and whole.summary["stopped"] == ""


def test_a_run_that_stopped_early_is_over(tmp_path: Path) -> None:
    fed = straying(stop_after=2)
    result = fedfm.run(fed, out=tmp_path / "run")
    before = (tmp_path / "run" / "summary.json").read_bytes()
    assert fedfm.resume(tmp_path / "run", fed).summary == result.summary
    assert (tmp_path / "run" / "summary.json").read_bytes() == before


def test_a_base_model_that_nothing_beats_is_a_finding(tmp_path: Path) -> None:
    result = fedfm.run(straying(keep_best=True, server=Strays(after=0)), out=tmp_path / "run")
    assert result.status == "finished with findings" and result.summary["best"]["round"] == 0
    assert "no round was better than the base model" in " ".join(result.reasons)


def test_how_often_it_is_scored_belongs_to_a_run_that_chooses(tmp_path: Path) -> None:
    fed = straying(keep_best=True)
    interrupted(fed, tmp_path / "run", after=2)
    text = (tmp_path / "run" / "config.yaml").read_text()
    (tmp_path / "run" / "config.yaml").write_text(text.replace("every: 1", "every: 2"))
    with pytest.raises(ResumeError, match=r"evaluate\.every"):
        fedfm.resume(tmp_path / "run", replace(fed, evaluate=replace(fed.evaluate, every=2)))


# ---- what is refused ------------------------------------------------------------------------------------------
def test_it_is_refused_without_rows_that_could_choose(tmp_path: Path) -> None:
    for setting in ({"stop_after": 2}, {"keep_best": True}):
        fed = straying(data=replace(DATA, server_rows=0), **setting)
        with pytest.raises(ConfigError, match=r"data\.server_rows"):
            fedfm.run(fed, out=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"data\.server_rows"):
        fedfm.run(pictures(evaluate=ByParty(keep_best=True), rounds=1), out=tmp_path / "run")


OWN = partial(
    quadratics, client=IFCA(local=Local(lr=0.6, steps=3, batch=2)), aggregate=ClusterMean(), rounds=6
)


def test_without_one_model_the_parties_own_validation_rows_decide(tmp_path: Path) -> None:
    data = replace(DATA, server_rows=0, own_test=0.25, own_validation=0.25)
    fed = OWN(data=data, evaluate=HeldOut(stop_after=2))
    result = fedfm.run(fed, out=tmp_path / "run")
    rounds = lines(tmp_path / "run")
    values = {r["round"]: r["validation"]["loss"] for r in rounds}
    least = min(values, key=lambda k: values[k])
    assert result.summary["rounds"] == least + 2 < 6 and result.summary["best"]["round"] == least
    with pytest.raises(DataError, match=r"data\.own_validation"):
        fedfm.run(replace(fed, data=replace(data, own_validation=0.0)), out=tmp_path / "none")
    (problem,) = check(replace(fed, evaluate=HeldOut(keep_best=True)))
    assert problem.where == "evaluate.keep_best" and "stop_after" in problem.fix


def test_rows_that_parties_keep_are_neither_trained_on_nor_reported() -> None:
    parties = replace(DATA, server_rows=0, rows=8, own_test=0.25, own_validation=0.25).open(0)
    assert [len(parties.train(i)) for i in parties.ids] == [4] * 5  # 8, without 2, without a quarter of 6
    assert all(len(parties.validation(i)) == len(parties.test(i)) == 2 for i in parties.ids)
    assert "data.own_validation" in said(lambda: DATA.open(0).validation("party-0"))


def test_under_a_protection_parties_own_rows_may_not_decide() -> None:
    data = replace(DATA, server_rows=0, own_test=0.25, own_validation=0.25)
    fed = OWN(data=data, evaluate=HeldOut(stop_after=2), uplink=SecAgg())
    assert any("validation" in p.what for p in check(fed))
    assert not any("validation" in p.what for p in check(replace(fed, evaluate=HeldOut())))
