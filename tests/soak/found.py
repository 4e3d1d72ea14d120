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
from fedfm.efficiency.training.servers import Apply, FedAdam
from fedfm.incentives.contribution.shapley_exact import ShapleyExact
from fedfm.incentives.selection.power_of_choice import PowerOfChoice
from soak.trial import IMAGES

PICTURES = {slot: getattr(IMAGES, slot) for slot in ("task", "data", "client")}
WEIGHTS = {"client": Local(lr=0.05, send="weights"), "server": Apply(takes="weights")}
SGD = Local(lr=0.05, steps=3, batch=2)


@dataclass(frozen=True)
class Found:
    """Slots of the quadratics that show it, what is wrong in one sentence, and words of every complaint about it."""

    why: str
    slots: Mapping[str, Any] = field(hash=False)
    words: tuple[str, ...]  # any of them


OPEN: dict[str, Found] = {
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
    "names behind another code": Found(
        "a codec that goes by the names of tensors stands behind one that leaves none",
        {"uplink": Pipe(TopK(0.2), ByPath({"*": QSGD(7)}))},
        ("elements is needed, got shape",),
    ),
    "a task without a cut": Found(
        "split learning on a task that cannot be cut passes check, and everybody fails in every round",
        {"client": SplitFed(SGD), "server": SplitFedServer(lr=0.05)},
        ("this task has no cut point",),
    ),
}
MENDED: dict[str, Found] = {
    "briefs of several shapes": Found(
        "the downlink keeps one state for briefs of several shapes, and ends the run",
        {"select": HeteroFL(widths=(1.0, 0.5)), "downlink": ErrorFeedback(TopK(0.2)), **PICTURES},
        ("updates must keep one size",),
    ),
    "a server that divides by zero": Found(
        "what a server's own step makes is not looked at: 0/0 in the padding is NaN",
        {"server": FedAdam(tau=0.0)},
        ("is not finite", "models differ by nan", "cannot be encoded", "is nan"),
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
}


def known(complaint: str) -> bool:
    """Is it one of those that are written down?"""
    return any(word in complaint for found in OPEN.values() for word in found.words)
