"""What docs/adding.md teaches works: its blocks keep the laws and run in a federation, its tables miss no fact."""

from __future__ import annotations

import importlib.util
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import fedfm
from fedfm import laws
from fedfm.around import facts
from fedfm.cards.registry import forget, methods, name_of
from fedfm.checks.rules import check
from fedfm.core import protocols
from fedfm.data.source import Partition
from fedfm.data.splits import Source
from fedfm.laws.homes import pictures, quadratics
from fedfm.ledger.events import Event
from fedfm.models import tiny
from fedfm.tasks.quadratic import Quadratics
from fedfm.tasks.tuning import Tuning

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "adding.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"<!-- (\w+) -->\n```python\n(.*?)```", PAGE, re.S))
ROWS = Quadratics(
    a=(1.0, 2.0, 4.0, 8.0, 3.0), b=(1.0,) * 5, rows=4, server_rows=2
)  # one optimum: the server and all parties agree
Taught = Callable[[str], types.ModuleType]


@pytest.fixture
def taught(tmp_path: Path) -> Iterator[Taught]:
    """Import a block as a file of one's own; what it registers is forgotten afterwards."""
    before, modules = set(methods()), []

    def read(name: str) -> types.ModuleType:
        path = tmp_path / f"taught_{name}.py"
        path.write_text(BLOCKS[name])
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        modules.append(path.stem)
        spec.loader.exec_module(module)
        return module

    yield read
    for name in set(methods()) - before:
        forget(name)
    for name in modules:
        del sys.modules[name]


def lawful(module: types.ModuleType) -> None:
    """Every method of a block keeps the laws, with each of its examples."""
    own = [
        c
        for c in vars(module).values()
        if isinstance(c, type) and c.__module__ == module.__name__ and not issubclass(c, Event)
    ]
    assert own
    for cls in own:
        for spec in laws.examples(cls):
            laws.check(spec)


def test_every_block_is_tried() -> None:
    assert set(BLOCKS) == {"guided", "offer", "blend", "carry", "worst", "rings", "biases", "strides"}
    assert PAGE.count("```python") == len(BLOCKS)


def test_a_rule_with_rows_of_its_own(taught: Taught) -> None:
    lawful(module := taught("guided"))
    played = laws.play(quadratics(aggregate=module.GuidedMean(), data=ROWS, adversary=fedfm.SignFlip()))  # type: ignore[attr-defined]
    assert not played.failed
    assert all(0 <= e["kept"] <= 5 for e in played.events if e["kind"] == "guided")
    without = fedfm.replace(quadratics(aggregate=module.GuidedMean()), uplink=fedfm.SecAgg())  # type: ignore[attr-defined]
    assert any("reads single messages" in p.what for p in check(without))


def test_a_question_with_answers(taught: Taught) -> None:
    lawful(module := taught("offer"))
    fed = quadratics(select=module.PostedPrice())
    assert check(fed) == []
    played = laws.play(fed)
    paid = [e for e in played.events if e["kind"] == "pay"]
    assert paid and {e["amount"] for e in paid} == {0.6}
    assert laws.play(quadratics(select=module.PostedPrice(price=1.0))).records[-1]["clients"] == 5


def test_a_personal_model(taught: Taught) -> None:
    lawful(module := taught("blend"))
    data = Quadratics(a=(1.0, 10.0), b=(0.0, 1.0), rows=8, own_test=0.25)
    worst = {
        share: laws.play(quadratics(client=module.Blend(share=share), data=data, rounds=8)).records[-1][
            "metrics"
        ]
        for share in (0.0, 1.0)
    }
    assert (
        worst[1.0]["loss"] < worst[0.0]["loss"]
    )  # two optima: one model of one's own is better than one for both
    fed = quadratics(client=module.Blend(), value=fedfm.LeaveOneOut())  # type: ignore[attr-defined]
    assert any("needs one model" in p.what for p in check(fed))


def test_a_codec_with_a_memory(taught: Taught) -> None:
    lawful(module := taught("carry"))
    for slot in ("uplink", "downlink"):
        fed = quadratics(**{slot: module.Carry()}, rounds=4)
        assert check(fed) == []
        played, plain = laws.play(fed), laws.play(quadratics(rounds=4))
        assert not played.failed
        assert torch.allclose(played.model, plain.model, atol=0.02) and not torch.equal(
            played.model, plain.model
        )


def test_an_evaluator_and_a_data_set(taught: Taught) -> None:
    lawful(module := taught("worst"))
    lawful(data := taught("rings"))
    fed = quadratics(data=data.Slopes(server_rows=2), evaluate=module.WorstGroup(parts=2))
    assert check(fed) == []
    metrics = laws.play(fed).records[-1]["metrics"]
    assert metrics["loss/worst"] == max(metrics["loss/low"], metrics["loss/high"]) > metrics["loss"]


def test_an_audit(taught: Taught, tmp_path: Path) -> None:
    lawful(module := taught("strides"))
    fedfm.run(quadratics(), out=tmp_path / "run", keep_rounds=1)
    found = fedfm.audit(tmp_path / "run", module.Strides(), quadratics())
    assert list(found["cases"]) == ["rounds 0 to 1", "rounds 1 to 2"]
    assert all(case["moved"] > 0 for case in found["cases"].values())


def test_a_tuning(taught: Taught, tmp_path: Path) -> None:
    lawful(module := taught("biases"))
    fed = fedfm.recipe_of("quickstart")
    task = fedfm.replace(fed.task, model=str(tiny("encoder", tmp_path / "m")), tuning=module.Biases())
    result = fedfm.run(fedfm.replace(fed, task=task, rounds=1), out=tmp_path / "run", engine="inprocess")
    assert result.metric["federated"] is not None
    trained = fedfm.replace(fed, task=task).task.open(fed.data.open(0, task.columns)).layout
    assert all(e.name.endswith("bias") or "head" in e.name for e in trained.entries)


def test_the_tables_miss_no_slot_and_no_fact() -> None:
    table = PAGE.split("## 3.")[1].split("## 4.")[0]
    bases = [getattr(protocols, n) for n in protocols.__all__]
    slots = [
        b for b in bases if isinstance(b, type) and issubclass(b, protocols.Slot) and b is not protocols.Slot
    ]
    named = {fact for base in (*slots, Partition) for fact in facts(base)} | {"agreed", "exact_merge"}
    assert not {f for f in named if f"`{f}`" not in table}
    for base in (*slots, Source, Tuning, Partition):
        assert f"`{base.__name__}`" in PAGE, base
    assert pictures().methods().keys() - {"downlink", "uplink", "talk", "engine"} <= set(
        re.findall(r"^\| (\w+)", PAGE, re.M)
    ) | {"data"}


def test_a_new_file_tells_all_facts(tmp_path: Path) -> None:
    for base, slot in (
        ("Wire", "wire"),
        ("Selector", "select"),
        ("Aggregator", "aggregate"),
        ("Server", "server"),
    ):
        text: Any = fedfm.scaffold.new(slot, f"told-{slot}", tmp_path)[0].read_text()  # type: ignore[attr-defined]
        for fact in facts(getattr(protocols, base)):
            assert re.search(rf"^    (# )?{fact}\b", text, re.M), f"{fact} is not told to a {slot}"
    assert name_of(fedfm.TopK()) == "topk"  # type: ignore[attr-defined]
