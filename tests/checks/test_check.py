"""What cannot work together is refused with the reason and the fix; what can passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fedfm.checks.rules import check
from fedfm.core.combine import ByPath, Pipe
from fedfm.core.protocols import Wire
from fedfm.efficiency.communication.codec.error_feedback import ErrorFeedback
from fedfm.efficiency.communication.codec.qsgd import QSGD
from fedfm.efficiency.communication.codec.randk import RandK
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.communication.memory.dgc import DGC
from fedfm.efficiency.communication.memory.ef21 import EF21
from fedfm.efficiency.communication.submodel.heterofl import HeteroFL
from fedfm.efficiency.computation.split.splitfed import SplitFed, SplitFedServer
from fedfm.efficiency.training.arrivals.fedbuff import FedBuff
from fedfm.efficiency.training.fedprox import FedProx
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.lora_exact import FedExLoRA
from fedfm.efficiency.training.mean import Mean
from fedfm.efficiency.training.personal.by_client import ByClient
from fedfm.efficiency.training.scaffold import Scaffold, ScaffoldServer
from fedfm.efficiency.training.servers import Apply
from fedfm.incentives.auction.proportional_share import ProportionalShare
from fedfm.incentives.contribution.shapley_exact import ShapleyExact
from fedfm.incentives.reward.budget_split import BudgetSplit
from fedfm.incentives.selection.poisson import Poisson
from fedfm.incentives.selection.power_of_choice import PowerOfChoice
from fedfm.laws.homes import quadratics
from fedfm.pace import Buffered, Quorum
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian
from fedfm.trust.privacy.secure.secagg import SecAgg
from fedfm.trust.robustness.rule.krum import Krum

NOISE = {"uplink": ClipNoise(), "aggregate": Mean(weights="equal")}
LOCAL_NOISE = {"uplink": LocalGaussian(), "aggregate": Mean(weights="equal")}
SPLIT = {"client": SplitFed(), "server": SplitFedServer()}
SECRET = {"uplink": SecAgg()}
SLOWER = Local(lr=0.001)
WEIGHTS = {"client": Local(send="weights"), "server": Apply(takes="weights")}


@pytest.mark.parametrize(
    ("slots", "where", "words"),
    [
        (SECRET | {"aggregate": Krum()}, "aggregate", "krum reads single messages, which secagg hides"),
        (SECRET | {"value": ShapleyExact()}, "value", "shapley-exact reads single messages"),
        (SECRET | {"pace": Buffered(2, 4)}, "pace", "part of a cohort"),
        (SECRET | {"pace": Quorum(eager=True)}, "pace", "part of a cohort"),
        (SECRET | {"aggregate": FedBuff()}, "aggregate", "cannot be computed on the client"),
        ({"uplink": Pipe(TopK(), SecAgg())}, "uplink.0", "is not linear"),
        ({"uplink": Pipe(SecAgg(), QSGD())}, "uplink.1", "loses bits"),
        ({"uplink": Pipe(SecAgg(), SecAgg())}, "uplink.1", "keep one"),
        (NOISE | {"aggregate": Krum()}, "aggregate", "krum reads single messages under gaussian"),
        (NOISE | {"value": ShapleyExact()}, "value", "no accountant knows"),
        (NOISE | {"aggregate": Mean(weights="examples")}, "aggregate", "aggregate.weights=equal"),
        (NOISE | WEIGHTS, "client.send", "clip the model itself"),
        (NOISE | {"uplink": Pipe(ClipNoise(), TopK())}, "uplink.1", "put it before gaussian"),
        (NOISE | {"pace": Buffered(2, 4)}, "pace", "mixes rounds"),
        (NOISE | {"select": PowerOfChoice(1, 2)}, "select", "publishes"),
        (NOISE | {"uplink": Pipe(RandK(0.1), ClipNoise())}, "uplink.0", "longer than clip_norm"),
        (NOISE | {"uplink": Pipe(QSGD(), ClipNoise())}, "uplink.0", "longer than clip_norm"),
        (NOISE | SPLIT, "server", "publishes what gaussian does not cover"),
        (LOCAL_NOISE | SPLIT, "server", "publishes what local-gaussian does not cover"),
        (
            LOCAL_NOISE | {"select": PowerOfChoice(1, 2)},
            "select",
            "publishes what local-gaussian does not cover",
        ),
        (SPLIT | {"pace": Buffered(2, 4), "aggregate": FedBuff()}, "pace", "outlive its round"),
        (
            {"client": Scaffold(Local(send="weights")), "server": ScaffoldServer()},
            "server.takes",
            "client.send=delta",
        ),
        ({"client": Scaffold(), "server": Apply()}, "server", "belong together"),
        ({"client": SplitFed(SLOWER), "server": SplitFedServer()}, "server", "with the same knobs"),
        ({"server": ScaffoldServer()}, "server", "belong together"),
        ({"client": Local(send="weights"), "server": Apply()}, "server.takes", "doubles the model"),
        (WEIGHTS | {"uplink": TopK()}, "uplink.0", "loses part of weights"),
        (WEIGHTS | {"uplink": ErrorFeedback(TopK())}, "uplink.0", "loses part of weights"),
        (
            WEIGHTS | {"uplink": LocalGaussian(), "aggregate": Mean(weights="equal")},
            "uplink.0",
            "loses part of weights",
        ),
        (WEIGHTS | {"uplink": QSGD(), "aggregate": FedExLoRA()}, "uplink.0", "loses part of weights"),
        ({"downlink": TopK()}, "downlink.0", "leaves out part of the model"),
        ({"downlink": ErrorFeedback(TopK())}, "downlink.0", "leaves out part of the model"),
        ({"downlink": ErrorFeedback(Pipe(QSGD(), TopK()))}, "downlink.0", "leaves out part of the model"),
        ({"downlink": EF21(TopK())}, "downlink.0", "leaves out part of the model"),
        ({"downlink": DGC(0.1)}, "downlink.0", "leaves out part of the model"),
        ({"downlink": ErrorFeedback(QSGD()), "select": HeteroFL()}, "downlink.0", "change in length"),
        (NOISE | {"select": ProportionalShare()}, "select", "no accountant knows"),
        (
            {
                "client": Scaffold(),
                "uplink": ClipNoise(),
                "aggregate": Mean("equal", 2.0),
                "select": Poisson(0.5),
            },
            "server",
            "private under Poisson",
        ),
        ({"talk": ByPath({"*": QSGD()})}, "talk.0", "names of tensors"),
        ({"select": HeteroFL(), "aggregate": Krum()}, "aggregate", "sub-models differ in size"),
        ({"select": HeteroFL(), "value": ShapleyExact()}, "value", "sub-models differ in size"),
        (NOISE | {"select": HeteroFL(inner=PowerOfChoice(1, 2))}, "select", "publishes"),
        (NOISE | {"select": Poisson(0.5)}, "aggregate.denominator", "private under Poisson"),
        (NOISE | {"select": HeteroFL()}, "aggregate.denominator", "known to be theirs"),
        (
            SECRET | {"uplink": Pipe(RandK(), SecAgg()), "select": HeteroFL()},
            "uplink.0",
            "before they are masked",
        ),
        ({"aggregate": FedExLoRA()}, "client.send", "fedex-lora takes weights"),
        (WEIGHTS | {"aggregate": FedBuff()}, "client.send", "fedbuff takes delta"),
        ({"fold": "fixed", "aggregate": Krum()}, "fold", "no effect"),
        ({"reward": BudgetSplit()}, "reward", "nobody values"),
        ({"select": ProportionalShare(), "reward": BudgetSplit(policy="equal")}, "reward", "promised"),
        ({"device": "cuda"}, "device", "no CUDA device"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason_and_the_fix(
    slots: dict[str, Any], where: str, words: str
) -> None:
    if "device" in slots and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    found = [
        p for p in check(quadratics(**slots)) if p.where == where and words in f"{p.what}; {p.why}; {p.fix}"
    ]
    assert len(found) == 1 and found[0].what and found[0].why and found[0].fix, check(quadratics(**slots))


def test_all_incompatibilities_come_at_once() -> None:
    fed = quadratics(
        uplink=Pipe(TopK(), ClipNoise(), SecAgg()),
        aggregate=Krum(),
        value=ShapleyExact(),
        pace=Buffered(2, 4),
        client=Scaffold(),
    )
    assert {p.where for p in check(fed)} >= {"aggregate", "value", "pace", "uplink.0"} and len(
        check(fed)
    ) >= 7


@pytest.mark.parametrize(
    "slots",
    [
        SECRET,
        NOISE,
        {"uplink": Pipe(ClipNoise(), SecAgg()), "aggregate": Mean(weights="equal")},
        WEIGHTS,
        {"uplink": ErrorFeedback(TopK()), "aggregate": Krum(), "value": ShapleyExact(), "client": FedProx()},
        {"client": Scaffold(), "server": ScaffoldServer()},
        {"client": Scaffold()},
        {"select": HeteroFL()},
        {"fold": "fixed", "uplink": SecAgg()},
        {"select": HeteroFL(), "uplink": SecAgg()},
        {"uplink": Pipe(RandK(), SecAgg())},
        {"select": HeteroFL(), "uplink": RandK()},
        {
            "select": HeteroFL(),
            "uplink": Pipe(ClipNoise(), SecAgg()),
            "aggregate": Mean("equal", denominator=5.0),
        },
        {"pace": Buffered(2, 4), "aggregate": FedBuff()},
        {"select": ProportionalShare()},
    ],
)
def test_what_works_together_passes(slots: dict[str, Any]) -> None:
    assert check(quadratics(**slots)) == []


@pytest.mark.parametrize(
    "slots",
    [
        {"uplink": ByPath({"*": ClipNoise()})},
        {"uplink": ByPath({"*": SecAgg()})},
        {"downlink": ClipNoise()},
        {"talk": ClipNoise()},
        {"downlink": SecAgg()},
        {"downlink": LocalGaussian()},
        {"uplink": ByPath({"a": LocalGaussian(), "*": Wire()})},
        {"uplink": ByPath({"*": ByPath({"*": ClipNoise()})})},
        {"uplink": ByPath({"*": Pipe(TopK(), ByPath({"*": SecAgg()}))})},
    ],
    ids=[
        "noise by path",
        "masks by path",
        "noise downlink",
        "noise talk",
        "masks downlink",
        "local noise downlink",
        "local noise in part",
        "noise deep inside",
        "masks deep inside",
    ],
)
def test_protection_where_it_cannot_work_is_refused(slots: dict[str, Any]) -> None:
    """None of these ever adds its noise or masks: each must be an error, never run to the end."""
    assert check(quadratics(aggregate=Mean(weights="equal"), **slots))


@pytest.mark.parametrize(
    "inner",
    [ClipNoise(), LocalGaussian(), SecAgg(), ByPath({"*": ClipNoise()}), ByPath({"*": SecAgg()})],
    ids=repr,
)
def test_what_protects_is_never_fed_back(inner: Wire) -> None:
    """Error feedback would send the noise again with its sign changed, and cannot see through masks."""
    with pytest.raises(ValueError, match="error-feedback cannot wrap"):
        ErrorFeedback(inner)


@pytest.mark.parametrize(
    "local",
    [Local(optimizer="adamw"), Local(momentum=0.9), Local(clip_grad=1.0), Local(weight_decay=0.1)],
    ids=repr,
)
def test_what_a_client_would_ignore_is_refused(local: Local) -> None:
    for client in (Scaffold, SplitFed):
        with pytest.raises(ValueError, match="plain SGD"):
            client(local)


def test_weights_inside_by_client_are_noticed() -> None:
    """The server would add models as if they were differences."""
    assert check(quadratics(client=ByClient({"*": Local(send="weights")}), server=Apply()))
