"""What is no dense vector of real numbers is the method's fault, in words, on every engine; numbers too large cost their party."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from fedfm.core.errors import MethodFault
from fedfm.core.message import Message
from fedfm.core.protocols import Bound, State
from fedfm.efficiency.training.local import Local
from fedfm.laws.homes import quadratics

ODD: dict[str, Any] = {
    "sparse": lambda m: replace(m, x=m.x.to_sparse()),
    "meta": lambda m: replace(m, x=m.x.to("meta")),
    "complex": lambda m: replace(m, x=m.x.to(torch.complex64)),
    "quantised": lambda m: replace(m, x=torch.quantize_per_tensor(m.x, 0.1, 0, torch.qint8)),
    "array": lambda m: replace(m, x=m.x.numpy()),
    "bool weight": lambda m: replace(m, mass=True),
    "text weight": lambda m: replace(m, mass="3"),
}
HUGE: dict[str, Any] = {
    "fp32": lambda m: replace(m, x=torch.full_like(m.x, 3e38)),
    "fp64": lambda m: replace(m, x=torch.full_like(m.x, 1e300, dtype=torch.float64)),
    "weight": lambda m: replace(m, x=torch.full_like(m.x, 1e33), mass=1e6),
    "alternating": lambda m: replace(m, x=torch.where(torch.arange(m.x.numel()) % 2 == 0, 3e38, -3e38)),
    "not a number": lambda m: replace(m, x=m.x * np.nan),
}


@dataclass(frozen=True)
class Odd(Local):
    """Sends what `how` makes of its update; the party `who` alone where it is said."""

    how: str = "sparse"
    who: str = ""

    def work(self, brief: Message, data: Any, state: State, ctx: Any, bound: Bound) -> tuple[Message, State]:
        m, state = super().work(brief, data, state, ctx, bound)
        return (m if self.who not in ("", ctx.client) else (ODD | HUGE)[self.how](m)), state


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", ODD)
def test_what_is_no_vector_of_numbers_ends_the_run_in_words(how: str, workers: int, drive: Any) -> None:
    with pytest.raises(MethodFault, match="client: Odd sends .* sent"):
        drive(quadratics(client=Odd(how=how)), workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", HUGE)
def test_numbers_that_no_sum_holds_cost_their_party_alone(how: str, workers: int, drive: Any) -> None:
    fed = quadratics(client=Odd(lr=0.01, steps=1, how=how, who="party-0"), rounds=2)
    played = drive(fed, workers=workers)
    assert torch.isfinite(played.run.model()).all()
    lost = [e for e in played.events if e["kind"] in ("failed", "refused") and e.get("client") == "party-0"]
    assert len(lost) == 2 and not [e for e in played.events if e["kind"] == "round_failed"]
