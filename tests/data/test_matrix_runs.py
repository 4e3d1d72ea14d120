"""Every format with every layout, checked, inspected and run: what the same rows in JSONL give, or refused with the reason.

A sample runs always, all of it under `slow`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from bring import jsonl
from doors import DOORS, LAYOUTS, N

import architectures as arch
from fedfm.config.setup import Setup
from fedfm.core.errors import FedfmError
from fedfm.core.federation import Federation
from fedfm.data.arrays import Arrays
from fedfm.data.files import Files
from fedfm.efficiency.computation.tuning.head import Head
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.efficiency.training.local import Local
from fedfm.running.commands.checking import probe
from fedfm.running.commands.inspection import example
from fedfm.running.entry import run
from fedfm.tasks.text.causal import CausalLM
from fedfm.tasks.text.classify import SequenceClassification
from fedfm.tasks.text.preference import Preference
from fedfm.tasks.text.regress import TextRegression
from fedfm.tasks.vision.image import ImageClassification

ALL = list(product(DOORS, LAYOUTS))
SAMPLE = [
    c for i, c in enumerate(ALL) if i % 9 == 4
]  # 9 and 8 have no factor in common: every layout, most doors


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The task of each layout, on a tiny model with a token a byte, so that no letter is lost."""
    folder = tmp_path_factory.mktemp("models")
    encoder, lm = arch.encoder(folder / "encoder"), arch.decoder(folder / "lm")
    asked = CausalLM(model=lm, tuning=LoRA(r=2), score_by="loss")
    labelled = SequenceClassification(model=encoder, tuning=Head())
    return {
        "labelled": labelled,
        "named": labelled,
        "asked": asked,
        "messages": asked,
        "sharegpt": asked,
        "pairs": Preference(model=lm, tuning=LoRA(r=2)),
        "images": ImageClassification(channels=(2, 4)),
        "regression": TextRegression(model=encoder, tuning=Head()),
    }


@pytest.fixture(scope="module")
def known(tasks: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """What the rows of a layout give as JSONL, once."""
    found: dict[str, Any] = {}

    def of(layout: str) -> Any:
        if layout not in found:
            folder = tmp_path_factory.mktemp(layout)
            path = jsonl(folder / "x.jsonl", [LAYOUTS[layout][1](i) for i in range(N)])
            found[layout] = seen(tasks[layout], Files(str(path)), folder)
        return found[layout]

    return of


def seen(task: Any, data: Any, folder: Path) -> dict[str, Any]:
    """What check, inspect and run say of one federation of one party."""
    fed = Federation(task, data, client=Local(lr=0.1, steps=2, batch=4), rounds=1)
    checked = probe(Setup(fed))
    summary = run(fed, out=folder / "run").summary
    return {
        "check": (checked.rows, checked.test_rows, checked.lost, checked.remarks),
        "inspect": [example(Setup(fed), "x", k) for k in (0, 7)],
        "run": {k: summary[k] for k in ("model_digest", "metrics", "dropped", "parties", "metric")},
    }


def matches(door: str, layout: str, tasks: Any, known: Callable[[str], Any], tmp_path: Path) -> None:
    data = DOORS[door]([LAYOUTS[layout][1](i) for i in range(N)], tmp_path)
    source = Files(data) if isinstance(data, str) else Arrays({"x": data})
    if door == "arrays" and layout != "images":
        for way in (probe, lambda s: example(s, "x", 0), lambda s: run(s.fed, out=tmp_path / "run")):
            with pytest.raises(FedfmError, match="there is no column|no "):
                way(Setup(Federation(tasks[layout], source, rounds=1)))  # type: ignore[operator]
        return
    assert seen(tasks[layout], source, tmp_path) == known(layout)


@pytest.mark.parametrize(("door", "layout"), SAMPLE)
def test_some_rows(door: str, layout: str, tasks: Any, known: Callable[[str], Any], tmp_path: Path) -> None:
    matches(door, layout, tasks, known, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("door", "layout"), [c for c in ALL if c not in SAMPLE])
def test_all_rows(door: str, layout: str, tasks: Any, known: Callable[[str], Any], tmp_path: Path) -> None:
    matches(door, layout, tasks, known, tmp_path)
