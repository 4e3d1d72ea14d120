"""From a config to a finished run directory: what is refused, what is kept, and what is said of it."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import fedfm
from fedfm.cli import app
from fedfm.core.errors import ConfigError, ResumeError, RunFailed
from fedfm.core.federation import Federation
from fedfm.data.digits import Digits
from fedfm.data.files import Files
from fedfm.data.partition.iid import Iid
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.efficiency.training.local import Local
from fedfm.engines.inprocess import InProcess
from fedfm.incentives.selection.uniform import Uniform
from fedfm.models import tiny
from fedfm.pace import AllArrive, Buffered, Quorum
from fedfm.running.commands.estimate import estimate
from fedfm.running.execute import Result, configure, resume
from fedfm.running.feasible import mute
from fedfm.tasks.text.classify import SequenceClassification
from fedfm.tasks.vision.image import ImageClassification
from fedfm.trust.privacy.secure.secagg import SecAgg
from fedfm.trust.robustness.rule.krum import Krum
from fedfm.vectors.layout import Layout

OWN = '''
from dataclasses import dataclass
from fedfm.cards.registry import method
from fedfm.efficiency.training.mean import Mean

@method("my-own-mean", slot="aggregate", section="IV.A")
@dataclass(frozen=True)
class MyOwnMean(Mean):
    """The mean under another name."""
'''


@dataclass(frozen=True)
class PartOf(Local):
    """Trains everything, shares the tensors that match."""

    part: str = "*"

    def gives(self, layout: Layout) -> Layout:
        return layout.sub(self.part)[0]


def small(parties: int = 3, **slots: Any) -> Federation:
    base: dict[str, Any] = {"rounds": 2, "engine": InProcess(), "client": Local(lr=0.05, steps=1, batch=4)}
    return Federation(
        ImageClassification(),
        Digits(train_rows=60, test_rows=20, partition=Iid(parties=parties)),
        **base | slots,
    )


def test_a_method_in_a_file_of_ones_own_runs(tmp_path: Path) -> None:
    """Imported is registered: no package is needed to try a method."""
    path = tmp_path / "my_own_mean.py"
    path.write_text(OWN)
    spec = importlib.util.spec_from_file_location("my_own_mean", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules["my_own_mean"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = fedfm.run(small(aggregate=module.MyOwnMean()), out=tmp_path / "run")
    assert (
        result.summary["status"] == "finished"
        and "name: my-own-mean" in (tmp_path / "run" / "config.yaml").read_text()
    )


@pytest.mark.parametrize(
    ("slots", "where", "words"),
    [
        ({"aggregate": Krum(f=3)}, "aggregate", "krum needs 9 contributors, a round has 3 at most"),
        ({"aggregate": Krum(f=0), "select": Uniform(count=1)}, "aggregate", "uniform takes 1 of 3 parties"),
        (
            {"parties": 2, "uplink": SecAgg()},
            "uplink.0",
            "secagg needs 3 contributors, a round has 2 at most",
        ),
        (
            {"aggregate": Krum(f=0), "pace": Buffered(size=2, concurrency=3)},
            "aggregate",
            "buffered closes a round with contribution 2",
        ),
        (
            {"aggregate": Krum(f=0), "pace": Quorum(fraction=0.5, eager=True)},
            "aggregate",
            "quorum closes a round with contribution 2",
        ),
    ],
)
def test_too_few_parties_are_refused_before_a_model_is_loaded(
    slots: dict[str, Any], where: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as e:
        fedfm.run(small(**slots), out=tmp_path / "run")
    assert [p.where for p in e.value.problems] == [where] and words in str(e.value)
    assert not (tmp_path / "run").exists()  # what never began leaves nothing


def test_a_run_whose_rounds_all_failed_has_not_finished(tmp_path: Path) -> None:
    nobody = AllArrive(drop={f"party-{k}": "upload" for k in range(3)})
    with pytest.raises(RunFailed, match="every round failed") as e:
        fedfm.run(small(pace=nobody), out=tmp_path / "run")
    result = e.value.result
    assert isinstance(result, Result)
    assert result.status == "failed" and result.metric["federated"] is None and "failed" in repr(result)
    said = CliRunner().invoke(app, ["resume", str(tmp_path / "run")])
    assert said.exit_code == 1
    one = fedfm.run(
        small(pace=AllArrive(drop={"party-0": "upload", "party-1": "upload"})), out=tmp_path / "one"
    )
    assert one.status == "finished with findings"
    assert "party-0, party-1 never contributed" in one.reasons[0]


@pytest.mark.parametrize("slot", ["task", "client", "aggregate"])
def test_a_slot_without_an_identity_cannot_be_empty(slot: str) -> None:
    with pytest.raises(ConfigError, match=f"{slot}: None names no method"):
        configure("fedavg-vision", [f"{slot}=null"])


def rows(n: int, word: str) -> str:
    return "".join(
        json.dumps({"text": f"{word} number {k} " * 3, "label": str(k % 2)}) + "\n" for k in range(n)
    )


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Federation:
    """Two parties' files, named from their own folder."""
    monkeypatch.chdir(tmp_path)
    for party, word in (("a", "left"), ("b", "right")):
        (tmp_path / f"{party}.jsonl").write_text(rows(12, word))
    task = SequenceClassification(
        model=str(tiny("encoder", tmp_path / "model").relative_to(tmp_path)), tuning=LoRA(r=2), max_tokens=8
    )
    return Federation(task, Files("*.jsonl"), client=Local(steps=1, batch=2), engine=InProcess(), rounds=1)


def test_a_run_goes_on_from_any_folder(
    texts: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fedfm.run(texts, out="run")
    (tmp_path / "run" / "summary.json").unlink()  # as if it had been killed at the very end
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert resume(tmp_path / "run").summary["status"] == "finished"
    assert fedfm.tasks.load_tuned(tmp_path / "run" / "model").predict(["left number 1"])[0] in ("0", "1")  # type: ignore[attr-defined]


def test_a_packaged_model_wins_over_a_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "minilm").mkdir()
    assert configure("quickstart").config["task"]["model"] == "minilm"
    assert configure("quickstart", ["task.model=./minilm"]).config["task"]["model"] == str(
        tmp_path / "minilm"
    )


def test_a_run_does_not_go_on_with_other_data(texts: Federation, tmp_path: Path) -> None:
    fedfm.run(texts, out="run")
    (tmp_path / "run" / "summary.json").unlink()
    (tmp_path / "a.jsonl").write_text(rows(8, "left"))
    with pytest.raises(ResumeError, match="data.a: was"):
        resume(tmp_path / "run")


def test_check_says_how_many_texts_are_cut(texts: Federation) -> None:
    found = estimate(configure(texts))
    assert found["cut"] == sum(found["rows"].values()) > 0
    assert estimate(configure(texts, ["task.max_tokens=64"]))["cut"] == 0


def test_no_rounds_no_baselines(tmp_path: Path) -> None:
    result = fedfm.run(small(rounds=0), baselines="local,pooled", out=tmp_path / "run")
    assert (
        result.metric["local"] is None
        and result.metric["pooled"] is None
        and result.summary["status"] == "finished"
    )


@pytest.mark.parametrize("part", ["nothing*", ""])
def test_a_client_that_shares_nothing_is_refused(part: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sends nothing of this model"):
        fedfm.run(small(client=PartOf(lr=0.05, steps=1, batch=4, part=part)), out=tmp_path / "run")


def test_a_client_that_shares_a_part_is_not() -> None:
    layout = Layout.of({"body": (2,), "head": (3,)})
    for part, problems in (("head*", 0), ("*", 0), ("heads", 1), ("", 1)):
        site = SimpleNamespace(
            fed=small(client=PartOf(part=part)), home=SimpleNamespace(bound=SimpleNamespace(layout=layout))
        )
        assert len(mute(site)) == problems  # type: ignore[arg-type]
