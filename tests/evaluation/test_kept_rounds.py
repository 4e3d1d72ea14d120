"""Rounds that a run keeps for audits: their models, their messages made anew, kills, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import fedfm
from fedfm.cli import app
from fedfm.core.combine import Pipe
from fedfm.core.errors import ConfigError, FedfmError
from fedfm.core.federation import Federation
from fedfm.core.protocols import Detector
from fedfm.efficiency.communication.codec.qsgd import QSGD
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.communication.memory.ef21 import EF21
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.scaffold import Scaffold
from fedfm.laws.homes import quadratics
from fedfm.running.audits import reopened
from fedfm.running.record import kept
from fedfm.tasks.quadratic import Quadratics
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian
from fedfm.trust.privacy.secure.secagg import SecAgg
from fedfm.trust.robustness.attack.sign_flip import SignFlip
from stopping import apart, interrupted

DATA = Quadratics(a=(1.0, 2.0, 4.0), b=(0.8, 1.0, 1.2), rows=4)


def fed(**slots: Any) -> Federation:
    return quadratics(**{"data": DATA, "rounds": 4} | slots)


@dataclass(frozen=True)
class Noted(Detector):
    """Notes what the server reads, round by round."""

    seen: dict[int, dict[str, Any]] = field(default_factory=dict)

    reads = True

    def flag(self, messages: Any, state: Any, ctx: Any) -> Any:
        self.seen[ctx.round + 1] = {i: m.x.clone() for i, m in messages.items()}
        return {}, state


@pytest.mark.parametrize(
    "slots",
    [
        {},
        {"client": Scaffold(Local(lr=0.05, steps=2, batch=2))},
        {"uplink": EF21(TopK(count=1)), "downlink": EF21(TopK(count=1), whole_first=True)},
        {"uplink": QSGD(7), "adversary": SignFlip(count=1)},
        {"uplink": LocalGaussian(clip_norm=1.0, noise_multiplier=9.0)},
    ],
    ids=["plain", "states of clients", "memories of both wires", "codes and an attack", "seeded noise"],
)
def test_messages_of_a_kept_round_are_made_anew_bit_for_bit(slots: Any, tmp_path: Path) -> None:
    noted = Noted()
    fedfm.run(fed(**slots, detect=noted), out=tmp_path / "with")
    plain = fed(**slots)
    fedfm.run(plain, out=tmp_path / "run", keep_rounds=1)
    run = reopened(tmp_path / "run", plain)
    for round in (1, 2, 4):
        again = run.messages(round)
        assert again.keys() == noted.seen[round].keys()
        assert all(torch.equal(m.x, noted.seen[round][i]) for i, m in again.items())


def test_every_so_many_rounds_are_kept_with_their_models(tmp_path: Path) -> None:
    fedfm.run(fed(), out=tmp_path / "run", keep_rounds=2)
    run = reopened(tmp_path / "run", fed())
    assert sorted(run.kept) == [0, 2, 4]
    assert torch.equal(run.at(0), run.bound.init) and torch.equal(run.at(4), run.model)
    fedfm.run(fed(rounds=2), out=tmp_path / "short")
    assert torch.equal(run.at(2), reopened(tmp_path / "short", fed(rounds=2)).model)
    with pytest.raises(FedfmError, match="those of rounds 1, 3 can\n.*keep_rounds=1"):
        run.messages(2)
    for none in (0, 5):
        with pytest.raises(FedfmError, match="the run has rounds 1 to 4\n.*\n.*ask for one of these"):
            run.messages(none)


def test_what_is_kept_changes_no_bit_and_stays_although_states_are_replaced(tmp_path: Path) -> None:
    slots = {"client": Scaffold(Local(lr=0.05, steps=2, batch=2))}
    one = fedfm.run(fed(**slots), out=tmp_path / "none").summary
    two = fedfm.run(fed(**slots), out=tmp_path / "run", keep_rounds=1).summary
    for key in ("model_digest", "ledger_digest", "config_digest"):
        assert one[key] == two[key]
    early = tmp_path / "run" / "rounds" / "000001" / "clients"
    assert len(list(early.rglob("*.safetensors"))) == 3
    now = {p.name for p in (tmp_path / "run" / "clients").rglob("*.safetensors")}
    assert not now & {p.name for p in early.rglob("*.safetensors")}


@pytest.mark.parametrize("name", ["_link", "keep"])
def test_a_kill_while_a_round_is_kept_loses_none(name: str, tmp_path: Path) -> None:
    interrupted(fed(), tmp_path / "run", after=1, keep_rounds=1)

    def die() -> None:
        setattr(kept, name, lambda *args: os._exit(9))
        fedfm.resume(tmp_path / "run", fed())

    shutil.rmtree(tmp_path / "run" / "rounds" / "000001")
    apart(die)
    fedfm.resume(tmp_path / "run", fed())
    assert sorted(kept.kept(tmp_path / "run")) == [0, 1, 2, 3, 4]
    assert not list((tmp_path / "run" / "rounds").glob(".*"))


# ---- what is refused ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("uplink", "why"),
    [
        (SecAgg(), "masks"),
        (LocalGaussian(clip_norm=1.0, noise_multiplier=9.0, real_noise=True), "real"),
        (Pipe(LocalGaussian(clip_norm=1.0, noise_multiplier=9.0, real_noise=True), QSGD(7)), "real"),
    ],
)
def test_nothing_is_made_anew_under_masks_and_real_noise(uplink: Any, why: str, tmp_path: Path) -> None:
    plain = fed(uplink=uplink)
    fedfm.run(plain, out=tmp_path / "run", keep_rounds=1)
    run = reopened(tmp_path / "run", plain)
    assert run.at(2).shape == run.model.shape  # models are kept, not made anew
    with pytest.raises(FedfmError, match=why):
        run.messages(2)


def test_what_does_not_come_out_as_it_was_is_refused(tmp_path: Path) -> None:
    fedfm.run(fed(), out=tmp_path / "run", keep_rounds=1)
    run = reopened(tmp_path / "run", fed())
    lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    for k, line in enumerate(lines):
        if (e := json.loads(line))["kind"] == "upload" and e["round"] == 1 and e["client"] == "party-1":
            lines[k] = json.dumps(e | {"norm": e["norm"] * 1.01})
    (tmp_path / "run" / "events.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(FedfmError, match="party-1 is another one"):
        run.messages(2)
    assert run.messages(3)


def test_keep_rounds_is_a_number(tmp_path: Path) -> None:
    for bad in (-1, 1.5, True):
        with pytest.raises(ConfigError, match="keep_rounds"):
            fedfm.run(fed(), out=tmp_path / "run", keep_rounds=bad)  # type: ignore[arg-type]


# ---- what a person sees ---------------------------------------------------------------------------------------
def test_the_audit_is_a_call_a_command_and_a_card_of_the_page(tmp_path: Path) -> None:
    from fedfm.data.digits import Digits
    from fedfm.data.partition.iid import Iid
    from fedfm.tasks.vision.image import ImageClassification

    plan = Federation(
        ImageClassification(channels=(4, 8)),
        Digits(train_rows=20, test_rows=40, partition=Iid(parties=2)),
        client=Local(lr=0.01, steps=5, batch=10),
        rounds=2,
    )
    fedfm.run(plan, out=tmp_path / "run", keep_rounds=1)
    assert "What the model gives away" not in (tmp_path / "run" / "report.html").read_text()
    found = fedfm.audit(tmp_path / "run")
    assert [n for n in found["cases"] if "after round" in n] == [
        f"all parties, after round {k}" for k in range(3)
    ]
    assert found["cases"]["all parties, after round 2"] == found["cases"]["all parties"]
    longer = fedfm.replace(plan, rounds=7)  # the run's own number of rounds counts, as at a resume
    assert fedfm.audit(tmp_path / "run", federation=longer)["cases"] == found["cases"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "What the model gives away" in page and found["meaning"].split(":")[0][:40] in page
    done = CliRunner().invoke(app, ["audit", str(tmp_path / "run")])
    assert done.exit_code == 0 and "after round 1" in done.output


def test_an_audit_asks_the_model_of_the_best_round(tmp_path: Path) -> None:
    from fedfm.evaluation.held_out import HeldOut

    plan = fed(
        data=replace(DATA, server_rows=1),
        evaluate=HeldOut(keep_best=True),
        client=Local(lr=0.9, steps=1, batch=4),
    )
    result = fedfm.run(plan, out=tmp_path / "run", keep_rounds=1)
    k = result.summary["best"]["round"]
    run = reopened(tmp_path / "run", plan)
    assert k < 4 and torch.equal(run.model, run.at(k)) and not torch.equal(run.model, run.at(4))


def test_the_command_keeps_rounds(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    said = ["fedavg-vision", "data.train_rows=120", "data.test_rows=20", "client.steps=1", "--rounds", "2"]
    done = CliRunner().invoke(
        app, ["run", *said, "--out", str(folder), "--baselines", "none", "--keep-rounds", "2"]
    )
    assert done.exit_code == 0, done.output
    assert sorted(kept.kept(folder)) == [0, 2]
