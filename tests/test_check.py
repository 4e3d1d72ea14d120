"""What cannot work together is refused with the reason and the fix; what can passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fedfm.core.check import check
from fedfm.core.combine import ByClient, ByPath, Pipe
from fedfm.efficiency.communication.error_feedback import ErrorFeedback
from fedfm.efficiency.communication.heterofl import HeteroFL
from fedfm.efficiency.communication.qsgd import QSGD
from fedfm.efficiency.communication.randk import RandK
from fedfm.efficiency.communication.topk import TopK
from fedfm.efficiency.training.fedbuff import FedBuff
from fedfm.efficiency.training.fedprox import FedProx
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.lora_exact import FedExLoRA
from fedfm.efficiency.training.mean import Mean
from fedfm.efficiency.training.scaffold import Scaffold, ScaffoldServer
from fedfm.efficiency.training.servers import Apply
from fedfm.engines.pace import Buffered, Quorum
from fedfm.incentives.budget_split import BudgetSplit
from fedfm.incentives.poisson import Poisson
from fedfm.incentives.power_of_choice import PowerOfChoice
from fedfm.incentives.proportional_share import ProportionalShare
from fedfm.incentives.shapley_exact import ShapleyExact
from fedfm.laws.homes import quadratics
from fedfm.trust.privacy.gaussian import ClipNoise
from fedfm.trust.privacy.secagg import SecAgg
from fedfm.trust.robustness.krum import Krum

NOISE = {"uplink": ClipNoise(), "aggregate": Mean(weights="equal")}
SECRET = {"uplink": SecAgg()}
WEIGHTS = {"client": Local(send="weights"), "server": Apply(takes="weights")}


@pytest.mark.parametrize(("slots", "where", "words"), [
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
    (NOISE | {"aggregate": Mean(weights="examples")}, "aggregate.weights", "aggregate.weights=equal"),
    (NOISE | WEIGHTS, "client.send", "clip the model itself"),
    (NOISE | {"uplink": Pipe(ClipNoise(), TopK())}, "uplink.1", "put it before gaussian"),
    (NOISE | {"pace": Buffered(2, 4)}, "pace", "mixes rounds"),
    (NOISE | {"select": PowerOfChoice(1, 2)}, "select", "publishes"),
    ({"client": Scaffold()}, "client", "belong together"),
    ({"server": ScaffoldServer()}, "client", "belong together"),
    ({"client": Local(send="weights")}, "server.takes", "doubles the model"),
    ({"select": HeteroFL(), "aggregate": Krum()}, "aggregate", "sub-models differ in size"),
    ({"select": HeteroFL(), "value": ShapleyExact()}, "value", "sub-models differ in size"),
    (NOISE | {"select": HeteroFL(inner=PowerOfChoice(1, 2))}, "select", "publishes"),
    (NOISE | {"select": HeteroFL(inner=Poisson(0.5))}, "aggregate.denominator", "private under Poisson"),
    (SECRET | {"uplink": Pipe(RandK(), SecAgg()), "select": HeteroFL()}, "uplink.0", "before they are masked"),
    ({"aggregate": FedExLoRA()}, "client.send", "fedex-lora needs weights"),
    (WEIGHTS | {"aggregate": FedBuff()}, "client.send", "fedbuff needs delta"),
    ({"fold": "fixed", "aggregate": Krum()}, "fold", "no effect"),
    ({"reward": BudgetSplit()}, "reward", "nobody values"),
    ({"reward": ProportionalShare()}, "reward", "same auction"),
    ({"device": "cuda"}, "device", "no CUDA device"),
])
def test_what_cannot_work_is_refused_with_the_reason_and_the_fix(slots: dict[str, Any], where: str, words: str) -> None:
    if "device" in slots and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    found = [p for p in check(quadratics(**slots)) if p.where == where and words in f"{p.what}; {p.why}; {p.fix}"]
    assert len(found) == 1 and found[0].what and found[0].why and found[0].fix, check(quadratics(**slots))


def test_all_incompatibilities_come_at_once() -> None:
    fed = quadratics(
        uplink=Pipe(TopK(), ClipNoise(), SecAgg()),
        aggregate=Krum(),
        value=ShapleyExact(),
        pace=Buffered(2, 4),
        client=Scaffold(),
    )
    assert {p.where for p in check(fed)} >= {"client", "aggregate", "value", "pace", "uplink.0"} and len(
        check(fed)
    ) >= 7


@pytest.mark.parametrize("slots", [
    SECRET, NOISE, {"uplink": Pipe(ClipNoise(), SecAgg()), "aggregate": Mean(weights="equal")}, WEIGHTS,
    {"uplink": ErrorFeedback(TopK()), "aggregate": Krum(), "value": ShapleyExact(), "client": FedProx()},
    {"client": Scaffold(), "server": ScaffoldServer()}, {"select": HeteroFL()}, {"fold": "fixed", "uplink": SecAgg()},
    {"select": HeteroFL(), "uplink": SecAgg()}, {"uplink": Pipe(RandK(), SecAgg())}, {"select": HeteroFL(), "uplink": RandK()},
    {"select": HeteroFL(), "uplink": Pipe(ClipNoise(), SecAgg()), "aggregate": Mean(weights="equal")},
    {"pace": Buffered(2, 4), "aggregate": FedBuff()}, {"select": ProportionalShare(), "reward": ProportionalShare()},
])
def test_what_works_together_passes(slots: dict[str, Any]) -> None:
    assert check(quadratics(**slots)) == []


@pytest.mark.parametrize("slots", [
    {"uplink": ByPath({"*": ClipNoise()})}, {"uplink": ByPath({"*": SecAgg()})}, {"downlink": ClipNoise()},
    {"talk": ClipNoise()}, {"downlink": SecAgg()},
], ids=["noise by path", "masks by path", "noise downlink", "noise talk", "masks downlink"])
def test_protection_where_it_cannot_work_is_refused(slots: dict[str, Any]) -> None:
    """None of these ever adds its noise or masks: each must be an error, never run to the end."""
    assert check(quadratics(aggregate=Mean(weights="equal"), **slots))


def test_weights_inside_by_client_are_noticed() -> None:
    """The server would add models as if they were differences."""
    assert check(quadratics(client=ByClient({"*": Local(send="weights")})))
