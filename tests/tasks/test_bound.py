"""A module on the flat buffer: losses, parts of a split, other losses, and state that the vector does not hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from fedfm.core.context import Terms
from fedfm.core.errors import FedfmError
from fedfm.core.protocols import Scores
from fedfm.data.source import Parties, Shard
from fedfm.tasks.bound import BoundModule, Objective
from fedfm.tasks.vision.image import ImageClassification

G = torch.Generator().manual_seed(0)
IMAGES = tuple(
    {"image": torch.randint(0, 256, (1, 8, 8), generator=G, dtype=torch.uint8), "label": "ab"[i % 2]}
    for i in range(9)
)
DATA = Parties((Shard("p", IMAGES),), labels=("a", "b"))


@pytest.fixture
def images() -> tuple[BoundModule, Any, Any]:
    bound = ImageClassification(channels=(2, 4, 4)).open(DATA)
    encoded = bound.encode(DATA.train("p"))
    return bound, encoded, bound.batch(encoded, torch.arange(9))


class Regression(Objective):
    """Least squares on rows of an array."""

    def batch(self, encoded: Tensor, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        return encoded[index, :4], encoded[index, 4:]

    def losses(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (module(batch[0]) - batch[1]).square().sum(1)

    def score(self, module: nn.Module, encoded: Tensor, device: torch.device) -> Scores:
        return {"loss": self.risk(module, encoded, device)}


def opened(*layers: nn.Module, **given: Any) -> BoundModule:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BoundModule(nn.Sequential(nn.Linear(4, 3), *layers, nn.Linear(3, 1)), Regression(), **given)


ROWS = torch.randn(300, 5, generator=torch.Generator().manual_seed(1))


def test_the_loss_is_the_mean_of_the_losses(images: tuple[BoundModule, Any, Any]) -> None:
    bound, encoded, batch = images
    each = bound.losses(batch)
    assert each.shape == (9,) and not each.requires_grad
    assert bound.loss(batch) == pytest.approx(float(each.mean()), rel=1e-6)
    total, n = bound.risk(encoded)
    assert n == 9 and total == pytest.approx(float(each.double().sum()), rel=1e-6)
    assert total == pytest.approx(bound.score(encoded)["loss"][0], rel=1e-6)


def test_risk_is_taken_in_evaluation_mode_in_any_number_of_chunks() -> None:
    bound = opened(nn.Dropout(0.5))
    bound.module.train()
    total, n = bound.risk(ROWS)
    bound.module.eval()
    assert n == 300 and total == pytest.approx(
        float(bound.losses(bound.batch(ROWS, torch.arange(300))).sum())
    )
    bound.module.train()
    frozen = bound.module.get_submodule("0").eval()
    bound.score(ROWS)
    assert bound.module.training and not frozen.training  # each layer has its own mode back
    assert bound.risk(ROWS[:0]) == (0.0, 0)


def test_another_loss_takes_the_place_of_the_objectives(images: tuple[BoundModule, Any, Any]) -> None:
    bound, _, batch = images
    bound.gradient(batch)
    own = bound.grads.clone()
    twice = bound.gradient(batch, lambda module, b: 2 * F.cross_entropy(module(b[0]), b[1]))
    assert torch.equal(bound.grads, 2 * own) and twice == pytest.approx(2 * bound.loss(batch))
    assert bound.gradient(batch, lambda module, b: (module.head.bias**2).sum()) == pytest.approx(
        float((bound.layout.views(bound.params)["head.bias"] ** 2).sum())
    )
    views = bound.layout.views(bound.grads)
    assert views["head.bias"].any() and not views["front.0.weight"].any()


def test_three_parts_are_the_whole(images: tuple[BoundModule, Any, Any]) -> None:
    bound, _, batch = images
    flat = bound.init.clone().requires_grad_()
    views = bound.layout.views(flat)
    acts = bound.part("front", views, batch)
    target = bound.objective.target(batch)
    two = bound.part("back", views, acts, target)
    three = bound.part("tail", views, bound.part("body", views, acts), target)
    assert float(two.detach()) == float(three.detach()) == bound.loss(batch)
    three.backward()  # type: ignore[no-untyped-call]
    bound.gradient(batch)
    assert flat.grad is not None and torch.allclose(flat.grad, bound.grads, atol=1e-7)
    names = {
        name: {e.name for p in patterns for e in bound.layout.sub(p)[0].entries}
        for name, patterns in bound.objective.parts.items()
    }
    assert names["front"] | names["body"] | names["tail"] == {e.name for e in bound.layout.entries}
    with pytest.raises(FedfmError, match="no part 'bakc': did you mean 'back'"):
        bound.part("bakc", views, acts)
    with pytest.raises(FedfmError, match="not cut into parts"):
        opened().part("front", {}, None)


def test_a_clients_own_terms(images: tuple[BoundModule, Any, Any]) -> None:
    bound, _, _ = images
    assert bound.at("party-0", Terms()) is bound
    small = bound.at("party-0", Terms(width=0.5))
    assert small is bound.at("party-1", Terms(width=0.5)) and small.layout.size < bound.layout.size


# ---- state that the vector does not hold --------------------------------------------------------------------------
@pytest.mark.parametrize("layer", [nn.BatchNorm1d(3), nn.SyncBatchNorm(3), nn.LazyBatchNorm1d()])
def test_undeclared_running_statistics_are_refused_at_binding(layer: nn.Module) -> None:
    if isinstance(layer, nn.LazyBatchNorm1d):
        layer(torch.randn(2, 3))
    with pytest.raises(
        FedfmError, match=r"(?s)changes 1.running_mean, .*buffers=\('1.running_mean', '1.running_var"
    ):
        opened(layer)


def test_norms_without_state_are_not_refused() -> None:
    for layer in (nn.LayerNorm(3), nn.BatchNorm1d(3, track_running_stats=False)):
        bound = opened(layer)
        bound.gradient(bound.batch(ROWS, torch.arange(8)))


class Counts(nn.Module):
    """Counts its calls, in place or by a new tensor."""

    def __init__(self, fresh: bool):
        super().__init__()
        self.fresh = fresh
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.fresh:
            self.calls = self.calls + 1
        else:
            self.calls += 1
        return x


@pytest.mark.parametrize("layer", [Counts(False), Counts(True), spectral_norm(nn.Linear(3, 3))])
def test_any_other_state_is_refused_at_the_first_step(layer: nn.Module) -> None:
    bound = opened(layer)
    with pytest.raises(FedfmError, match=r"forward pass changes 1\."):
        bound.gradient(bound.batch(ROWS, torch.arange(8)))


class Average(nn.Module):
    """A running mean in a dtype of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, dtype=torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        mean: Any = self.mean
        mean.lerp_(x.detach().mean(0).to(mean.dtype), 0.5)
        return x


def test_declared_statistics_travel_in_the_vector() -> None:
    names = ("1.running_mean", "1.running_var", "1.num_batches_tracked", "2.mean")
    bound = opened(nn.BatchNorm1d(3, momentum=0.5), Average(), buffers=names)
    for _ in range(16):  # all steps count, also in tensors that are not fp32
        bound.gradient(bound.batch(ROWS, torch.arange(8)))
    views = bound.layout.views(bound.read())
    assert float(views["1.num_batches_tracked"]) == 16
    with torch.no_grad():
        seen = bound.module.get_submodule("0")(ROWS[:8, :4])
    assert torch.allclose(views["1.running_mean"], seen.mean(0), atol=1e-4)
    normed = F.batch_norm(seen, None, None, training=True).mean(0)
    assert torch.allclose(views["2.mean"], normed, atol=1e-2)
    bound.load(bound.init)  # another client's turn
    assert int(bound.module.get_buffer("1.num_batches_tracked")) == 0
