"""What a misplaced, misspelt or misformed setting is told: the whole path, the other task, the form that is read."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from fedfm.config.building import build, examine
from fedfm.config.configure import configure
from fedfm.core.errors import ConfigError, Problem
from fedfm.efficiency.training.mean import Mean
from fedfm.efficiency.training.schedule import Linear


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("tuning.targets=[q]", "did you mean 'task.tuning.targets'?"),
        ("lr=3", "did you mean 'client.lr'?"),
        ("client.tuning.r=2", "did you mean 'task.tuning.r'?"),
        ("clinet.lr=0.1", "did you mean 'client'"),
        ("client.momentun=0.1", "did you mean 'momentum'"),
        ("partition.parties=3", "did you mean 'data.partition.parties'?"),
        ("data.path=x.csv", "files has it: set data=files"),
        ("select.count=3", "uniform"),
    ],
)
def test_a_misplaced_key_is_told_its_whole_path(setting: str, words: str) -> None:
    with pytest.raises(ConfigError) as e:
        configure("quickstart", [setting])
    assert words in str(e.value), e.value


def test_another_task_is_named_only_if_it_reads_what_is_there() -> None:
    with pytest.raises(ConfigError) as e:
        configure("fedavg-vision", ["task.model=dinov2-s"])
    assert "set task=vision-classification" in str(e.value) and "causal-lm" not in str(e.value)
    with pytest.raises(ConfigError, match="preference has it: set task=preference"):
        configure("fedit", ["task.beta=2"])


def test_a_path_where_data_stand_is_told_its_setting() -> None:
    with pytest.raises(ConfigError, match="data=files data.path=my/rows.csv"):
        configure("quickstart", ["data=my/rows.csv"])


@pytest.mark.parametrize(
    ("hint", "given", "made"),
    [
        (tuple, [1, 2], (1, 2)),
        (list, [1, 2], [1, 2]),
        (dict, {"a": 1}, {"a": 1}),
        (Sequence, [1], (1,)),
        (list[int], [1], [1]),
        (list[float] | None, [1], [1.0]),
        (dict[str, float] | None, {"a": 1}, {"a": 1.0}),
        (tuple[int, str], [1, "a"], (1, "a")),
    ],
)
def test_a_field_of_any_container_takes_its_values(hint: Any, given: Any, made: Any) -> None:
    """A bare `tuple` on a field of an own method was taken for the class of a method: "[1, 2] names no method"."""
    problems: list[Problem] = []
    found = build(hint, given, "client.many", problems)
    assert found == made and type(found) is type(made) and not problems
    if hint in (list[int], tuple[int, str]):
        build(hint, ["x"] * len(given), "client.many", problems)
        assert [p.where for p in problems] == ["client.many.0"]


def test_a_factor_beyond_all_sums_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"the factor of 'party-0' is 1e\+30: give a number from 0 to 1e\+06"
    ):
        configure("quickstart", ["aggregate.factors={party-0: 1e30}"])


def test_a_misplaced_option_of_the_command_is_told_how_settings_are_written() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "fedfm", "run", "quickstart", "--lr", "3"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 2 and "client.lr=3" in said.stderr and "Traceback" not in said.stderr


@pytest.mark.parametrize(
    "setting, fix",
    [
        ("baselines=none", "--baselines on the command line, or baselines= of fedfm.run"),
        ("keep-rounds=1", "--keep-rounds on the command line, or keep_rounds= of fedfm.run"),
        ("tracker=mlflow", "--tracker on the command line, or trackers= of fedfm.run"),
        ("repeats=3", "--repeats on the command line"),
    ],
)
def test_an_option_written_as_a_setting_is_told_where_it_belongs(setting: str, fix: str) -> None:
    with pytest.raises(ConfigError) as e:
        configure("quickstart", [setting])
    (problem,) = e.value.problems
    assert problem.fix == fix and "did you mean" not in problem.why


def test_a_field_of_that_name_inside_a_slot_keeps_its_own_hint() -> None:
    with pytest.raises(ConfigError) as e:
        configure("quickstart", ["client.out=3"])
    assert "command line" not in e.value.problems[0].fix


@pytest.mark.parametrize(
    ("given", "fix"),
    [
        ("data.labels=a,b", "a list: 'data.labels=[a, b]'"),
        ('data.labels=\'["a", "b"]\'', "a list: 'data.labels=[a, b]'"),
        ("data.labels=a", "a list: 'data.labels=[a]'"),
        ("client.batch=64.0", "client.batch=64"),
        ("client.batch=6.5", "give int (examples a step; 0: all that the party holds)"),
        ("client.schedule.warmup=0.1", "give int (rounds in which the rate climbs to its full value)"),
        (
            "client.schedule={name: linear, warmup: ten}",
            "give int (rounds in which the rate climbs to its full value)",
        ),
        ("rounds=0.5", "give int (rounds to run)"),
    ],
)
def test_a_value_of_another_form_is_told_how_it_is_written(given: str, fix: str) -> None:
    with pytest.raises(ConfigError) as e:
        configure("quickstart", ["data=files", "data.path=x", given])
    assert fix in [p.fix for p in e.value.problems]


@pytest.mark.parametrize(
    ("recipe", "setting", "inside"),
    [
        ("fedmd", "task.max_tokens=32", "task.rules.*.max_tokens"),
        ("fedprox", "client.lr=0.1", "client.local.lr"),
        ("sparse", "uplink.0.fraction=0.1", "uplink.0.inner.fraction"),
    ],
)
def test_a_setting_that_lies_deeper_is_found(recipe: str, setting: str, inside: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"did you mean '{inside}'")):
        configure(recipe, setting)
    configure(recipe, f"{inside}={setting.partition('=')[2]}")


@pytest.mark.parametrize(
    ("setting", "where", "why"),
    [
        ("aggregate.factors={a: -1.0}", "aggregate", "the factor of 'a' is -1.0: give a number from 0"),
        (
            "client={name: fednova, local: {name: local, optimizer: adamw}}",
            "client",
            "FedNova needs fresh sgd",
        ),
        (
            "select={name: proportional-share, cost_low: 3.0, cost_high: 2.0}",
            "select",
            "cost_high is 2.0, below",
        ),
    ],
)
def test_what_a_class_says_against_its_values_is_the_why(setting: str, where: str, why: str) -> None:
    with pytest.raises(ConfigError) as e:
        configure("fedavg", setting)
    (problem,) = e.value.problems
    assert problem.where == where and problem.what.endswith("does not take these values")
    assert problem.why.startswith(why)


@pytest.mark.parametrize("factor", ["x", float("nan"), None])
def test_a_factor_is_a_number(factor: Any) -> None:
    with pytest.raises(ValueError, match="the factor of 'a' is .*: give a number from 0"):
        Mean(factors={"a": factor})


@pytest.mark.parametrize(
    "key",
    [
        "client.warmup_steps",
        "client.warmup_ratio",
        "client.num_warmup_steps",
        "client.schedule.warmup_epochs",
        "warmup_steps",
    ],
)
def test_a_key_with_another_tools_unit_is_told_the_setting_and_its_own_unit(key: str) -> None:
    """It was told "did you mean 'steps'?", which is another thing."""
    with pytest.raises(ConfigError) as e:
        configure("quickstart", [f"{key}=10"])
    (problem,) = e.value.problems
    assert "'client.schedule.warmup'" in problem.why and "rounds in which the rate climbs" in problem.fix
    for fix in problem.fix.partition(" (")[0].split(", or "):
        configure("quickstart", [fix.replace("ROUNDS", "2")])
    assert "client.schedule={name: linear, warmup: ROUNDS}" in problem.fix


def test_an_object_with_a_value_of_another_type_is_told_the_unit_too() -> None:
    problems: list[Problem] = []
    examine(Linear(warmup=0.1), "client.schedule", problems)  # type: ignore[arg-type]
    assert [p.fix for p in problems] == ["give int (rounds in which the rate climbs to its full value)"]


@pytest.mark.parametrize(
    "settings", [["recipe=quickstart"], ["recipe=nope"], ["recipe="], {"recipe": "fedit"}]
)
def test_a_recipe_is_no_setting_of_another(settings: Any) -> None:
    with pytest.raises(ConfigError, match=r"(?s)recipe: .*fedavg-vision already.*name the recipe first"):
        configure("fedavg-vision", settings)


def test_a_recipe_may_be_named_again() -> None:
    assert configure("fedavg-vision", ["recipe=fedavg-vision"]).recipe == "fedavg-vision"


@pytest.mark.parametrize("setting", ["client.lr=", "rounds=", "rounds=null", "data.train_rows="])
def test_nothing_behind_the_sign_is_said_so(setting: str) -> None:
    with pytest.raises(ConfigError, match="nothing is given .null, or nothing behind the =.") as e:
        configure("fedavg-vision", [setting])
    assert "NoneType" not in str(e.value)


def test_letters_that_begin_a_description_by_chance_are_no_hint() -> None:
    with pytest.raises(ConfigError, match="unknown key 'a'") as e:
        configure("fedavg-vision", ["a.b.c=1"])
    assert "did you mean" not in str(e.value)
    with pytest.raises(ConfigError, match="did you mean 'lr'"):
        configure("fedavg-vision", ["client.learning_rate=1"])
