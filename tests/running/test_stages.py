"""Runs of several stages: one ledger, rounds numbered through, the same bits however often they are killed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fedfm
from fedfm.checks.rules import check
from fedfm.config import text
from fedfm.config.building import from_config
from fedfm.config.configure import configure
from fedfm.config.record import to_config
from fedfm.core.books import checkpoints
from fedfm.core.errors import ConfigError, ResumeError
from fedfm.core.federation import Federation
from fedfm.core.spending import noises, planned
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.efficiency.training.personal.fedrep import FedRep
from fedfm.efficiency.training.schedule import Linear
from fedfm.engines.processes import Processes
from fedfm.evaluation.held_out import HeldOut
from fedfm.laws.homes import pictures, quadratics
from fedfm.ledger.file import read
from fedfm.running.course import stages as running_stages
from fedfm.running.execute import resume
from fedfm.running.feasible import feasible, promise
from fedfm.running.progress import Progress
from fedfm.tasks.quadratic import Quadratic
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from stopping import apart, interrupted, killed, killed_in

SGD = Local(lr=0.05, steps=2, batch=2, optimizer="sgd", momentum=0.9, keep_optimizer=True)
SLORA = [
    "rounds=2", "stages.0.rounds=2", "task.model=tiny-encoder", "stages.0.task.model=tiny-encoder",
    "data.test_rows=20", "data.train_rows=96", "client.steps=1", "stages.0.client.steps=1", "engine=inprocess",
]  # fmt: skip


def two(**slots: Any) -> Federation:
    """Two stages of two and three rounds; parties keep the moments of a stage."""
    return quadratics(stages=(quadratics(client=SGD, rounds=2),), client=SGD, rounds=3, **slots)


def ended(folder: Path) -> tuple[Any, Any]:
    summary = json.loads((folder / "summary.json").read_text())
    return summary["model_digest"], summary["ledger_digest"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(fedfm.run(two(), out=tmp_path_factory.mktemp("stages") / "whole").folder)


def test_rounds_are_numbered_through_and_a_stage_begins_where_the_last_ended(whole: Path) -> None:
    records = list(read(whole / "metrics.jsonl"))
    assert [r["round"] for r in records] == list(range(6))
    (event,) = [e for e in read(whole / "events.jsonl") if e["kind"] == "stage"]
    assert (event["stage"], event["round"], event["kept"]) == (2, 2, 1.0)
    assert event["metrics"]["loss"] == records[2]["metrics"]["loss"]
    told = json.loads((whole / "summary.json").read_text())["stages"]
    assert [(s["rounds"], s["since"]) for s in told] == [(2, 0), (3, 2)] and told[1]["end"] == records[-1][
        "metrics"
    ]["loss"]
    assert checkpoints(whole) == [4, 5]


def test_states_start_anew(tmp_path: Path) -> None:
    """Momentum of a stage is not taken into the next: from the same start a run of its own makes the same first step."""
    first = fedfm.run(quadratics(client=SGD, rounds=2), out=tmp_path / "first")
    both = fedfm.run(two(), out=tmp_path / "both")
    assert first.summary["status"] == both.summary["status"] == "finished"
    norms = [
        e["norm"]
        for e in read(tmp_path / "both" / "events.jsonl")
        if e["kind"] == "upload" and e["round"] == 2
    ]
    longer = fedfm.run(quadratics(client=SGD, rounds=3), out=tmp_path / "longer")
    kept = [
        e["norm"]
        for e in read(Path(longer.folder) / "events.jsonl")
        if e["kind"] == "upload" and e["round"] == 2
    ]
    assert norms != kept


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4])
def test_killed_in_either_stage_it_ends_in_the_same_bits(after: int, whole: Path, tmp_path: Path) -> None:
    killed(two(), tmp_path / "run", after)
    assert running_stages.standing(tmp_path / "run") == (after > 2)
    fedfm.resume(tmp_path / "run")
    assert ended(tmp_path / "run") == ended(whole)


@pytest.mark.parametrize("name", ["begin", "begun", "write"])
def test_killed_on_the_way_from_one_to_the_next(name: str, whole: Path, tmp_path: Path) -> None:
    if name == "begin":  # once while rehearsing, which must not count
        calls, real = list[int](), running_stages.begin

        def second(*args: Any) -> Any:
            calls.append(0)
            if len(calls) == 2:
                os._exit(9)
            return real(*args)

        def go() -> None:
            running_stages.begin = second  # type: ignore[assignment]
            fedfm.run(two(), out=tmp_path / "run")

        apart(go)
    else:
        killed_in(two(), tmp_path / "run", running_stages, name)
    assert running_stages.standing(tmp_path / "run") == 0
    fedfm.resume(tmp_path / "run")
    assert ended(tmp_path / "run") == ended(whole)


def test_workers_give_the_same(whole: Path, tmp_path: Path) -> None:
    fedfm.run(two(engine=Processes(2)), out=tmp_path / "run")
    assert ended(tmp_path / "run") == ended(whole)


def test_it_says_in_which_stage_it_stopped(tmp_path: Path) -> None:
    assert "3 of 5 rounds (stage 2 of 2, its round 1 of 3)" in interrupted(two(), tmp_path / "run", 3)


def test_more_rounds_are_the_last_stage_s(whole: Path, tmp_path: Path) -> None:
    fedfm.run(replace(two(), rounds=1), out=tmp_path / "run")
    fedfm.resume(tmp_path / "run", rounds=5)
    assert ended(tmp_path / "run") == ended(whole)
    with pytest.raises(ConfigError, match="end before the last stage begins"):
        fedfm.resume(tmp_path / "run", rounds=1)
    with pytest.raises(ResumeError, match="not fewer"):
        fedfm.resume(tmp_path / "run", rounds=3)


def test_what_is_said_of_rounds_counts_those_of_the_stages_before(tmp_path: Path) -> None:
    said: list[str] = []
    heard = Progress()
    heard.tell = said.append  # type: ignore[method-assign]
    fed = replace(two(), rounds=1)
    killed(fed, tmp_path / "run", 2)
    resume(tmp_path / "run", fed, progress=heard)
    resume(tmp_path / "run", fed, rounds=4, progress=heard)
    assert not [t for t in said if "extends it" in t]
    resume(tmp_path / "run", two(), progress=heard)  # which is done already
    killed(fed, tmp_path / "other", 2)
    resume(tmp_path / "other", two(), progress=heard)
    assert said[-1] == "this run is of 3 rounds, the federation says 5: rounds=5 extends it"


def test_a_stage_s_own_schedule(tmp_path: Path) -> None:
    """Each stage passes through its own rates: with Linear the first round of each is at the full one."""
    steps = Local(lr=0.05, steps=1, batch=0, schedule=Linear())
    fed = quadratics(client=steps, rounds=2, stages=(quadratics(client=steps, rounds=2),))
    fedfm.run(fed, out=tmp_path / "run")
    sizes = [
        e["norm"]
        for e in read(tmp_path / "run" / "events.jsonl")
        if e["kind"] == "upload" and e["client"] == "party-3"
    ]
    assert sizes[2] > sizes[1]  # the rate jumps up again


# ---- configs ------------------------------------------------------------------------------------------------------
def test_a_config_says_it_and_is_the_same_federation() -> None:
    fed = two()
    config = to_config(fed)
    assert set(config["stages"][0]) & {"data", "seed", "engine", "threads", "device", "stages"} == set()
    assert from_config(text.parse(text.dump(config), "x")) == fed
    assert "stages" not in to_config(quadratics())


def test_a_stage_names_only_what_it_does_otherwise() -> None:
    rest = to_config(quadratics())
    fed = from_config(rest | {"stages": [{"rounds": 7, "client.lr": 0.5}, {"client": {"name": "fedprox"}}]})
    assert (fed.stages[0].rounds, fed.stages[0].client.lr, fed.stages[0].client.batch) == (7, 0.5, 2)  # type: ignore[attr-defined]
    assert fed.stages[1].rounds == fed.rounds == 2 and fed.since == 9 and fed.last == 11
    for bad, why in (
        ({"seed": 1}, "has no seed of its own"),
        ({"stages": []}, "no stages"),
        ({"lr": 1}, "unknown key 'lr'"),
    ):
        with pytest.raises(ConfigError, match=why):
            from_config(rest | {"stages": [bad]})
    with pytest.raises(ConfigError):
        from_config(rest | {"stages": {"rounds": 1}})


def test_a_list_of_federations_is_a_run_of_stages(whole: Path, tmp_path: Path) -> None:
    first, last = quadratics(client=SGD, rounds=2), quadratics(client=SGD, rounds=3)
    fedfm.run([first, last], out=tmp_path / "run")
    assert ended(tmp_path / "run") == ended(whole)
    with pytest.raises(ConfigError, match="another seed"):
        fedfm.run([replace(first, seed=1), last])


def test_what_has_no_way_to_the_next_is_refused_before_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train other tensors"):
        fedfm.run([quadratics(), quadratics(task=Quadratic(dim=2))], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    early = replace(quadratics(), evaluate=HeldOut(stop_after=1))
    assert [p.where for p in check(quadratics(stages=(early,)))] == ["stages.0.evaluate.stop_after"]
    best = replace(quadratics(), evaluate=HeldOut(keep_best=True))
    assert [p.where for p in check(quadratics(stages=(best,)))] == ["stages.0.evaluate.keep_best"]
    personal = pictures(client=FedRep(), stages=())
    assert any(p.where == "stages.0.server" for p in check(replace(pictures(), stages=(personal,))))


# ---- privacy ------------------------------------------------------------------------------------------------------
NOISY = {"uplink": ClipNoise(0.5, 2.0), "aggregate": Mean(weights="equal")}


def test_epsilon_is_composed_over_the_stages(tmp_path: Path) -> None:
    fed = quadratics(rounds=3, stages=(quadratics(rounds=2, **NOISY),), **NOISY)
    assert check(fed) == []
    result = fedfm.run(fed, out=tmp_path / "run")
    one = fedfm.run(quadratics(rounds=5, **NOISY), out=tmp_path / "one")
    assert result.summary["privacy"]["epsilon"] == pytest.approx(one.summary["privacy"]["epsilon"])
    assert f"epsilon {one.summary['privacy']['epsilon']:.2f}" in promise(fed, 5)


def test_unlike_noise_composes_and_an_epsilon_is_the_run_s() -> None:
    strong = {**NOISY, "uplink": ClipNoise(1.5, 4.0)}
    fed = quadratics(rounds=3, stages=(quadratics(rounds=2, **strong),), **NOISY)
    assert check(fed) == []
    weaker = promise(quadratics(rounds=5, **NOISY), 5)
    assert promise(fed, 5) != weaker
    asked = {**NOISY, "uplink": ClipNoise(0.5, epsilon=4.0)}
    fed = quadratics(rounds=3, stages=(quadratics(rounds=2, **asked),), **asked)
    ready = planned(fed, 5)
    levels = {n.noise_multiplier for s in ready.each for n in noises(s)}  # type: ignore[attr-defined]
    assert check(fed) == [] and len(levels) == 1
    assert levels == {n.noise_multiplier for n in noises(planned(quadratics(rounds=5, **asked), 5))}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("first", "why"),
    [
        ({}, "do not promise the same"),
        ({**NOISY, "uplink": ClipNoise(0.5, epsilon=4.0)}, "do not add the same noise"),
    ],
)
def test_what_cannot_be_composed_is_refused(first: dict[str, Any], why: str) -> None:
    fed = quadratics(stages=(quadratics(**first),), **NOISY)
    assert any(why in p.what for p in check(fed))
    assert feasible(quadratics(stages=(quadratics(**NOISY),), **NOISY), dict.fromkeys("abcde", 4)) == []


# ---- SLoRA --------------------------------------------------------------------------------------------------------
def test_slora_runs_and_leaves_an_adapter(tmp_path: Path) -> None:
    result = fedfm.run("slora", settings=SLORA, out=tmp_path / "run")
    first, second = result.summary["stages"]
    assert (first["tuning"], second["tuning"]) == ("sparse", "lora") and 0.0 < second["kept"] < 1.0
    assert (tmp_path / "run" / "model" / "adapter_config.json").exists()
    up = {
        e["round"]: e["stages"]["raw"]
        for e in read(tmp_path / "run" / "events.jsonl")
        if e["kind"] == "bytes" and e["direction"] == "up"
    }
    assert up[0] == 4 * (
        4 * 8 * 64 + 10 * 32 + 16
    )  # r (in + out) values of four layers, and the head, padded
    assert "stage 2" in (tmp_path / "run" / "report.html").read_text().lower()
    killed("slora", tmp_path / "again", 1, settings=SLORA)
    fedfm.resume(tmp_path / "again")
    assert ended(tmp_path / "again") == ended(tmp_path / "run")


def test_the_base_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="other base models"):
        fedfm.run(
            "slora", settings=[s for s in SLORA if s != "task.model=tiny-encoder"], out=tmp_path / "run"
        )


def test_bits_of_the_start_are_kept(tmp_path: Path) -> None:
    fedfm.run("slora", settings=SLORA, out=tmp_path / "run")
    start = tmp_path / "run" / "checkpoints" / "stage-1.safetensors"
    assert start.is_file() and torch.isfinite(running_stages.thaw(start)["start"]).all()


def test_a_setting_beside_the_stages_says_which_of_them_it_leaves_as_they_were() -> None:
    def notes(what: Any, *settings: str) -> list[str]:
        return [n.partition(" is for")[0] + n.partition(";")[2] for n in configure(what, settings).notes]

    left = ["task.max_tokens=99 stages.0.task.max_tokens stays 24, until it is set too"]
    assert notes("slora", "task.max_tokens=99", "seed=3", "rounds=9") == left
    assert notes({"recipe": "slora", "task": {"max_tokens": 99}}) == left
    assert notes("slora", "task.max_tokens=99", "stages.0.task.max_tokens=99") == []
    assert notes("slora", "task.tuning.r=3") == notes("slora") == []  # the stages differ there anyway
    assert notes(two(), "client.lr=0.5", "aggregate.weights=equal") == [
        "client.lr=0.5 stages.0.client.lr stays 0.05, until it is set too",
        "aggregate.weights=equal stages.0.aggregate.weights stays examples, until it is set too",
    ]


@pytest.mark.parametrize("stages", [1, "x", (1,), [{"rounds": 1}]], ids=repr)
def test_stages_that_are_no_federations_are_refused(stages: Any) -> None:
    with pytest.raises(ConfigError, match="is no list of federations"):
        quadratics(stages=stages)
