"""Every slot, in this process and in two workers: the same model to the last bit, and the same ledger."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from federations import FEDERATIONS, SECURE, SLOW, digits
from fedfm.checks.rules import check
from fedfm.core.combine import Pipe
from fedfm.core.context import Ctx
from fedfm.core.federation import Federation
from fedfm.core.message import Message
from fedfm.core.protocols import Bound, Client, State
from fedfm.data.source import Parties, Shard
from fedfm.efficiency.communication.codec.randk import RandK
from fedfm.efficiency.computation.split.splitfed import SplitFed, SplitFedServer
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.lora_exact import FedExLoRA
from fedfm.efficiency.training.servers import Apply
from fedfm.laws.compare import near
from fedfm.laws.homes import Played, pictures, quadratics
from fedfm.models import tiny
from fedfm.pace import AllArrive, Quorum
from fedfm.tasks.text.classify import SequenceClassification
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.secure.secagg import SecAgg
from fedfm.trust.robustness.attack.label_flip import LabelFlip


def twice(drive: Any, fed: Federation) -> Played:
    """Run on both engines, compare, return one."""
    assert check(fed) == []
    one, two = drive(fed, workers=0), drive(fed, workers=2)
    assert torch.equal(one.model, two.model), (
        f"models differ by {float((one.model - two.model).abs().max()):g}"
    )
    unlike = [
        (a, b) for a, b in zip(one.events, two.events, strict=True) if a != b and a["kind"] != "seconds"
    ]
    assert not unlike and one.digest == two.digest, unlike[:3]
    clockless = [
        [{k: v for k, v in r.items() if k not in ("seconds", "cpu")} for r in p.records] for p in (one, two)
    ]
    assert clockless[0] == clockless[1]
    assert not one.run.hub.live or fed.pace.late == "keep"
    return one


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", FEDERATIONS)
def test_workers_change_nothing(name: str, drive: Any) -> None:
    played = twice(drive, digits(**FEDERATIONS[name]))
    assert len(played.records) == played.run.fed.last + 1
    moved = not torch.equal(played.model, played.run.bound.init)
    assert moved == any(not r.get("failed", "round 0") for r in played.records), played.failed
    errors = [e for e in played.events if e["kind"] == "failed" and "simulated" not in e["error"]]
    assert not errors, errors


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", [n for n in SECURE if n != "secure, below"])
def test_secure_sums_are_the_same_with_fresh_secrets(name: str, drive: Any) -> None:
    """Keys and masks differ from run to run, the sum does not; and it is the sum of who uploaded, to fixed point."""
    slots = SECURE[name]
    played = twice(drive, digits(**slots))
    assert not played.failed, played.failed
    stages = getattr(slots["uplink"], "stages", (slots["uplink"],))
    plain = drive(
        digits(**slots | {"uplink": Pipe(*(s for s in stages if isinstance(s, RandK | ClipNoise)))})
    )
    dropped = {
        e["client"] for e in played.events if e["kind"] == "dropout" and e["phase"] in ("keys", "shares")
    }
    if not dropped:  # without secure aggregation those have no phase to drop out before
        counts = [r.get("clients") for r in played.records]
        if "unmask" not in name:
            assert counts == [r.get("clients") for r in plain.records] and near(
                played.model, plain.model, rtol=1e-5
            )
    else:
        assert all(
            r["clients"] == len(played.run.parties) - len(slots["pace"].drop) for r in played.records[1:]
        )


def test_below_the_threshold_every_round_fails_and_nothing_moves(drive: Any) -> None:
    played = twice(drive, digits(**SECURE["secure, below"]))
    assert len(played.failed) == 3 and all("secagg" in why for why in played.failed)
    assert torch.equal(played.model, played.run.bound.init) and played.run.state.accepted == {}


class LastFirst(deque[Any]):
    """Whoever was started or answered last is heard first."""

    def popleft(self) -> Any:
        return self.pop()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", SECURE)
def test_who_is_heard_first_changes_nothing(name: str, drive: Any) -> None:
    """A party that was lost once missed its place in a failed round's ledger when it was heard late."""

    def backwards(run: Any) -> None:
        run.engine._todo = LastFirst()

    one, two = (
        drive(digits(**SECURE[name]), workers=0),
        drive(digits(**SECURE[name]), workers=0, around=backwards),
    )
    assert torch.equal(one.model, two.model) and one.digest == two.digest


@dataclass(frozen=True)
class Rolling(SplitFed):
    """Draws from torch's global generator behind its conversation, as dropout would."""

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> Any:
        m, state = yield from super().work(brief, data, state, ctx, bound)
        return replace(m, x=m.x + 0.01 * torch.rand(m.x.shape)), state


@dataclass(frozen=True)
class Sleepy(Client):
    """One party takes its time, by the wall."""

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> Any:
        time.sleep(0.2 * (ctx.client == "party-3"))
        return Local(lr=0.05, steps=3, batch=2).work(brief, data, state, ctx, bound)


SPLIT = {"client": SplitFed(Local(lr=0.1, steps=2, batch=4)), "server": SplitFedServer(lr=0.1)}


@pytest.mark.parametrize(
    "fed",
    [
        pictures(rounds=2, **SPLIT | {"client": Rolling(Local(lr=0.1, steps=2, batch=4))}),
        pictures(rounds=4, pace=Quorum(0.5, eager=True, speed=SLOW), **SPLIT),
        quadratics(rounds=4, pace=Quorum(0.9, deadline_s=8.0, late="keep", speed=SLOW)),
        quadratics(
            rounds=2,
            client=Sleepy(),
            uplink=SecAgg(threshold=0.9),
            pace=AllArrive(speed=SLOW, drop={"party-1": "upload"}),
        ),
    ],
    ids=["global generator", "cancelled in mid-talk", "late in a failed round", "slow below the threshold"],
)
def test_when_things_happen_changes_nothing(fed: Federation, drive: Any) -> None:
    """Bytes of cancelled talk, work that outlives a failed round, and its clock once depended on who was quick."""
    assert len(twice(drive, fed).records) == fed.rounds + 1


TOPICS = {"sky": "star moon sun cloud wind rain", "farm": "cow corn barn field hen seed"}


class Words:
    """Two parties' short texts of two topics."""

    def open(self, seed: int) -> Parties:
        rows = [
            {"text": f"{a} {b}", "label": label}
            for label, words in TOPICS.items()
            for a in words.split()
            for b in words.split()[:2]
        ]
        return Parties(
            (Shard("party-0", tuple(rows[::3])), Shard("party-1", tuple(rows[1::3]))),
            (Shard("", tuple(rows[2::3])),),
            labels=tuple(TOPICS),
        )


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny("encoder", tmp_path_factory.mktemp("encoder")))


@pytest.mark.parametrize("name", ["lora", "fedex-lora"])
def test_a_tuned_encoder_too(name: str, drive: Any, encoder: str) -> None:
    """Dropout draws from the ambient generator, which every session seeds anew."""
    slots: dict[str, Any] = (
        {}
        if name == "lora"
        else {
            "client": Local(lr=0.01, steps=2, batch=4, optimizer="adamw", send="weights"),
            "server": Apply(takes="weights"),
            "aggregate": FedExLoRA(),
        }
    )
    task = SequenceClassification(model=encoder, tuning=LoRA(r=2, residual="aggregate" in slots), dropout=0.1)
    base: dict[str, Any] = {"client": Local(lr=0.01, steps=2, batch=4, optimizer="adamw"), "rounds": 2}
    played = twice(drive, Federation(task, Words(), **base | slots))
    assert not played.failed and not torch.equal(played.model, played.run.bound.init)


def test_labels_of_texts_can_be_flipped(drive: Any, encoder: str) -> None:
    """Of two classes both are swapped: where all lie, the model learns the opposite of what honest parties teach it."""
    fed = Federation(
        SequenceClassification(model=encoder, tuning=LoRA(r=2)),
        Words(),
        rounds=6,
        client=Local(lr=0.02, steps=10, batch=8, optimizer="adamw"),
    )
    honest, lying = drive(fed, workers=0), drive(fed, workers=0, adversary=LabelFlip(fraction=1.0))
    assert not [e for e in lying.events if e["kind"] in ("failed", "refused")]
    right, wrong = (p.records[-1]["metrics"]["accuracy"] for p in (honest, lying))
    assert right > 0.9 and wrong < 0.1


def test_more_parties_than_the_window(drive: Any) -> None:
    """40 parties: sessions are started a few ahead of the one awaited, and released in the order of the plan."""
    from fedfm.tasks.quadratic import Quadratics

    data = Quadratics(a=tuple(1.0 + k % 7 for k in range(40)), b=tuple(float(k % 5) for k in range(40)))
    played = twice(drive, quadratics(data=data, client=Local(lr=0.01, steps=2, batch=0)))
    assert all(r["clients"] == 40 for r in played.records[1:])


@pytest.mark.parametrize(("at", "done"), [(0, 0), (1, 1), (2, 3)])
def test_the_jobs_of_a_worker_that_dies_are_done_by_another(at: int, done: int, drive: Any) -> None:
    """A fault of the machine is no party's: ledger and model are those of a run that nothing disturbed."""
    import os
    import signal

    from fedfm.core.loop import Run

    victims: list[int] = []

    def around(run: Run) -> None:
        pid = run.engine._pool[0].process.pid  # type: ignore[attr-defined]

        def tick(so_far: int, planned: int) -> None:
            if not victims and run.state.round == at and so_far >= done:
                victims.append(pid)
                os.kill(pid, signal.SIGKILL)

        run.tick = tick

    whole, played = drive(digits(rounds=3), workers=2), drive(digits(rounds=3), workers=2, around=around)
    assert victims and not [e for e in played.events if e["kind"] in ("failed", "refused")]
    assert [r["clients"] for r in played.records[1:]] == [6, 6, 6]
    assert played.digest == whole.digest


def test_all_workers_dead_is_said(drive: Any) -> None:
    import os
    import signal

    from fedfm.core.errors import FedfmError
    from fedfm.core.loop import Run

    def around(run: Run) -> None:
        for worker in run.engine._pool:  # type: ignore[attr-defined]
            os.kill(worker.process.pid, signal.SIGKILL)

    with pytest.raises(FedfmError, match="fedfm resume continues"):
        drive(digits(), workers=2, around=around)
