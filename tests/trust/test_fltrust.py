"""FLTrust against its formula, and against attackers in a federation."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from federations import VALUED, digits
from fedfm.checks.rules import check
from fedfm.core.context import Ctx
from fedfm.core.errors import DataError
from fedfm.core.message import Message
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.secure.secagg import SecAgg
from fedfm.trust.robustness.attack.sign_flip import SignFlip
from fedfm.trust.robustness.rule.fltrust import FLTrust
from fedfm.vectors.layout import Layout

LAYOUT = Layout.of({"w": (16,)})


def combined(updates: list[list[float]], guide: list[float]) -> torch.Tensor:
    own = Message(LAYOUT.pack({"w": torch.tensor(guide + [0.0] * (16 - len(guide)))}))
    ctx = Ctx(0, layout=LAYOUT, house=SimpleNamespace(learn=lambda: own))
    rows = [torch.tensor(u + [0.0] * (16 - len(u))) for u in updates]
    return FLTrust().combine([Message(r, sender=f"p{k}") for k, r in enumerate(rows)], {}, ctx)[0]


def test_by_hand() -> None:
    """g = (3, 4): u = (4, 3) has cosine 24/25, u = (0, 10) has 4/5; both become 5 long."""
    t, s = 24 / 25, 4 / 5
    wanted = [(t * 4 + s * 0) / (t + s), (t * 3 + s * 5) / (t + s)]
    got = combined([[4.0, 3.0], [0.0, 10.0]], [3.0, 4.0])
    assert got[:2].tolist() == pytest.approx(wanted, rel=1e-6) and not got[2:].any()


@pytest.mark.parametrize("c", [1e-6, 0.5, 1e6])
def test_same_direction_gives_the_guide_and_the_opposite_nothing(c: float) -> None:
    guide = [3.0, 4.0]
    same, against = [c * v for v in guide], [-c * v for v in guide]
    assert torch.allclose(combined([same, against], guide)[:2], torch.tensor(guide))
    assert (
        combined([against, against], guide)[:2].tolist() == guide
    )  # nobody is trusted: the server's own update


def test_no_attack_makes_it_longer_than_the_guide() -> None:
    rng = torch.Generator().manual_seed(1)
    for scale in (1e-3, 1.0, 1e12):
        rows = (torch.randn(7, 16, generator=rng) * scale).tolist()
        guide = torch.randn(16, generator=rng)
        assert float(combined(rows, guide.tolist()).norm()) <= float(guide.norm()) * (1 + 1e-6)


def test_in_a_federation_a_majority_of_attackers_does_little(drive: Any) -> None:
    """Four of six turn their updates round, thirty times as long: the mean is lost, FLTrust learns on."""
    slots: dict[str, Any] = {"data": replace(VALUED, server_rows=20), "rounds": 6, "client": None}
    from fedfm.efficiency.training.local import Local

    slots["client"] = Local(lr=0.3, steps=6, batch=16)
    attack = SignFlip(count=4, scale=30.0)
    honest = drive(digits(**slots))
    mean = drive(digits(**slots, adversary=attack))
    trusted = drive(digits(**slots, adversary=attack, aggregate=FLTrust()))
    loss = {k: p.records[-1]["metrics"]["loss"] for k, p in (("h", honest), ("m", mean), ("t", trusted))}
    assert not (loss["m"] < loss["t"]) and loss["t"] < loss["h"] + 0.1, loss


def test_what_it_cannot_go_with_is_refused() -> None:
    assert any("reads single messages" in p.what for p in check(digits(aggregate=FLTrust(), uplink=SecAgg())))
    assert check(digits(aggregate=FLTrust(), uplink=ClipNoise(0.5, 1.0)))


def test_without_rows_of_the_servers_own_it_says_the_knob(drive: Any) -> None:
    with pytest.raises(DataError, match="data.server_rows=200"):
        drive(digits(aggregate=FLTrust()))
