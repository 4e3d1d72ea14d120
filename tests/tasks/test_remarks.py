"""What no model can be right about, and what is cut, is told over all rows that are scored: in `check` and by the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_left_out import write

import architectures as arch
from fedfm.config.setup import Setup
from fedfm.core.federation import Federation
from fedfm.data.files import Files
from fedfm.efficiency.training.local import Local
from fedfm.evaluation.held_out import HeldOut
from fedfm.running.commands.checking import probe
from fedfm.running.execute import execute
from fedfm.running.progress import Silent
from fedfm.tasks.text.causal import CausalLM
from fedfm.tasks.text.preference import Preference

LONG = "have an answer that is longer than task.max_new_tokens (8): exact is 0 for them whatever the model learns"


class Heard(Silent):
    """What a run has told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def tell(self, text: str) -> None:
        self.said.append(text)


def federation(folder: Path, task: type = CausalLM, also: Any = None, **given: Any) -> Federation:
    """Every fourth answer of the parties, and every third of the 30 test rows, has more than eight tokens."""

    def rows(n: int, each: int, who: str) -> list[dict[str, str]]:
        said = ["abcdefghijkl" if i % each == 0 else f"{i}" for i in range(n)]
        if task is Preference:
            return [{"instruction": f"{who} {i}", "chosen": a, "rejected": "z"} for i, a in enumerate(said)]
        return [{"instruction": f"{who} {i}", "answer": a} for i, a in enumerate(said)]

    for party in "ab":
        write(folder / f"d/{party}.jsonl", rows(20, 4, party))
    write(folder / "t/t.jsonl", rows(30, 3, "t"))
    made = task(model=arch.decoder(folder / "m"), template="plain", **given)
    data = Files(str(folder / "d"), test_path=str(folder / "t/t.jsonl"))
    return Federation(made, data, client=Local(steps=1, batch=2), rounds=1, **(also or {}))


def test_the_share_of_test_answers_that_are_too_long_is_told_by_check_and_run(tmp_path: Path) -> None:
    fed, heard = federation(tmp_path, max_new_tokens=8), Heard()
    (said,) = probe(Setup(fed)).remarks
    assert said.startswith(f"10 of 30 test texts {LONG}")
    execute(fed, tmp_path / "run", baselines="none", progress=heard)
    assert said in heard.said


@pytest.mark.parametrize(
    ("task", "given"),
    [
        (CausalLM, {"max_new_tokens": 13}),
        (CausalLM, {"max_new_tokens": 8, "score_by": "loss"}),
        (Preference, {"max_new_tokens": 8}),
    ],
)
def test_it_is_told_only_where_answers_are_generated(tmp_path: Path, task: type, given: Any) -> None:
    assert not probe(Setup(federation(tmp_path, task, **given))).remarks


def test_rows_that_find_the_best_round_too(tmp_path: Path) -> None:
    fed = federation(tmp_path, max_new_tokens=8, also={"evaluate": HeldOut(keep_best=True)})
    fed = replace(fed, data=Files(str(tmp_path / "d"), server_rows=4))
    said = probe(Setup(fed)).remarks
    assert any("test texts " + LONG in s for s in said)
    assert any("texts of the server's own " + LONG in s for s in said)


def test_test_texts_that_are_cut_are_told_beside_training_texts(tmp_path: Path) -> None:
    fed, heard = federation(tmp_path, max_tokens=34, max_new_tokens=8), Heard()
    execute(fed, tmp_path / "run", baselines="none", progress=heard)
    for split, n in (("training", "10 of 40"), ("test", "10 of 30")):
        assert f"{n} {split} texts are longer than task.max_tokens (34) and are cut" in heard.said
