"""FedMD: parties of unlike architectures learn from what all of them say, against code written from the paper."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import fedfm
from federations import FEDERATIONS, digits
from fedfm.checks.rules import check
from fedfm.config import text
from fedfm.config.building import from_config
from fedfm.config.record import to_config
from fedfm.core.context import Terms
from fedfm.core.errors import ConfigError, DataError, FedfmError, ModelError
from fedfm.core.federation import Federation
from fedfm.core.message import Message
from fedfm.data.wordnet_topics import WordnetTopics
from fedfm.efficiency.communication.submodel.heterofl import HeteroFL
from fedfm.efficiency.computation.tuning.full import Full
from fedfm.efficiency.computation.tuning.head import Head
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.efficiency.training.personal.fedmd import FedMD, drawn
from fedfm.engines.processes import Processes
from fedfm.incentives.contribution.leave_one_out import LeaveOneOut
from fedfm.laws.homes import mixed, pictures
from fedfm.ledger.file import read
from fedfm.pace import Buffered
from fedfm.tasks.by_client import TaskByClient
from fedfm.tasks.own.module import Torch
from fedfm.tasks.quadratic import Quadratic
from fedfm.tasks.text.classify import SequenceClassification
from fedfm.tasks.vision.image import ImageClassification
from fedfm.trust.privacy.secure.secagg import SecAgg
from stopping import killed

ONE = Local(lr=0.1, steps=1, batch=0)
PAPER = {"client": FedMD(local=ONE, digest=replace(ONE, lr=0.2), rows=5), "aggregate": Mean(weights="equal")}


def tensors(rows: Any) -> tuple[Tensor, Tensor]:
    x = torch.stack([r["image"] for r in rows.rows]).float() / 127.5 - 1.0
    return x, torch.tensor([int(r["label"]) for r in rows.rows])


def stepped(net: nn.Module, loss: Any, lr: float) -> None:
    net.zero_grad()
    loss(net).backward()
    with torch.no_grad():
        for p in net.parameters():
            p -= lr * p.grad


def test_the_algorithm_of_the_paper(drive: Any) -> None:
    """Communicate, aggregate, distribute, digest (L1 on logits), revisit; three rounds hold two digests."""
    fed = mixed(rounds=3, **PAPER)
    played = drive(fed)
    parties = fed.data.open(fed.seed)
    public = tensors(parties.public())[0]
    nets = {i: fed.task.open(parties).at(i, Terms()).module for i in parties.ids}
    consensus = None
    for _ in range(3):
        said = []
        for i, net in nets.items():
            if consensus is not None:
                stepped(net, lambda f, c=consensus: (f(public) - c).abs().mean(), 0.2)
            x, y = tensors(parties.train(i))
            stepped(net, lambda f, x=x, y=y: functional.cross_entropy(f(x), y), 0.1)
            said.append(net(public).detach())
        consensus = torch.stack(said).mean(0)
    for i, net in nets.items():
        mine = played.run.engine._site.store.load(i, played.run.state.accepted[i])["client"]["w"]
        bound = fed.task.open(parties).at(i, Terms())
        bound.load(mine)
        for (name, p), q in zip(net.named_parameters(), bound.module.parameters(), strict=True):
            assert torch.allclose(p, q, atol=1e-6), (i, name)
    assert not played.failed and consensus is not None
    order = drawn(5, 5, played.run.ctx0.at(round=2))
    w = played.run.state.server["w"][:10].view(5, 2)
    assert torch.allclose(w, consensus[order], atol=1e-6)


def test_no_weight_travels(drive: Any) -> None:
    played = drive(digits(**FEDERATIONS["fedmd"]))
    up = {e["total"] for e in played.events if e["kind"] == "bytes" and e["direction"] == "up"}
    assert played.run.layout.numbers == 12 * 10 and max(up) < 12 * 10 * 4 + 300
    shapes = {
        played.run.engine._site.store.load(i, v)["client"]["w"].shape
        for i, v in played.run.state.accepted.items()
    }
    assert len(shapes) == 2


def test_the_public_rows_of_a_round_are_the_same_for_all_and_new_each_round(drive: Any) -> None:
    ctx = drive(mixed(**PAPER)).run.ctx0
    one, two = (drawn(6, 20, ctx.at(round=1, client=i)) for i in ("a", "b"))
    assert torch.equal(one, two) and len(set(one.tolist())) == 6
    assert not torch.equal(one, drawn(6, 20, ctx.at(round=2)))
    assert sorted(drawn(6, 3, ctx).tolist()) == [0, 0, 1, 1, 2, 2]  # fewer rows than asked for


# ---- what is refused ----------------------------------------------------------------------------------------------
def test_weights_and_architectures_do_not_go_together() -> None:
    rules: dict[str, Any] = FEDERATIONS["fedmd"]
    assert check(digits(**rules)) == []
    assert any("architecture of its own" in p.what for p in check(digits(**rules | {"client": Local()})))
    assert any("outputs of models" in p.what for p in check(digits(client=FedMD(), data=rules["data"])))
    assert any(p.where == "value" for p in check(digits(**rules, value=LeaveOneOut())))
    assert any("cuts sub-models" in p.what for p in check(digits(**rules, select=HeteroFL())))
    assert any(p.where == "pace" for p in check(digits(**rules, pace=Buffered(2, 4))))
    assert [p.where for p in check(digits(**rules, uplink=SecAgg()))] == [
        "evaluate"
    ]  # own scores leave in clear


def wide(outputs: int) -> Federation:
    def net() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(16, outputs))

    rules = {"party-0": Torch(net), "*": ImageClassification(channels=(2,))}
    return pictures(**PAPER | {"task": TaskByClient(rules)})


def test_unlike_widths_are_refused_before_work(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"task\.rules\.party-0: its model gives 3 class scores a row, and there are 2"
    ):
        fedfm.run(wide(3), out=tmp_path / "run")
    assert fedfm.run(wide(2), out=tmp_path / "run").summary["status"] == "finished"


def test_tasks_without_classes_and_unlike_scores_are_refused() -> None:
    parties = pictures().data.open(0)
    with pytest.raises(ModelError, match="have no classes"):
        TaskByClient({"*": Quadratic()}).open(parties)
    scored = Torch(nn.Linear, loss=functional.mse_loss)
    with pytest.raises(ModelError, match="differ in their"):
        TaskByClient({"a": ImageClassification(), "*": replace(scored, module=lambda: nn.Linear(2, 2))}).open(
            parties
        )
    with pytest.raises(ModelError, match="no party has a task"):
        TaskByClient({}).open(parties)
    with pytest.raises(ValueError, match="one list of rules"):
        TaskByClient({"*": TaskByClient({"*": Quadratic()})})
    bound = mixed().task.open(parties)
    for use in (lambda: bound.load(bound.init), bound.read, lambda: bound.encode(parties.test())):
        with pytest.raises(FedfmError, match="no one"):
            use()


def test_every_party_needs_a_pattern_and_public_rows(tmp_path: Path) -> None:
    fed = digits(**FEDERATIONS["fedmd"])
    task = TaskByClient({"party-0": ImageClassification(), "hospital-*": ImageClassification()})
    with pytest.raises(ConfigError, match="no pattern matches party-1") as e:
        fedfm.run(replace(fed, task=task), out=tmp_path / "run")
    assert "'hospital-*' matches no party" in str(e.value)
    with pytest.raises(DataError, match="public_rows"):
        fedfm.run(replace(fed, data=replace(fed.data, public_rows=0)), out=tmp_path / "run")
    with pytest.raises(DataError, match="own"):
        fedfm.run(replace(fed, data=replace(fed.data, own_test=0.0)), out=tmp_path / "run")


def test_a_config_says_it() -> None:
    fed = digits(**FEDERATIONS["fedmd"])
    assert from_config(text.parse(text.dump(to_config(fed)), "x")) == fed


# ---- a run of it --------------------------------------------------------------------------------------------------
def texts(**slots: Any) -> Federation:
    """Two architectures over the same texts; one has an adapterless head, one is trained whole."""
    rules = {
        "party-0": SequenceClassification(model="tiny-encoder", tuning=Head(), max_tokens=12),
        "*": SequenceClassification(model="tiny-encoder", tuning=Full(), max_tokens=16, pooling="cls"),
    }
    data = WordnetTopics(train_rows=100, test_rows=60, public_rows=20, own_test=0.3)
    step = Local(lr=0.05, steps=2, batch=8)
    base: dict[str, Any] = {
        "task": TaskByClient(rules),
        "data": replace(data, partition=replace(data.partition, parties=3)),
        "client": FedMD(local=step, digest=step, rows=10, transfer=2),
        "aggregate": Mean(weights="equal"),
        "rounds": 3,
    }
    return Federation(**base | slots)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fedmd") / "run"
    return Path(fedfm.run(texts(), out=out, baselines="local,pooled").folder)


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


def test_the_headline_is_the_mean_over_parties(whole: Path) -> None:
    told = summary(whole)
    own = [told["metrics"][f"accuracy/party-{k}"] for k in range(3)]
    assert told["metric"]["federated"] == pytest.approx(sum(own) / 3)
    assert (
        set(told["metric"]["local_parties"]) == {f"party-{k}" for k in range(3)}
        and told["metric"]["pooled"] is None
    )
    assert [a["parties"] for a in told["architectures"].values()] == [["party-0"], ["party-1", "party-2"]]
    assert (whole / "report.html").exists() and not (whole / "model").exists()


def test_each_party_s_model_is_left_and_asked_by_name(whole: Path, tmp_path: Path) -> None:
    from fedfm.running.commands.tuned import export, predict

    labels = predict(whole, ["a kind of tree"], "party-0"), predict(whole, ["a kind of tree"], "party-1")
    assert all(len(found) == 1 for found in labels)
    for party in (None, "party-7"):
        with pytest.raises(ModelError, match="--party party-0"):
            predict(whole, ["x"], party)
    found = export(whole, tmp_path / "one", merged=False, party="party-1")
    assert found.scores["loss"] == pytest.approx(found.reported["loss"], rel=1e-4) and not found.unscored
    assert found.scores["accuracy"] == pytest.approx(summary(whole)["metrics"]["accuracy/party-1"])


def test_one_model_needs_no_party(tmp_path: Path) -> None:
    from fedfm.running.commands.tuned import model_of

    fedfm.run(pictures(), out=tmp_path / "run")
    with pytest.raises(ModelError, match="leave --party out"):
        model_of(tmp_path / "run", "party-0")


@pytest.mark.parametrize("after", [1, 2])
def test_killed_and_resumed_it_is_the_same(after: int, whole: Path, tmp_path: Path) -> None:
    killed(texts(), tmp_path / "run", after)
    fedfm.resume(tmp_path / "run")
    same = ("model_digest", "ledger_digest", "metrics")
    assert [summary(tmp_path / "run")[k] for k in same] == [summary(whole)[k] for k in same]


def test_workers_give_the_same(whole: Path, tmp_path: Path) -> None:
    fedfm.run(texts(engine=Processes(2)), out=tmp_path / "run")
    assert summary(tmp_path / "run")["ledger_digest"] == summary(whole)["ledger_digest"]


def test_what_a_party_reaches_alone_begins_with_the_same_transfer(whole: Path) -> None:
    fed = texts()
    alone = fed.client.alone()
    assert alone.steps_for(50) == 2 and check(fed) == []
    first = [e for e in read(whole / "events.jsonl") if e["kind"] == "upload" and e["round"] == 0]
    assert len(first) == 3 and isinstance(
        fed.client.server_half().brief({"w": torch.zeros(3), "round": -1}, Terms()), Message
    )  # type: ignore[union-attr]
