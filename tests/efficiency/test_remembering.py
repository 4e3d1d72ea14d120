"""Codecs that remember, against slow oracles: EF21, DIANA's shift, deep gradient compression."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedfm.core.combine import Pipe
from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed, MessageRefused
from fedfm.core.state import Store
from fedfm.efficiency.communication.codec.entropy import Entropy
from fedfm.efficiency.communication.codec.error_feedback import ErrorFeedback
from fedfm.efficiency.communication.codec.qsgd import QSGD
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.communication.memory.dgc import DGC
from fedfm.efficiency.communication.memory.ef21 import EF21
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.incentives.selection.uniform import Uniform
from fedfm.laws.compare import normal, same
from fedfm.laws.homes import quadratics
from fedfm.pace import AllArrive
from fedfm.tasks.quadratic import Quadratic, Quadratics
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian
from fedfm.vectors.layout import Entry, Layout


def ctx(d: int, t: int = 0) -> Ctx:
    return Ctx(7, t, client="a", layout=Layout((Entry("x", (d,), 0),), d))


def top(x: np.ndarray, k: int) -> np.ndarray:
    """Top-k, slowly."""
    out = np.zeros_like(x)
    order = sorted(range(len(x)), key=lambda i: (-abs(x[i]), i))[:k]
    out[order] = x[order]
    return out


def test_ef21_against_a_slow_oracle() -> None:
    """g <- g + top(x - g), and the server takes g."""
    g, state, memory = np.zeros(12), dict[str, Any](), dict[str, Any]()
    for t in range(30):
        x = normal(12, t)
        y, side, state = EF21(TopK(count=3)).encode(x, state, ctx(12, t))
        got, memory = EF21(TopK(count=3)).decode(y, side, memory, ctx(12, t))
        g = g + top(x.numpy().astype(np.float32) - g.astype(np.float32), 3)
        assert np.allclose(got.numpy(), g, atol=1e-5)
        assert same(state["g"], memory["g"]) and torch.equal(got, memory["g"])  # both ends know the same


def test_ef21_of_a_constant_arrives_whole() -> None:
    """d/k messages of one update tell it all; error feedback goes on sending lumps."""
    x, ef21, feedback = normal(20, 1), dict[str, Any](), dict[str, Any]()
    memory: dict[str, Any] = {}
    for t in range(10):
        y, side, ef21 = EF21(TopK(0.1)).encode(x, ef21, ctx(20, t))
        got, memory = EF21(TopK(0.1)).decode(y, side, memory, ctx(20, t))
        z, _, feedback = ErrorFeedback(TopK(0.1)).encode(x, feedback, ctx(20, t))
    assert torch.allclose(got, x, atol=1e-6) and z.numel() == 2


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("uplink", "reaches"),
    [(EF21(TopK(count=1)), True), (TopK(count=1), False), (Pipe(EF21(TopK(count=1)), Entropy()), True)],
    ids=repr,
)
def test_ef21_reaches_the_optimum_where_top_k_does_not(uplink: Any, reaches: bool, drive: Any) -> None:
    """Parties pull to different points: at the optimum no party's update is zero, and one value of three travels."""
    data = Quadratics(a=(1.0, 2.0, 4.0), b=(-3.0, 1.0, 2.0))

    class Tilted(Quadratic):
        """Each coordinate has its own optimum, so that the parties' largest values differ."""

        def open(self, data: Any, device: str = "cpu") -> Any:
            bound = super().open(data, device)
            tilt = torch.tensor([1.0, -2.0, 0.5])
            bound.objective.loss = (
                lambda m, b: (
                    (  # type: ignore[method-assign]
                        b[:, :1] / 2 * (m.get_parameter("x") - b[:, 1:] * tilt) ** 2
                    )
                    .sum(1)
                    .mean()
                )
            )
            return bound

    fed = quadratics(
        task=Tilted(dim=3),
        data=data,
        client=Local(lr=0.02, steps=1, batch=0),
        aggregate=Mean(weights="equal"),
        uplink=uplink,
        rounds=400,
    )
    got = drive(fed).model[:3]
    right = torch.tensor([1.0, -2.0, 0.5]) * (-3 + 2 + 8) / 7
    assert bool((got - right).abs().max() < 1e-3) is reaches


def test_a_first_message_that_is_whole_is_the_model_and_the_copy_follows_it() -> None:
    """The receiver has x after the first message, and the code of each later difference; a party that begins anew too."""
    wire, d, rng = EF21(TopK(0.25), whole_first=True), 16, np.random.default_rng(3)
    x, sender, receiver = rng.normal(size=d), {}, {}
    copy = x.copy()
    for t in range(5):
        y, side, sender = wire.encode(torch.tensor(x).float(), sender, ctx(d, t))
        got, receiver = wire.decode(y, side, receiver, ctx(d, t))
        copy = copy + top(x - copy, 4)
        assert got.numpy() == pytest.approx(copy, abs=1e-5)
        assert sorted(sender) == sorted(receiver) == ["g"] and torch.equal(sender["g"], receiver["g"])
        x = x + 0.1 * rng.normal(size=d)
    assert wire.follows and not EF21(TopK(0.25)).follows and EF21(QSGD()).follows
    with pytest.raises(MessageRefused, match="whole"):
        wire.decode(torch.zeros(d, dtype=torch.int8), {}, {}, ctx(d))


@pytest.mark.slow
def test_ef21_both_ways_reaches_the_optimum_with_a_third_of_the_values(drive: Any) -> None:
    """One value of three travels up and one down; each receiver's estimate of the model follows it, and all agree at the end."""
    wire = EF21(TopK(count=1))
    fed = quadratics(
        task=Quadratic(dim=3),
        data=Quadratics(a=(1.0, 2.0, 4.0), b=(-3.0, 1.0, 2.0)),
        client=Local(lr=0.02, steps=1, batch=0),
        aggregate=Mean(weights="equal"),
        uplink=wire,
        downlink=replace(wire, whole_first=True),
        rounds=600,
    )
    model = drive(fed, workers=0).model
    optimum = (1.0 * -3.0 + 2.0 * 1.0 + 4.0 * 2.0) / 7.0
    assert torch.allclose(model[:3], torch.full((3,), optimum), atol=1e-3), model


@pytest.mark.parametrize(
    "slots",
    [{"select": Uniform(count=2)}, {"pace": AllArrive(dropout=0.4)}],
    ids=["by some", "dropped uploads"],
)
@pytest.mark.parametrize("uplink", [EF21(TopK(0.4)), EF21(QSGD(7), rate=0.2), DGC(0.4)], ids=repr)
def test_both_ends_agree_after_partly_accepted_rounds(
    slots: Any, uplink: Any, drive: Any, tmp_path: Path
) -> None:
    """A party's memory moves with the server's, also where uploads were lost; the same on workers."""
    fed = quadratics(uplink=uplink, rounds=8, **slots)
    one, two = drive(fed, workers=0), drive(fed, workers=2)
    assert torch.equal(one.model, two.model) and one.digest == two.digest
    st = one.run.state
    for i in one.run.parties:
        there = one.run.books.senders.of(i).get("0", {}).get("g")
        kept = (
            Store(tmp_path / "run-0" / "clients").load(i, st.accepted.get(i, 0)).get("wire", {}).get("0", {})
        )
        here = kept.get("g")
        assert (here is None and there is None) or torch.equal(here, there), i


def test_what_they_refuse() -> None:
    with pytest.raises(ValueError, match="LocalGaussian"):
        EF21(LocalGaussian())
    with pytest.raises(ValueError, match="below 1"):
        DGC(momentum=1.0)
    for wire in (EF21(TopK(0.5)), DGC(0.5)):
        _, _, state = wire.encode(normal(8), {}, ctx(8))
        with pytest.raises(ClientFailed, match="one"):
            wire.encode(normal(9), state, ctx(9))
    assert EF21([TopK(0.5), QSGD(7)]) == EF21(Pipe(TopK(0.5), QSGD(7)))  # type: ignore[arg-type]


def test_dgc_against_a_slow_oracle() -> None:
    u, v, state = np.zeros(10, np.float32), np.zeros(10, np.float32), dict[str, Any]()
    for t in range(25):
        x = normal(10, t)
        u = np.float32(0.9) * u + x.numpy()
        v = v + u
        sent = top(v, 2)
        u[sent != 0], v[sent != 0] = 0, 0
        y, side, state = DGC(0.2).encode(x, state, ctx(10, t))
        assert np.allclose(DGC(0.2).decode(y, side, {}, ctx(10, t))[0].numpy(), sent, atol=1e-5)


def test_dgc_without_momentum_is_error_feedback_and_whole_is_plain() -> None:
    one, two = dict[str, Any](), dict[str, Any]()
    wires: list[tuple[Any, Any]] = [(DGC(0.3, momentum=0.0), ErrorFeedback(TopK(0.3)))]
    for dgc, feedback in wires:
        for t in range(10):
            x = normal(20, t)
            a, side, one = dgc.encode(x, one, ctx(20, t))
            b, other, two = feedback.encode(x, two, ctx(20, t))
            assert torch.allclose(a, b, atol=1e-6) and torch.equal(side["index"], other["index"])
    state: dict[str, Any] = {}
    for t in range(5):  # every entry travels: masking begins each one's momentum anew
        x = normal(20, t)
        y, _, state = DGC(1.0).encode(x, state, ctx(20, t))
        assert torch.equal(y, x)


def test_dgc_warms_up() -> None:
    """25 %, 6.25 %, 1.5625 % and then the fraction, whatever rounds a party takes part in."""

    def sent(t: int) -> int:
        y: Tensor = DGC(0.01, warmup=3).encode(normal(1000), {}, ctx(1000, t))[0]
        return y.numel()

    assert [sent(t) for t in range(5)] == [250, 63, 16, 10, 10]
