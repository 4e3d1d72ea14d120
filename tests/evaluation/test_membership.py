"""Membership inference by the loss: closed forms, exact bounds, finished runs opened again, refusals, its laws' power."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import binomtest, mannwhitneyu
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

import fedfm
from fedfm import laws
from fedfm.cli import app
from fedfm.core.context import Ctx
from fedfm.core.errors import ConfigError, FedfmError, ResumeError
from fedfm.core.federation import Federation
from fedfm.core.protocols import Audit
from fedfm.data.arrays import Arrays
from fedfm.data.digits import Digits
from fedfm.data.files import Files
from fedfm.data.partition.iid import Iid
from fedfm.efficiency.computation.tuning.head import Head
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.personal.fedrep import FedRep
from fedfm.engines.inprocess import InProcess
from fedfm.evaluation.membership import ALL, BEFORE, LossThreshold, around, exact
from fedfm.incentives.selection.uniform import Uniform
from fedfm.models import tiny
from fedfm.running.audits import audit
from fedfm.tasks.own.module import Torch
from fedfm.tasks.text.classify import SequenceClassification
from fedfm.tasks.vision.image import ImageClassification

DATA = Digits(train_rows=20, test_rows=100, partition=Iid(parties=2))


def fed(**slots: Any) -> Federation:
    base: dict[str, Any] = {
        "task": ImageClassification(channels=(16, 32)),
        "data": DATA,
        "client": Local(lr=0.01, steps=50, batch=10, optimizer="adamw", momentum=0.0),
        "engine": InProcess(),
        "rounds": 4,
    }
    return Federation(**base | slots)


def ran(folder: Path, **slots: Any) -> Path:
    fedfm.run(fed(**slots), out=folder)
    return folder


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty rows, seen often."""
    return ran(tmp_path_factory.mktemp("audits") / "fitted")


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that never moved; one of the two parties never took part."""
    client = Local(lr=1e-12, steps=1, batch=10)
    return ran(tmp_path_factory.mktemp("audits") / "still", client=client, select=Uniform(count=1), rounds=1)


# ---- numbers --------------------------------------------------------------------------------------------------------
def test_the_numbers_are_those_of_scipy_and_scikit_learn() -> None:
    g = torch.Generator().manual_seed(0)
    members = (torch.rand(70, generator=g) * 8).round() / 8  # ties
    others = (torch.rand(130, generator=g) * 8).round() / 8 + 0.125
    found = LossThreshold(fpr=0.1).compare(members, others)
    is_member = [1] * 70 + [0] * 130
    assert found["auc"] == pytest.approx(roc_auc_score(is_member, (-torch.cat([members, others])).tolist()))
    assert found["auc"] == pytest.approx(1 - mannwhitneyu(members, others).statistic / (70 * 130))
    rates = [((members <= t).double().mean() - (others <= t).double().mean()).item() for t in members]
    assert found["advantage"] == pytest.approx(max(rates))
    assert found["fpr"] <= 0.1 and found["tpr"] == pytest.approx(
        max(
            (members <= t).double().mean().item()
            for t in [-1.0, *members.tolist(), *others.tolist()]
            if (others <= t).double().mean() <= 0.1
        )
    )


@pytest.mark.parametrize("k,n", [(0, 1), (0, 40), (3, 40), (40, 40), (1, 1), (17, 2000)])
def test_bounds_are_clopper_and_pearsons(k: int, n: int) -> None:
    for confidence in (0.9, 0.99):
        wanted = binomtest(k, n).proportion_ci(confidence, method="exact")
        assert exact(k, n, confidence) == pytest.approx([wanted.low, wanted.high], abs=1e-9)


def test_closed_forms() -> None:
    ask = LossThreshold().compare
    apart = ask(torch.tensor([0.1, 0.2]), torch.tensor([1.0, 2.0, math.inf, math.nan]))
    assert (apart["auc"], apart["advantage"], apart["tpr"], apart["fpr"]) == (1.0, 1.0, 1.0, 0.0)
    assert apart["auc_bounds"][0] < 0.5  # two rows prove nothing
    same = ask(torch.full((9,), 0.5), torch.full((7,), 0.5))
    assert (same["auc"], same["advantage"], same["tpr"], same["threshold"]) == (0.5, 0.0, 0.0, None)
    ramp = torch.arange(1000) / 1000  # losses uniform, members' on [0, 1), others' on [a, 1 + a)
    for a in (0.0, 0.25, 0.5):
        assert ask(ramp, ramp + a)["auc"] == pytest.approx(1 - (1 - a) ** 2 / 2, abs=1e-3)
        assert ask(ramp, ramp + a)["advantage"] == pytest.approx(a, abs=2e-3)
        assert ask(ramp, ramp + a)["tpr"] == pytest.approx(a + 0.01, abs=2e-3)
        low, high = around(1 - (1 - a) ** 2 / 2, 1000, 1000, 0.95)
        assert low < 1 - (1 - a) ** 2 / 2 < high and high - low < 0.06
    worse = ask(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0]))
    assert worse["auc"] == worse["advantage"] == 0.0


def test_what_the_model_before_training_tells_apart_is_not_put_down_to_training() -> None:
    ask = LossThreshold()
    near, far = torch.linspace(0, 1, 300), torch.linspace(0.5, 1.5, 300)
    small = torch.cat(
        [torch.zeros(60), torch.linspace(0.6, 1.5, 240)]
    )  # few of the members, and far below all others
    apart, same, few = ask.compare(near, far), ask.compare(near, near), ask.compare(small, near + 0.1)
    assert few["auc_bounds"][0] < 0.5 < few["tpr_bounds"][0] / few["fpr_bounds"][1]
    for found in (apart, few):  # by pairs, and by few false positives alone
        assert "gives away" in ask.meaning({ALL: found, BEFORE: same})
        assert "rows differ" in ask.meaning({ALL: found, BEFORE: found})
    assert "cannot tell" in ask.meaning({ALL: same, BEFORE: same})


def test_an_untrained_model_that_knows_the_held_out_rows_less_is_not_accused(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)

    def points(n: int, wide: float) -> tuple[Any, Any]:
        x = torch.randn(n, 4, generator=g) * wide
        return x.numpy(), (x[:, 0] > x[:, 1]).long().numpy()

    plan = fed(
        task=Torch(lambda: torch.nn.Linear(4, 2)),
        data=Arrays({"a": points(150, 0.1), "b": points(150, 0.1)}, points(300, 9.0)),
        client=Local(lr=1e-6, steps=1, batch=8),
        rounds=1,
    )
    fedfm.run(plan, out=tmp_path / "run")
    found = audit(tmp_path / "run", "loss-threshold", plan)
    assert found["cases"][ALL]["tpr_bounds"][0] > found["cases"][ALL]["fpr_bounds"][1] or (
        found["cases"][ALL]["auc_bounds"][0] > 0.5
    )
    assert "gives away" not in found["meaning"] and "says nothing about membership" in found["meaning"]


# ---- finished runs --------------------------------------------------------------------------------------------------
def test_a_model_that_learnt_by_heart_gives_its_rows_away(tmp_path: Path) -> None:
    """Labels are coins: what is known of a training row was learnt by heart, and held-out rows are guessed."""
    g = torch.Generator().manual_seed(0)

    def coins(n: int) -> list[dict[str, Any]]:
        images = torch.randint(0, 256, (n, 1, 8, 8), generator=g, dtype=torch.uint8)
        labels = torch.randint(0, 10, (n,), generator=g).tolist()
        return [{"image": x, "label": str(y)} for x, y in zip(images, labels, strict=True)]

    plan = fed(
        task=Torch(lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))),
        data=Arrays({"a": coins(20), "b": coins(20)}, coins(200)),
        client=Local(lr=0.3, steps=60, batch=0, momentum=0.9),
    )
    fedfm.run(plan, out=tmp_path / "run")
    found = audit(tmp_path / "run", "loss-threshold", plan)
    for name, members in ((ALL, 40), ("a", 20), ("b", 20)):
        case = found["cases"][name]
        assert case["members"] == members and case["others"] == 200
        assert case["auc"] > 0.95 and case["advantage"] > 0.85 and case["tpr_bounds"][0] > 0.3
    assert "gives away who was trained on, if the held-out rows are drawn like" in found["meaning"]


def test_an_audit_is_kept_and_leaves_the_run_as_it_was(fitted: Path) -> None:
    files = {
        p: p.read_bytes()
        for p in fitted.rglob("*")
        if p.is_file() and p.name not in ("audit.json", "report.html")
    }
    found = audit(fitted)
    after = {
        p: p.read_bytes()
        for p in fitted.rglob("*")
        if p.is_file() and p.name not in ("audit.json", "report.html")
    }
    assert after == files
    every = found["cases"][ALL]
    assert (
        every["auc"] > 0.65
        and every["members"] == 20
        and set(found["cases"]) == {ALL, BEFORE, "party-0", "party-1"}
    )
    assert (
        found["cases"][BEFORE]["auc_bounds"][0] < 0.5
        and "gives away who was trained on, if" in found["meaning"]
    )
    assert (
        json.loads((fitted / "audit.json").read_text())["audits"]["loss-threshold"]["cases"] == found["cases"]
    )
    assert audit(fitted, LossThreshold(fpr=0.1))["cases"][ALL]["fpr"] <= 0.1


def test_a_model_that_never_trained_gives_nothing_away(still: Path) -> None:
    found = audit(still)
    low, high = found["cases"][ALL]["auc_bounds"]
    assert low < 0.5 < high and "cannot tell them apart" in found["meaning"]
    assert found["parties_whose_work_was_not_used"] == 1 and len(found["cases"]) == 3
    assert found["cases"][BEFORE] == found["cases"][ALL]


def test_the_command_prints_a_table_and_a_sentence(fitted: Path) -> None:
    done = CliRunner().invoke(app, ["audit", str(fitted), "--audit", "{name: loss-threshold, fpr: 0.05}"])
    assert done.exit_code == 0 and "party-1" in done.output and "audit.json" in done.output
    done = CliRunner().invoke(app, ["audit", str(fitted), "--json"])
    assert json.loads(done.output)["cases"][ALL]["others"] == 100


# ---- refusals -------------------------------------------------------------------------------------------------------
def test_what_is_no_audit_is_refused(fitted: Path) -> None:
    for said, why in (
        ("krum", "cannot fill"),
        ("loss-treshold", "there is no"),
        ("{name: loss-threshold, fpr: 2}", "fpr"),
    ):
        with pytest.raises(ConfigError, match=why):
            audit(fitted, said)


def test_changed_data_are_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    lines = [json.dumps({"text": f"row {k} of many", "label": "ab"[k % 2]}) + "\n" for k in range(24)]
    file.write_text("".join(lines))
    task = SequenceClassification(model=str(tiny("encoder", tmp_path / "model")), tuning=Head())
    data = Files(str(file), partition=Iid(parties=2))
    folder = ran(tmp_path / "run", task=task, data=data, client=Local(lr=0.1, steps=2, batch=4), rounds=1)
    assert audit(folder)["cases"][ALL]["members"] > 10
    before = (folder / "audit.json").read_bytes()
    file.write_text("".join([*lines[:-1], lines[-1].replace("many", "few")]))
    with pytest.raises(ResumeError, match="(?s)cannot be audited.*data.*fix: restore what changed"):
        audit(folder)
    file.unlink()
    with pytest.raises(ResumeError, match="cannot be read again"):
        audit(folder)
    assert (folder / "audit.json").read_bytes() == before


def test_rows_in_memory_cannot_be_opened_again(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    rows = {
        i: [
            {"image": torch.randint(0, 256, (1, 8, 8), generator=g, dtype=torch.uint8), "label": "ab"[k % 2]}
            for k in range(12)
        ]
        for i in ("left", "right")
    }
    plan = fed(data=Arrays(rows), rounds=1)
    fedfm.run(plan, out=tmp_path / "run")
    with pytest.raises(ResumeError, match="objects of a Python process.*data.train"):
        audit(tmp_path / "run")
    assert audit(tmp_path / "run", "loss-threshold", plan)["cases"][ALL]["members"] > 10
    rows["left"][0]["label"] = "b"
    with pytest.raises(ResumeError, match="cannot be audited"):
        audit(tmp_path / "run", "loss-threshold", fed(data=Arrays(rows), rounds=1))


def test_a_run_without_a_single_model_and_an_unfinished_one_are_refused(tmp_path: Path) -> None:
    own = Digits(train_rows=40, test_rows=20, partition=Iid(parties=2), own_test=0.2)
    folder = ran(tmp_path / "own", client=FedRep(local=Local(lr=0.1, steps=1)), data=own, rounds=1)
    with pytest.raises(FedfmError, match="no single model"):
        audit(folder)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"complete": False}))
    with pytest.raises(ResumeError, match="not finished"):
        audit(folder)
    with pytest.raises(ResumeError, match="no run directory"):
        audit(tmp_path)
    assert not (tmp_path / ".lock").exists()


def test_an_audit_of_rounds_needs_their_models(fitted: Path) -> None:
    with pytest.raises(FedfmError, match="this run kept none\n.*keep_rounds=1"):
        audit(fitted, Rounds())


# ---- the laws can be broken -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Rounds(Audit):
    """Asks for all rounds."""

    needs_rounds = True


@dataclass(frozen=True)
class Careless(Audit):
    """Writes into the folder, draws from the global stream, and finds an infinity."""

    def run(self, opened: Any, ctx: Ctx) -> dict[str, Any]:
        (opened.folder / "config.yaml").write_text("rounds: 2\n")
        torch.rand(1)
        return {"meaning": "no sentence", "cases": {"all": {"auc": math.inf}}}


def test_a_broken_audit_breaks_its_laws() -> None:
    found = {law.name: law.broken(Careless()) for law in laws.laws_of(Careless()) if law.protocol is Audit}
    assert len(found) == 2 and all(found.values())
    assert "folder" in found["an audit is pure"]
