"""The federations that every engine must agree on: every slot, small enough to run in a second."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fedfm.core.combine import ByPath, Pipe
from fedfm.core.federation import Federation
from fedfm.data.digits import Digits
from fedfm.data.partition.dirichlet import Dirichlet
from fedfm.efficiency.communication.coarse.natural import Natural
from fedfm.efficiency.communication.coarse.rotation import Rotation
from fedfm.efficiency.communication.coarse.sign import Sign
from fedfm.efficiency.communication.coarse.terngrad import TernGrad
from fedfm.efficiency.communication.codec.entropy import Entropy
from fedfm.efficiency.communication.codec.error_feedback import ErrorFeedback
from fedfm.efficiency.communication.codec.qsgd import QSGD
from fedfm.efficiency.communication.codec.quantise import Quantise
from fedfm.efficiency.communication.codec.randk import RandK
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.communication.lowrank.powersgd import PowerSGD
from fedfm.efficiency.communication.memory.dgc import DGC
from fedfm.efficiency.communication.memory.ef21 import EF21
from fedfm.efficiency.communication.submodel.heterofl import HeteroFL
from fedfm.efficiency.computation.split.splitfed import SplitFed, SplitFedServer
from fedfm.efficiency.training.adaptive import FedAdagrad, FedAdam, FedYogi
from fedfm.efficiency.training.arrivals.fedasync import FedAsync
from fedfm.efficiency.training.arrivals.fedbuff import FedBuff
from fedfm.efficiency.training.drift.feddyn import FedDyn, FedDynServer
from fedfm.efficiency.training.drift.fednova import FedNova, FedNovaServer
from fedfm.efficiency.training.drift.fedsam import FedSAM
from fedfm.efficiency.training.drift.mime import MimeLite, MimeLiteServer
from fedfm.efficiency.training.fedprox import FedProx
from fedfm.efficiency.training.hierarchy import Edges
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.majority_vote import MajorityVote
from fedfm.efficiency.training.mean import Mean
from fedfm.efficiency.training.personal.by_client import ByClient
from fedfm.efficiency.training.personal.fedmd import FedMD
from fedfm.efficiency.training.personal.fedrep import FedRep
from fedfm.efficiency.training.personal.ifca import IFCA, ClusterMean
from fedfm.efficiency.training.scaffold import Scaffold, ScaffoldServer
from fedfm.efficiency.training.schedule import Cosine, Linear
from fedfm.efficiency.training.servers import Apply
from fedfm.efficiency.training.soup import GreedySoup
from fedfm.evaluation.by_party import ByParty
from fedfm.incentives.auction.proportional_share import ProportionalShare
from fedfm.incentives.contract.menu import ContractMenu
from fedfm.incentives.contribution.datainf import DataInf
from fedfm.incentives.contribution.shapley_exact import ShapleyExact
from fedfm.incentives.contribution.shapley_permutation import ShapleyPermutation
from fedfm.incentives.reward.budget_split import BudgetSplit
from fedfm.incentives.selection.poisson import Poisson
from fedfm.incentives.selection.power_of_choice import PowerOfChoice
from fedfm.incentives.selection.uniform import Uniform
from fedfm.pace import AllArrive, Buffered, Link, Quorum, Speed
from fedfm.tasks.by_client import TaskByClient
from fedfm.tasks.vision.image import ImageClassification
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian
from fedfm.trust.privacy.secure.secagg import SecAgg
from fedfm.trust.robustness.attack.label_flip import LabelFlip
from fedfm.trust.robustness.attack.sign_flip import SignFlip
from fedfm.trust.robustness.detection.norm_outliers import NormOutliers
from fedfm.trust.robustness.rule.fltrust import FLTrust
from fedfm.trust.robustness.rule.geometric_median import GeometricMedian
from fedfm.trust.robustness.rule.krum import Krum
from fedfm.trust.robustness.rule.median import CoordinateMedian
from fedfm.trust.robustness.rule.trimmed_mean import TrimmedMean

SLOW = Speed(mean_s=10.0, spread=1.0, jitter=0.3)
SGD = Local(lr=0.1, steps=2, batch=8)
VALUED = Digits(
    train_rows=120, test_rows=40, partition=Dirichlet(alpha=0.5, parties=6, min_rows=5), server_rows=12
)
OWN_TESTS = replace(VALUED, server_rows=0, own_test=0.2)
BY_CLIENT: dict[str, Any] = {
    "task": TaskByClient(
        {"party-[01]": ImageClassification(channels=(6,)), "*": ImageClassification(channels=(4, 8))}
    ),
    "data": replace(VALUED, server_rows=0, own_test=0.2, public_rows=10),
}
EQUAL = Mean(weights="equal")
FIXED = Mean(weights="equal", denominator=6.0)  # who drops out does not change the scale of the noise
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
    "edges": {"select": Edges(count=3), "fold": "fixed"},
    "edges of some": {"select": Edges(count=2, inner=Uniform(count=4))},
    "fltrust": {"aggregate": FLTrust(), "adversary": SignFlip(count=2, scale=5.0), "data": VALUED},
    "greedy soup": {"aggregate": GreedySoup(), "data": VALUED},
    "fedrep": {"client": FedRep(local=SGD, head_steps=2), "data": OWN_TESTS},
    "ifca": {"client": IFCA(local=SGD), "aggregate": ClusterMean(), "data": OWN_TESTS},
    "fedmd": {"client": FedMD(local=SGD, digest=SGD, rows=12, transfer=1), "aggregate": EQUAL} | BY_CLIENT,
    "contract menu": {"select": ContractMenu()},
    "datainf": {"value": DataInf(), "reward": BudgetSplit(), "data": VALUED},
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
    "geometric median under attack": {
        "aggregate": GeometricMedian(),
        "adversary": SignFlip(count=2, scale=5.0),
    },
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
    "arrivals over links": {
        **WEIGHTS,
        "server": FedAsync(),
        "pace": Buffered(
            1, 4, speed=SLOW, links={"party-[01]": Link(up_mbit_s=0.01), "*": Link(1.0, 1.0, 0.1, 0.5)}
        ),
        "select": Uniform(count=4),
        "rounds": 8,
    },
    "codes over links": {
        "uplink": Pipe(TopK(0.2), Entropy()),
        "pace": Quorum(
            0.4, deadline_s=12.0, late="keep", speed=SLOW, links={"*": Link(up_mbit_s=0.02, spread=1.0)}
        ),
        "rounds": 6,
    },
    "ef21": {"uplink": EF21(TopK(0.1))},
    "ef21 both ways": {
        "uplink": EF21(TopK(0.1)),
        "downlink": EF21(TopK(0.3), whole_first=True),
        "select": Uniform(count=4),
    },
    "shifted quantiser by some": {"uplink": EF21(QSGD(7), rate=0.2), "select": Uniform(count=4)},
    "gradient compression": {"uplink": DGC(0.05, warmup=1), "pace": AllArrive(dropout=0.3)},
    "powers of two": {"uplink": Natural(), "downlink": Natural()},
    "ternary": {"uplink": ByPath({"head*": Natural(), "*": TernGrad(clip=2.5)})},
    "rotated bits": {"uplink": Pipe(Rotation(), Quantise(1))},
    "low rank": {"uplink": ErrorFeedback(PowerSGD(1))},
    "votes": {
        "uplink": Sign(),
        "aggregate": MajorityVote(),
        "server": Apply(lr=0.01, schedule=Linear(warmup=1)),
    },
    "fednova": {"client": FedNova(Local(lr=0.1, epochs=1.0, momentum=0.5)), "server": FedNovaServer()},
    "feddyn": {"client": FedDyn(0.1, SGD), "server": FedDynServer(0.1), "select": Uniform(count=4)},
    "fedsam": {"client": FedSAM(0.05, SGD)},
    "mimelite": {"client": MimeLite(0.5, SGD), "server": MimeLiteServer(beta=0.5)},
    "fedyogi": {"server": FedYogi(lr=0.01)},
    "fedadagrad": {"server": FedAdagrad(lr=0.01)},
    "looking ahead": {"server": Apply(lr=0.7, momentum=0.9, nesterov=True, schedule=Cosine())},
    "rates fall": {"client": Local(lr=0.1, epochs=1.0, drop_last=True, schedule=Cosine(warmup=1, end=0.1))},
    "moments kept": {
        "client": Local(lr=0.01, steps=2, optimizer="adamw", micro_batch=3, keep_optimizer=True)
    },
    "own weights": {"aggregate": Mean(factors={"party-0": 3.0, "party-1": 0.0})},
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
        "data": VALUED,
        "value": ShapleyExact(),
    },
    "shapley, paid": {"data": VALUED, "value": ShapleyPermutation(4), "reward": BudgetSplit()},
    "scored by party": {"evaluate": ByParty(parts=3), "data": OWN_TESTS},
    "personal, by party": {
        "client": FedRep(local=SGD, head_steps=2),
        "evaluate": ByParty(personal=True, perturb=("noise",)),
        "data": OWN_TESTS,
    },
    "stages": {
        "stages": (
            digits(client=Scaffold(SGD), rounds=2, select=Uniform(count=4)),
            digits(uplink=ErrorFeedback(TopK(0.3)), rounds=1),
        ),
        "client": Local(lr=0.1, steps=2, batch=8, schedule=Cosine()),
        "uplink": ErrorFeedback(TopK(0.1)),
    },
    "all at once": {
        "client": FedProx(mu=0.1, local=SGD),
        "uplink": ErrorFeedback(TopK(0.1)),
        "aggregate": Krum(f=0, m=2),
        "select": ProportionalShare(budget=60.0),
        "data": VALUED,
        "value": ShapleyExact(),
        "adversary": SignFlip(count=1),
    },
}
SECURE: dict[str, dict[str, Any]] = {
    "secure": {"uplink": SecAgg()},
    "secure, edges": {"uplink": SecAgg(), "select": Edges(count=2)},
    "secure, fixed": {"uplink": SecAgg(), "fold": "fixed"},
    "secure, sparse": {"uplink": Pipe(RandK(0.3), SecAgg())},
    "secure, noisy": {"uplink": Pipe(ClipNoise(0.5, 0.3), SecAgg()), "aggregate": FIXED},
    "secure, entropy": {"uplink": Pipe(SecAgg(), Entropy())},
    "secure, widths": {"uplink": SecAgg(), "select": HeteroFL(), "aggregate": EQUAL},
    "secure, scaffold": {"uplink": SecAgg(), "client": Scaffold(SGD), "server": ScaffoldServer()},
    **{
        f"secure, noisy, {phase}": {
            "uplink": Pipe(ClipNoise(0.5, 0.3), SecAgg(threshold=0.62)),
            "aggregate": FIXED,
            "pace": AllArrive(drop={"party-2": phase}),
        }
        for phase in ("keys", "shares", "upload", "unmask")
    },
    "secure, two phases": {
        "uplink": SecAgg(threshold=0.62),
        "data": Digits(train_rows=120, test_rows=40, partition=Dirichlet(alpha=0.5, parties=8, min_rows=5)),
        "pace": AllArrive(drop={"party-0": "shares", "party-5": "upload"}),
    },
    "secure, below": {
        "uplink": SecAgg(threshold=0.9),
        "pace": AllArrive(drop={"party-1": "upload", "party-2": "upload"}),
    },
}
