"""Sizes that no network and no float32 can have: refused as settings, before anything is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fedfm
from fedfm.config.configure import configure
from fedfm.core.errors import ConfigError, FedfmError
from fedfm.core.federation import replace
from fedfm.data.digits import Digits
from fedfm.data.partition.iid import Iid
from fedfm.efficiency.training.local import Local
from fedfm.tasks.quadratic import Quadratics
from fedfm.tasks.vision.image import ImageClassification


def refused(recipe: str, *settings: str) -> str:
    with pytest.raises(ConfigError) as e:
        configure(recipe, settings)
    return str(e.value)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("task.channels=[]", "names 0 blocks"),
        ("task.channels=[-1]", r"task.channels.0: -1 is out of range"),
        ("task.channels=[8, 0]", r"task.channels.1: 0 is out of range"),
        ("task.channels=[1000000000]", "highest allowed is 8192"),
        ("task.cut=99", "cut=99 is beyond the 3 blocks"),
        ("task.cut=0", "lowest allowed is 1"),
    ],
)
def test_a_network_that_cannot_be(setting: str, said: str) -> None:
    assert said in refused("fedavg-vision", setting)


def test_many_blocks() -> None:
    assert "names 65 blocks" in refused("fedavg-vision", f"task.channels={[1] * 65}")


@pytest.mark.parametrize("channels", [(-1,), (4, 10**9)])
def test_a_network_of_an_object(channels: tuple[int, ...]) -> None:
    fed = replace(configure("fedavg-vision").fed, task=ImageClassification(channels))
    assert any(p.where.startswith("task.channels.") for p in fedfm.check(fed))
    with pytest.raises(ValueError, match="blocks"):
        ImageClassification(channels, cut=3)


@pytest.mark.parametrize("kind", ["lora", "sparse"])
def test_a_tuning_that_cannot_be(kind: str) -> None:
    assert "task.tuning.r: 1000000000 is out of range" in refused(
        "quickstart", f"task.tuning={{name: {kind}, r: 1000000000}}"
    )


def test_the_whole_front_at_the_client() -> None:
    assert (
        configure("fedavg-vision", ["task.cut=3"]).fed.task.cut == 3
    )  # the last block: the head alone is cut off


@pytest.mark.parametrize(
    "setting",
    [
        "client.lr=1e308",
        "client.weight_decay=3.5e38",
        "client.clip_grad=1e39",
        "server={name: apply, lr: 1e100}",
        "server={name: fedadam, tau: 1e100}",
        "uplink={name: gaussian, clip_norm: 1e300}",
        "aggregate.factors={'*': 1e308}",
    ],
)
def test_numbers_beyond_float32(setting: str) -> None:
    assert "1e+308 is" in (said := refused("fedavg-vision", setting)) or "float32" in said


@pytest.mark.parametrize("b", [1e39, -1e39])
def test_numbers_beyond_float32_in_a_list(b: float) -> None:
    fed = configure("fedavg-vision").fed
    assert "data.b.1" in [p.where for p in fedfm.check(replace(fed, data=Quadratics(b=(0.0, b))))]


def test_the_ends_of_float32_are_numbers() -> None:
    assert configure("fedavg-vision", ["client.lr=3.4e38"]).fed.client.lr == 3.4e38


@pytest.mark.parametrize(
    "more",
    [
        {"client.lr": 3e38},
        {"client.lr": 3e38, "client.weight_decay": 3e38},
        {"client.optimizer": "adamw", "client.momentum": 0, "client.lr": 3e38, "client.weight_decay": 3e38},
        {"client.optimizer": "adamw", "client.momentum": 0, "client.lr": 1e19, "client.weight_decay": 1e18},
        {"client": {"name": "fedsam", "rho": 1e6}},
        {"client": {"name": "fedprox", "mu": 3e38}},
    ],
    ids=str,
)
def test_what_float32_holds_is_tried_and_fails_in_words(more: dict[str, Any], tmp_path: Path) -> None:
    data = Digits(partition=Iid(2), train_rows=40, test_rows=20)
    fed = fedfm.Federation(ImageClassification((2,)), data, client=Local(steps=2), rounds=1)
    try:
        fedfm.run(fed, settings=more, out=tmp_path / "run")
    except FedfmError as e:
        assert "overflow" not in str(e)
