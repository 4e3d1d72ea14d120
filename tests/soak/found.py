"""What the soak has found, as the smallest federation that shows it. OPEN ones still fail; a mended one moves to MENDED."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedfm.core.combine import ByPath, Pipe
from fedfm.efficiency.communication.codec.error_feedback import ErrorFeedback
from fedfm.efficiency.communication.codec.qsgd import QSGD
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.communication.submodel.heterofl import HeteroFL
from fedfm.efficiency.computation.split.splitfed import SplitFed, SplitFedServer
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.lora_exact import FedExLoRA
from fedfm.efficiency.training.personal.by_client import ByClient
from fedfm.efficiency.training.personal.ifca import IFCA, ClusterMean
from fedfm.efficiency.training.servers import Apply
from fedfm.incentives.contribution.shapley_exact import ShapleyExact
from fedfm.incentives.selection.power_of_choice import PowerOfChoice
from fedfm.trust.robustness.rule.fltrust import FLTrust
from soak.trial import IMAGES

PICTURES = {slot: getattr(IMAGES, slot) for slot in ("task", "data", "client")}
WEIGHTS = {"client": Local(lr=0.05, send="weights"), "server": Apply(takes="weights")}
SPLIT = {**PICTURES, "client": SplitFed(Local(lr=0.05, steps=2, batch=4))}
SGD = Local(lr=0.05, steps=3, batch=2)


@dataclass(frozen=True)
class Found:
    """Slots of the quadratics that show it, what is wrong in one sentence, and words of every complaint about it."""

    why: str
    slots: Mapping[str, Any] = field(hash=False)
    words: tuple[str, ...]  # any of them


OPEN: dict[str, Found] = {}
MENDED: dict[str, Found] = {
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
