"""What the soak has found, as the smallest federation that shows it. OPEN ones still fail; a mended one moves to MENDED."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fedfm.core.combine import ByPath, Pipe
from fedfm.efficiency.communication.coarse.natural import Natural
from fedfm.efficiency.communication.coarse.terngrad import TernGrad
from fedfm.efficiency.communication.codec.error_feedback import ErrorFeedback
from fedfm.efficiency.communication.codec.qsgd import QSGD
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.communication.lowrank.powersgd import PowerSGD
from fedfm.efficiency.communication.submodel.heterofl import HeteroFL
from fedfm.efficiency.computation.split.splitfed import SplitFed, SplitFedServer
from fedfm.efficiency.training.arrivals.fedasync import FedAsync
from fedfm.efficiency.training.drift.rolora import RoLoRA
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.lora_exact import FedExLoRA
from fedfm.efficiency.training.personal.by_client import ByClient
from fedfm.efficiency.training.personal.fedmd import FedMD
from fedfm.efficiency.training.personal.ifca import IFCA, ClusterMean
from fedfm.efficiency.training.scaffold import Scaffold
from fedfm.efficiency.training.servers import Apply
from fedfm.efficiency.training.soup import GreedySoup
from fedfm.incentives.contribution.shapley_exact import ShapleyExact
from fedfm.incentives.selection.power_of_choice import PowerOfChoice
from fedfm.pace import Quorum, Speed
from fedfm.trust.privacy.mechanism.discrete_gaussian import DiscreteGaussian
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian
from fedfm.trust.robustness.attack.label_flip import LabelFlip
from fedfm.trust.robustness.attack.sign_flip import SignFlip
from fedfm.trust.robustness.rule.fltrust import FLTrust
from soak.trial import FACTORS, IMAGES, MIXED

PICTURES = {slot: getattr(IMAGES, slot) for slot in ("task", "data", "client")}
WEIGHTS = {"client": Local(lr=0.05, send="weights"), "server": Apply(takes="weights")}
SPLIT = {**PICTURES, "client": SplitFed(Local(lr=0.05, steps=2, batch=4))}
SGD = Local(lr=0.05, steps=3, batch=2)
SAYS = {
    **{slot: getattr(MIXED, slot) for slot in ("task", "data")},
    "client": FedMD(local=SGD, digest=SGD, rows=5),
}


@dataclass(frozen=True)
class Found:
    """Slots of the quadratics that show it, what is wrong in one sentence, and words of every complaint about it."""

    why: str
    slots: Mapping[str, Any] | Callable[[], Mapping[str, Any]] = field(
        hash=False
    )  # a call where a spec may refuse
    words: tuple[str, ...]  # any of them


OPEN: dict[str, Found] = {}
MENDED: dict[str, Found] = {
    "a deadline that nobody meets": Found(
        "every party takes longer than the deadline, in every round, and nothing of it is drawn",
        {"pace": Quorum(0.4, deadline_s=0.1, speed=Speed(mean_s=1.8))},
        ("every round failed",),
    ),
    "a soup before a server that counts ages": Found(
        "the house steps the server on a trial, without the versions that its messages began from",
        {"client": Local(lr=0.05, send="weights"), "aggregate": GreedySoup(), "server": FedAsync()},
        ("division by zero",),
    ),
    "a brief of scores under a code": Found(
        "where architectures differ, parties decode the brief by the layout of their own weights",
        {**SAYS, "downlink": PowerSGD()},
        ("values came where", "is invalid for input of size"),
    ),
    "an attack on unlike models": Found(
        "an attack asks what rows look like, and a task of several architectures does not say: no run begins",
        {**SAYS, "adversary": LabelFlip(count=1)},
        ("there is no one model",),
    ),
    "a mixed population of mixed models": Found(
        "by-client does not tell that its clients need a task for several architectures: no classes, in round one",
        {"client": ByClient({"*": FedMD(local=SGD, digest=SGD)})},
        ("this task has no classes",),
    ),
    "no sub-models there": Found(
        "sub-models of a task that has none end the run in its first round",
        {"task": FACTORS.task, "select": HeteroFL(widths=(1.0, 0.5))},
        ("this task has no sub-models",),
    ),
    "an attack on whole weights": Found(
        "that an attack cannot forge what parties send is said in the middle of the run",
        {**WEIGHTS, "adversary": SignFlip(fraction=0.4, omniscient=True)},
        ("sign-flip (omniscient) got weights",),
    ),
    "models sent as changes": Found(
        "a client that wraps another sends whole weights and calls them a change: the loss grows sixfold",
        lambda: {"client": IFCA(local=replace(SGD, send="weights")), "aggregate": ClusterMean()},
        ("the loss went from",),
    ),
    "shares of noise without a mask": Found(
        "noise in shares that claims no guarantee, and no mask behind it: a traceback before the first round",
        {"uplink": DiscreteGaussian(no_guarantee=True)},
        ("min() arg is an empty sequence",),
    ),
    "noise without a guarantee": Found(
        "noise that claims no guarantee and is calibrated for an epsilon ends the run: its releases have no relation",
        lambda: {"uplink": LocalGaussian(noise_multiplier=None, epsilon=3.0, no_guarantee=True)},
        ("have no one relation",),
    ),
    "noises of two relations": Found(
        "two noises of different neighbouring relations run to the end, and then have no common epsilon",
        {"uplink": Pipe(LocalGaussian(relation="replace-one"), LocalGaussian(relation="zero-out"))},
        ("have no one relation",),
    ),
    "a code of another code's bytes": Found(
        "a code for numbers stands behind one that makes bytes: everybody is refused in every round",
        {"uplink": Pipe(TernGrad(), Natural())},
        ("bits take", "a payload is bytes", "every round failed: 0 of"),
    ),
    "a soup of no one model": Found(
        "greedy soup scores models, and parties of unlike architectures have none in common: the run ended in its first round",
        {**SAYS, "aggregate": GreedySoup()},
        ("there is no one model",),
    ),
    "a client of factors": Found(
        "a client of low-rank factors on a task without them: everybody fails in every round",
        {"client": RoLoRA(local=Local(lr=0.05, steps=3, batch=2))},
        ("has no lora_A and lora_B", "every round failed: 0 of"),
    ),
    "a part of a network that is cut": Found(
        "split learning with sub-models: the server's part has another width than the party's",
        {**SPLIT, "select": HeteroFL(widths=(1.0, 0.5))},
        ("Given groups=1, weight of size",),
    ),
    "a state of another width": Found(
        "what a party keeps has the width that it had: with widths drawn anew its next round ends the run",
        {
            **PICTURES,
            "client": Scaffold(Local(lr=0.05, steps=2, batch=4)),
            "select": HeteroFL(widths=(1.0, 0.5), dynamic=True),
            "rounds": 6,
        },
        ("must match the size of tensor b",),
    ),
    "labels that are not there": Found(
        "an attack flips to a class that the data do not have, and ends the run as the method's fault",
        {**PICTURES, "adversary": LabelFlip(fraction=1.0, classes=3)},
        ("is out of bounds",),
    ),
    "names behind another code": Found(
        "a codec that goes by the names of tensors stands behind one that leaves none",
        {"uplink": Pipe(TopK(0.2), ByPath({"*": QSGD(7)}))},
        ("elements is needed, got shape",),
    ),
    "a task without a cut": Found(
        "split learning on a task that cannot be cut passes check, and everybody fails in every round",
        {"client": SplitFed(SGD), "server": SplitFedServer(lr=0.05)},
        ("no part 'front'",),
    ),
    "the inside of a mixed population": Found(
        "whether the clients inside by-client can act on the task is not asked: the run ends in its first round",
        {"client": ByClient({"*": SplitFed(SGD)})},
        ("no part 'front'",),
    ),
    "clusters that do not agree": Found(
        "client, aggregator and server may count different clusters: all are refused, or the server's step raises",
        {"client": IFCA(clusters=2, local=SGD), "aggregate": ClusterMean(clusters=1)},
        ("names cluster", "is invalid for input of size", "every round failed: 0 of"),
    ),
    "a server that learns by talking": Found(
        "that a server cannot learn by a client that converses is said in the middle of the run",
        {**SPLIT, "aggregate": FLTrust()},
        ("cannot learn by a client that converses",),
    ),
    "briefs of several shapes": Found(
        "the downlink keeps one state for briefs of several shapes, and ends the run",
        {"select": HeteroFL(widths=(1.0, 0.5)), "downlink": ErrorFeedback(TopK(0.2)), **PICTURES},
        ("updates must keep one size",),
    ),
    "names in a conversation": Found(
        "a codec that goes by the names of tensors stands where there are none",
        {"select": PowerOfChoice(count=2), "talk": ByPath({"*": TopK(0.5)})},
        ("booked as a party's failure: AssertionError",),
    ),
    "bytes of an answer": Found(
        "an answer's bytes are counted before its sender is set",
        {"select": PowerOfChoice(count=2)},
        ("bytes talk in the ledger",),
    ),
    "players beyond the limit": Found(
        "that a valuer takes fewer players than a round has is said after the first round's work",
        {"value": ShapleyExact(max_players=3)},
        ("value.max_players",),
    ),
    "factors that are not there": Found(
        "an aggregator of low-rank factors is refused in the middle of the run, as a stranger's message",
        {
            "client": Local(lr=0.05, send="weights"),
            "server": Apply(takes="weights"),
            "aggregate": FedExLoRA(),
        },
        ("has no LoRA matrices",),
    ),
}


def known(complaint: str) -> bool:
    """Is it one of those that are written down?"""
    return any(word in complaint for found in OPEN.values() for word in found.words)
