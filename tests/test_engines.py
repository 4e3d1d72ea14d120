"""Every slot, in this process and in two workers: the same model to the last bit, and the same ledger."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedfm.core.check import check
from fedfm.core.combine import ByClient, ByPath, Pipe
from fedfm.core.context import Ctx
from fedfm.core.federation import Federation
from fedfm.core.message import Message
from fedfm.core.protocols import Bound, Client, State
from fedfm.data.digits import Digits
from fedfm.data.partition.dirichlet import Dirichlet
from fedfm.data.source import Parties, Shard
from fedfm.efficiency.communication.entropy import Entropy
from fedfm.efficiency.communication.error_feedback import ErrorFeedback
from fedfm.efficiency.communication.heterofl import HeteroFL
from fedfm.efficiency.communication.qsgd import QSGD
from fedfm.efficiency.communication.quantise import Quantise
from fedfm.efficiency.communication.randk import RandK
from fedfm.efficiency.communication.topk import TopK
from fedfm.efficiency.computation.lora import LoRA
from fedfm.efficiency.computation.splitfed import SplitFed, SplitFedServer
from fedfm.efficiency.training.fedbuff import FedBuff
from fedfm.efficiency.training.fedprox import FedProx
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.lora_exact import FedExLoRA
from fedfm.efficiency.training.mean import Mean
from fedfm.efficiency.training.scaffold import Scaffold, ScaffoldServer
from fedfm.efficiency.training.servers import Apply, FedAdam
from fedfm.engines.pace import AllArrive, Buffered, Quorum, Speed
from fedfm.incentives.budget_split import BudgetSplit
from fedfm.incentives.poisson import Poisson
from fedfm.incentives.power_of_choice import PowerOfChoice
from fedfm.incentives.proportional_share import ProportionalShare
from fedfm.incentives.shapley_exact import ShapleyExact
from fedfm.incentives.shapley_permutation import ShapleyPermutation
from fedfm.incentives.uniform import Uniform
from fedfm.laws.compare import near
from fedfm.laws.homes import Played, pictures, quadratics
from fedfm.models import tiny
from fedfm.tasks.classify import SequenceClassification
from fedfm.tasks.image import ImageClassification
from fedfm.trust.privacy.gaussian import ClipNoise
from fedfm.trust.privacy.local_gaussian import LocalGaussian
from fedfm.trust.privacy.secagg import SecAgg
from fedfm.trust.robustness.krum import Krum
from fedfm.trust.robustness.label_flip import LabelFlip
from fedfm.trust.robustness.median import CoordinateMedian
from fedfm.trust.robustness.norm_outliers import NormOutliers
from fedfm.trust.robustness.sign_flip import SignFlip
from fedfm.trust.robustness.trimmed_mean import TrimmedMean

SLOW = Speed(mean_s=10.0, spread=1.0, jitter=0.3)
SGD = Local(lr=0.1, steps=2, batch=8)
EQUAL = Mean(weights="equal")
WEIGHTS = {"client": Local(lr=0.1, steps=2, batch=8, send="weights"), "server": Apply(takes="weights")}



def digits(**slots: Any) -> Federation:
    """Six parties with 120 digits in unequal shares, a small convolutional network, three rounds."""
    base: dict[str, Any] = {
        "task": ImageClassification(channels=(4, 8)),
        "client": SGD,
        "rounds": 3,
        "data": Digits(train_rows=120, test_rows=40, partition=Dirichlet(alpha=0.5, parties=6, min_rows=5)),
    }
    return Federation(**base | slots)


FEDERATIONS: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "fedavg by some": {"select": Uniform(count=3)},
    "poisson": {"select": Poisson(rate=0.5)},
    "power of choice": {"select": PowerOfChoice(count=2, asked=4)},
    "adamw": {"client": Local(lr=0.01, steps=2, batch=8, optimizer="adamw")},
    "fedprox": {"client": FedProx(mu=0.1, local=SGD)},
    "scaffold": {"client": Scaffold(SGD), "server": ScaffoldServer()},
    "scaffold by path": {
        "client": Scaffold(SGD),
        "server": ScaffoldServer(),
        "uplink": ByPath({"dc/*": QSGD(15), "*": TopK(0.1)}),
    },
    "by client": {"client": ByClient({"party-0": FedProx(mu=1.0, local=SGD), "*": SGD})},
    "weights": WEIGHTS,
    "momentum": {"server": Apply(lr=0.5, momentum=0.9)},
    "fedadam": {"server": FedAdam(lr=0.01)},
    "fixed": {"fold": "fixed"},
    "feedback, quantised": {"uplink": Pipe(ErrorFeedback(TopK(0.05)), QSGD(7))},
    "entropy": {"uplink": Pipe(QSGD(15, packed=False), Entropy())},
    "random mask": {"uplink": RandK(0.3)},
    "quantised both ways": {"uplink": Quantise(4), "downlink": Quantise(8)},
    "krum under attack": {"aggregate": Krum(f=1), "adversary": SignFlip(count=1, scale=5.0)},
    "median under attack": {
        "aggregate": CoordinateMedian(),
        "adversary": SignFlip(count=2, scale=5.0, omniscient=True),
    },
    "trimmed under flips": {"aggregate": TrimmedMean(), "adversary": LabelFlip(count=2)},
    "outliers refused": {"detect": NormOutliers(), "adversary": SignFlip(count=1, scale=50.0)},
    "central noise": {"uplink": ClipNoise(0.5, 0.3), "aggregate": EQUAL},
    "local noise": {"uplink": LocalGaussian(0.5, 0.3), "aggregate": EQUAL},
    "split": {"client": SplitFed(SGD), "server": SplitFedServer(lr=0.1)},
    "split, talk coded": {"client": SplitFed(SGD), "server": SplitFedServer(lr=0.1), "talk": QSGD(255)},
    "split, dropped": {
        "client": SplitFed(SGD),
        "server": SplitFedServer(lr=0.1),
        "pace": AllArrive(drop={"party-1": "acts"}),
    },
    "widths": {"select": HeteroFL(widths=(1.0, 0.5, 0.25)), "aggregate": EQUAL},
    "widths drawn anew": {"select": HeteroFL(dynamic=True, inner=Uniform(count=4)), "aggregate": EQUAL},
    "buffered": {
        "aggregate": FedBuff(),
        "pace": Buffered(2, 4, speed=SLOW),
        "select": Uniform(count=4),
        "rounds": 6,
    },
    "buffered, feedback": {
        "aggregate": FedBuff(),
        "pace": Buffered(2, 4, speed=SLOW),
        "select": Uniform(count=4),
        "rounds": 6,
        "uplink": ErrorFeedback(TopK(0.1)),
    },
    "deadline": {"pace": Quorum(0.3, deadline_s=12.0, speed=SLOW)},
    "deadline, too few": {
        "pace": Quorum(0.9, deadline_s=8.0, speed=SLOW),
        "uplink": ErrorFeedback(TopK(0.1)),
    },
    "late work kept": {
        "pace": Quorum(0.5, eager=True, late="keep", speed=SLOW),
        "aggregate": FedBuff(),
        "rounds": 5,
    },
    "dropped uploads": {"pace": AllArrive(dropout=0.3), "uplink": ErrorFeedback(TopK(0.1))},
    "auction": {
        "select": ProportionalShare(budget=20.0),
        "reward": ProportionalShare(budget=20.0),
        "value": ShapleyExact(),
    },
    "shapley, paid": {"value": ShapleyPermutation(4), "reward": BudgetSplit()},
    "all at once": {
        "client": FedProx(mu=0.1, local=SGD),
        "uplink": ErrorFeedback(TopK(0.1)),
        "aggregate": Krum(f=0, m=2),
        "select": ProportionalShare(budget=60.0),
        "reward": ProportionalShare(budget=60.0),
        "value": ShapleyExact(),
        "adversary": SignFlip(count=1),
    },
}
SECURE: dict[str, dict[str, Any]] = {
    "secure": {"uplink": SecAgg()},
    "secure, fixed": {"uplink": SecAgg(), "fold": "fixed"},
    "secure, sparse": {"uplink": Pipe(RandK(0.3), SecAgg())},
    "secure, noisy": {"uplink": Pipe(ClipNoise(0.5, 0.3), SecAgg()), "aggregate": EQUAL},
    "secure, entropy": {"uplink": Pipe(SecAgg(), Entropy())},
    "secure, widths": {"uplink": SecAgg(), "select": HeteroFL(), "aggregate": EQUAL},
    "secure, split": {"uplink": SecAgg(), "client": SplitFed(SGD), "server": SplitFedServer(lr=0.1)},
    "secure, scaffold": {"uplink": SecAgg(), "client": Scaffold(SGD), "server": ScaffoldServer()},
    **{
        f"secure, noisy, {phase}": {
            "uplink": Pipe(ClipNoise(0.5, 0.3), SecAgg(threshold=0.5)),
            "aggregate": EQUAL,
            "pace": AllArrive(drop={"party-2": phase}),
        }
        for phase in ("keys", "shares", "upload", "unmask")
    },
    "secure, two phases": {
        "uplink": SecAgg(threshold=0.5),
        "pace": AllArrive(drop={"party-0": "shares", "party-5": "upload"}),
    },
    "secure, below": {
        "uplink": SecAgg(threshold=0.9),
        "pace": AllArrive(drop={"party-1": "upload", "party-2": "upload"}),
    },
}


def twice(drive: Any, fed: Federation) -> Played:
    """Run on both engines, compare, return one."""
    assert check(fed) == []
    one, two = drive(fed, workers=0), drive(fed, workers=2)
    assert torch.equal(one.model, two.model), f"models differ by {float((one.model - two.model).abs().max()):g}"
    unlike = [(a, b) for a, b in zip(one.events, two.events, strict=True) if a != b and a["kind"] != "seconds"]
    assert not unlike and one.digest == two.digest, unlike[:3]
    clockless = [[{k: v for k, v in r.items() if k not in ("seconds", "cpu")} for r in p.records] for p in (one, two)]
    assert clockless[0] == clockless[1]
    assert not one.run.hub.live or fed.pace.late == "keep"
    return one


@pytest.mark.parametrize("name", FEDERATIONS)
def test_workers_change_nothing(name: str, drive: Any) -> None:
    played = twice(drive, digits(**FEDERATIONS[name]))
    assert len(played.records) == played.run.fed.rounds + 1
    moved = not torch.equal(played.model, played.run.bound.init)
    assert moved == any(not r.get("failed", "round 0") for r in played.records), played.failed
    errors = [e for e in played.events if e["kind"] == "failed" and "simulated" not in e["error"]]
    assert not errors, errors


@pytest.mark.parametrize("name", [n for n in SECURE if n != "secure, below"])
def test_secure_sums_are_the_same_with_fresh_secrets(name: str, drive: Any) -> None:
    """Keys and masks differ from run to run, the sum does not; and it is the sum of who uploaded, to fixed point."""
    slots = SECURE[name]
    played = twice(drive, digits(**slots))
    assert not played.failed, played.failed
    stages = getattr(slots["uplink"], "stages", (slots["uplink"],))
    plain = drive(digits(**slots | {"uplink": Pipe(*(s for s in stages if isinstance(s, RandK | ClipNoise)))}))
    dropped = {e["client"] for e in played.events if e["kind"] == "dropout" and e["phase"] in ("keys", "shares")}
    if not dropped:  # without secure aggregation those have no phase to drop out before
        counts = [r.get("clients") for r in played.records]
        if "unmask" not in name:
            assert counts == [r.get("clients") for r in plain.records] and near(played.model, plain.model, rtol=1e-5)
    else:
        assert all(r["clients"] == 6 - len(slots["pace"].drop) for r in played.records[1:])


def test_below_the_threshold_every_round_fails_and_nothing_moves(drive: Any) -> None:
    played = twice(drive, digits(**SECURE["secure, below"]))
    assert len(played.failed) == 3 and all("secagg" in why for why in played.failed)
    assert torch.equal(played.model, played.run.bound.init) and played.run.state.accepted == {}


class LastFirst(deque[Any]):
    """Whoever was started or answered last is heard first."""

    def popleft(self) -> Any:
        return self.pop()


@pytest.mark.parametrize("name", SECURE)
def test_who_is_heard_first_changes_nothing(name: str, drive: Any) -> None:
    """A party that was lost once missed its place in a failed round's ledger when it was heard late."""
    def backwards(run: Any) -> None:
        run.engine._todo = LastFirst()

    one, two = drive(digits(**SECURE[name]), workers=0), drive(digits(**SECURE[name]), workers=0, around=backwards)
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


@pytest.mark.parametrize("fed", [
    pictures(rounds=2, **SPLIT | {"client": Rolling(Local(lr=0.1, steps=2, batch=4))}),
    pictures(rounds=4, pace=Quorum(0.5, eager=True, speed=SLOW), **SPLIT),
    quadratics(rounds=4, pace=Quorum(0.9, deadline_s=8.0, late="keep", speed=SLOW)),
    quadratics(rounds=2, client=Sleepy(), uplink=SecAgg(threshold=0.9), pace=AllArrive(speed=SLOW, drop={"party-1": "upload"})),
], ids=["global generator", "cancelled in mid-talk", "late in a failed round", "slow below the threshold"])
def test_when_things_happen_changes_nothing(fed: Federation, drive: Any) -> None:
    """Bytes of cancelled talk, work that outlives a failed round, and its clock once depended on who was quick."""
    assert len(twice(drive, fed).records) == fed.rounds + 1


TOPICS = {"sky": "star moon sun cloud wind rain", "farm": "cow corn barn field hen seed"}


class Words:
    """Two parties' short texts of two topics."""

    def open(self, seed: int) -> Parties:
        rows = [{"text": f"{a} {b}", "label": label} for label, words in TOPICS.items()
                for a in words.split() for b in words.split()[:2]]
        return Parties((Shard("party-0", tuple(rows[::3])), Shard("party-1", tuple(rows[1::3]))),
                       (Shard("", tuple(rows[2::3])),), labels=tuple(TOPICS))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny("encoder", tmp_path_factory.mktemp("encoder")))


@pytest.mark.parametrize("name", ["lora", "fedex-lora"])
def test_a_tuned_encoder_too(name: str, drive: Any, encoder: str) -> None:
    """Dropout draws from the ambient generator, which every session seeds anew."""
    slots: dict[str, Any] = {} if name == "lora" else {
        "client": Local(lr=0.01, steps=2, batch=4, optimizer="adamw", send="weights"), "server": Apply(takes="weights"),
        "aggregate": FedExLoRA()}
    task = SequenceClassification(model=encoder, tuning=LoRA(r=2, residual="aggregate" in slots), dropout=0.1)
    base: dict[str, Any] = {"client": Local(lr=0.01, steps=2, batch=4, optimizer="adamw"), "rounds": 2}
    played = twice(drive, Federation(task, Words(), **base | slots))
    assert not played.failed and not torch.equal(played.model, played.run.bound.init)


def test_labels_of_texts_can_be_flipped(drive: Any, encoder: str) -> None:
    """Of two classes both are swapped: where all lie, the model learns the opposite of what honest parties teach it."""
    fed = Federation(SequenceClassification(model=encoder, tuning=LoRA(r=2)), Words(), rounds=6,
                     client=Local(lr=0.02, steps=10, batch=8, optimizer="adamw"))
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


def test_a_worker_that_dies_takes_its_sessions_only(drive: Any, tmp_path: Path) -> None:
    import os
    import signal

    from fedfm.core.loop import Run

    def around(run: Run) -> None:
        victim = run.engine._pool[0].process.pid  # type: ignore[attr-defined]
        run.tick = lambda done, planned: os.kill(victim, signal.SIGKILL) if run.state.round == 1 and done == 1 else None

    played = drive(digits(rounds=3), workers=2, around=around)
    lost = [e for e in played.events if e["kind"] == "failed"]
    assert all("worker process died" in e["error"] and e["round"] == 1 for e in lost)
    assert [r["clients"] for r in played.records[1:]] == [6, 6 - len(lost), 6]


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
