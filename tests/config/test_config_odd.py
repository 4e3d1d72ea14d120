"""Configs that are odd in kind: tags that lie, numbers of other scripts, settings said twice, far too much of anything."""

from __future__ import annotations

from typing import Any

import pytest

import fedfm
from fedfm.config.building import TOLD
from fedfm.config.compose import Composition
from fedfm.config.configure import configure
from fedfm.config.stages import MOST
from fedfm.config.text import apply, parse
from fedfm.config.yaml import write
from fedfm.core.errors import ConfigError
from fedfm.core.federation import replace
from fedfm.laws.homes import quadratics
from fedfm.text import nearest

TAGS = (
    *("map", "seq", "set", "omap", "pairs", "timestamp", "binary", "int", "float", "bool", "null", "str"),
    *("merge", "value", "python/none", "python/tuple", "python/object/apply:os.system", "none-such"),
)
VALUES = ("abc", "[a]", "{a: b}", "''", "1_0", "'١'", "1:30", "0x", "-", "&q [*q]")
PLACES = ("client: !!{} {}", "!!{} {}", "client: {{!!{} {}: 1}}", "client: {{<<: !!{} {}}}")


def refused(what: Any, settings: Any = ()) -> ConfigError:
    with pytest.raises(ConfigError) as e:
        configure(what, settings)
    return e.value


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_on_anything_is_a_value_or_a_problem(tag: str) -> None:
    for value in VALUES:
        for place in PLACES:
            text = place.format(tag, value)
            try:
                parse(text, "config.yaml")
            except ConfigError as e:
                assert e.problems[0].where == "config.yaml"
            made = Composition({"client": {}})
            apply(made, [f"client={text.removeprefix('client: ')}"])  # the same words on a command line


@pytest.mark.parametrize(
    "text",
    [
        "client: !!map [a]",
        "client: !!set [a]",
        "client: !!int abc",
        "client: !!int 1_0",
        "client: !!float x",
        "client: !!float ''",
        "client: !!float 1_0.0",
        "client: !!timestamp 2024-01-01",
        "client: !!binary abc",
        "client: {<<: x}",
        "client: {<<: [a]}",
    ],
)
def test_tags_that_say_what_is_not_there(text: str) -> None:
    with pytest.raises(ConfigError, match=r"this is no YAML\n(.|\n)*line 1"):
        parse(text, "config.yaml")


def test_tags_of_columns() -> None:
    source = "data={name: files, path: x.csv, columns: !!map [a]}"
    assert "is no YAML value" in str(refused("quickstart", [source]))


@pytest.mark.parametrize("text", ["1_0", "١", "１０", "1_0e3"])
def test_numbers_that_only_python_reads(text: str) -> None:
    (of_float,) = refused("quickstart", {"client.lr": text}).problems
    assert "float is expected" in of_float.why and "in digits alone" in of_float.fix
    (of_int,) = refused("quickstart", {"rounds": text}).problems
    assert "int is expected" in of_int.why
    assert refused("fedavg-vision", {"data.partition": {"name": "dirichlet", "alpha": text}}).problems


def test_text_that_is_a_number_all_the_same() -> None:
    assert configure("quickstart", {"client.lr": "1e-3"}).fed.client.lr == 1e-3


def test_a_letter_of_another_script_is_named() -> None:
    assert "CYRILLIC SMALL LETTER A, no Latin letter" in nearest("fed\u0430vg", ["fedavg"])
    assert "ZERO WIDTH SPACE" in nearest("l\u200br", ["lr"])
    assert nearest("fedavgg", ["fedavg"]) == "did you mean 'fedavg'?"
    assert "CYRILLIC" in str(refused("fed\u0430vg-vision"))
    assert "CYRILLIC" in str(refused("quickstart", {"client.st\u0435ps": 1}))


@pytest.mark.parametrize(
    "said",
    [
        {"client.lr": 0.1, "client": {"lr": 0.2}},
        {"client": {"lr": 0.2}, "client.lr": 0.2},
        {"task.tuning": {"name": "lora", "r": 4}, "task": {"tuning": {"r": 8}}},
        {"task": {"tuning.r": 4, "tuning": {"r": 8}}},
        {"task.tuning": {"name": "lora", "r": 4}, "task.tuning.r": 8},
    ],
)
def test_a_setting_that_is_said_in_two_ways(said: dict[str, Any]) -> None:
    whole = {"recipe": "quickstart", **said}
    with pytest.raises(ConfigError) as e:
        parse(write(whole), "config.yaml")
    (problem,) = e.value.problems
    assert problem.what == "it is set twice" and problem.where in ("client.lr", "task.tuning.r")
    made = configure(whole)  # from Python: a whole config with a setting beside it
    assert any(n.startswith(f"{problem.where}: it is set twice") for n in made.notes)
    if "task" not in said or "tuning.r" not in said["task"]:
        assert "it is set twice" in str(refused("quickstart", said))  # as settings from Python


def test_what_only_looks_like_two() -> None:
    assert configure({"recipe": "quickstart", "client.lr": 0.1, "client": {"steps": 2}}).fed.client.lr == 0.1
    assert configure({"recipe": "quickstart", "client": "local", "client.lr": 0.1}).fed.client.lr == 0.1


@pytest.mark.parametrize(
    "much",
    [
        {f"key{i}": 1 for i in range(60_000)},
        {"client": {f"key{i}": 1 for i in range(60_000)}},
        {"uplink": [{"name": f"method{i}"} for i in range(30_000)]},
        {"stages": [{"rounds": 1}] * 5000},
        {"stages": [{"rounds": -1}] * 100},
    ],
    ids=lambda much: f"{next(iter(much))}",
)
@pytest.mark.timeout(60)
def test_far_too_much_takes_no_time(much: dict[str, Any]) -> None:
    problems = refused({"recipe": "quickstart", **much}).problems
    assert len(problems) <= TOLD + 1


def test_too_many_stages_of_objects() -> None:
    fed = replace(quadratics(), stages=(quadratics(),) * (MOST + 1))
    (problem,) = fedfm.check(fed)
    assert problem.where == "stages" and str(MOST) in problem.why
