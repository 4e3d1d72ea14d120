"""The model of a run, asked or handed on: one that is not the run's is said to be another, before a score is blamed."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest

import fedfm
from fedfm.core.errors import ModelError
from fedfm.core.federation import Federation, replace
from fedfm.data.arrays import Arrays
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.efficiency.training.local import Local
from fedfm.models import tiny
from fedfm.running.commands.tuned import _apart, export, predict
from fedfm.tasks.text.causal import CausalLM


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("two")
    base = str(tiny("causal-lm", place / "base"))
    rows = [{"instruction": f"say {i}", "answer": f"{i}"} for i in range(8)]
    fed = Federation(
        task=CausalLM(model=base, tuning=LoRA(), max_tokens=32),
        data=Arrays({"p": rows[:4], "q": rows[4:]}, rows),
        client=Local(lr=0.5, steps=4, batch=4),
    )
    feds = fed, replace(fed, client=Local(lr=0.1, steps=4, batch=4))
    return [
        fedfm.run(f, rounds=1, out=place / f"run-{k}", engine="inprocess").folder for k, f in enumerate(feds)
    ]


def test_the_model_of_another_run_answers_with_a_warning(two: list[Path], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        predict(two[0], ["say 1"])
    run = Path(shutil.copytree(two[0], tmp_path / "run"))
    shutil.rmtree(run / "model")
    shutil.copytree(two[1] / "model", run / "model")
    with pytest.warns(UserWarning, match="model/.* not those that the run wrote.*not those of the model"):
        predict(run, ["say 1"])
    predict(run / "model", ["say 1"])


@pytest.mark.parametrize("merged", [False, True])
def test_an_edited_config_is_named_where_it_lies(merged: bool, two: list[Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(two[0], tmp_path / "run"))
    config = run / "model/adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 5000.0}))
    with pytest.raises(ModelError) as e:
        export(run, None, merged=merged)
    assert str(e.value).startswith(f"{config} has changed")
    assert "why: model/adapter_config.json" in _apart(run, merged) and "restore it" in _apart(run, merged)
    assert "merging changed it" in _apart(two[0], True) and "merging" not in _apart(two[0], False)
    assert not (run / "export").exists() and not (run / "merged").exists()
