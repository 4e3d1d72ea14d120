"""The way from one tuning to the next, against an oracle written from SLoRA's equations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fedfm.core.errors import ModelError
from fedfm.efficiency.computation.tuning.full import Full
from fedfm.efficiency.computation.tuning.ia3 import IA3
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.efficiency.computation.tuning.sparse import Sparse
from fedfm.tasks.beginning.warm import begin, trail
from fedfm.tasks.quadratic import Quadratic
from fedfm.tasks.text.classify import SequenceClassification
from fedfm.tasks.tuning import Tuning

IDS, MASK = torch.arange(24).view(4, 6), torch.ones(4, 6, dtype=torch.long)
Q = "encoder.layer.0.attention.self.query.weight"  # (32, 32) in the base network


class Labels:
    labels = ("a", "b")


def task(tuning: Tuning) -> Any:
    return SequenceClassification(model="tiny-encoder", tuning=tuning).open(Labels())


def trained(bound: Any, size: float = 0.1) -> Tensor:
    noise = torch.randn(bound.layout.size, generator=torch.Generator().manual_seed(1))
    return bound.init + size * bound.layout.blank(noise)


def said(bound: Any, x: Tensor) -> Tensor:
    """Logits of the model x."""
    bound.load(x)
    with torch.no_grad():
        found: Tensor = bound.module.eval()(IDS, MASK)
    return found


def product(bound: Any, x: Tensor) -> Tensor:
    """s B A of one layer, from the vector."""
    views, name = bound.layout.views(x), Q.removesuffix(".weight")
    a, b = (views[f"encoder.base_model.model.{name}.lora_{part}.default.weight"] for part in "AB")
    return 2.0 * b @ a  # alpha / r


@pytest.fixture(scope="module")
def sparse() -> Any:
    return task(Sparse(r=2))


@pytest.mark.parametrize("r", [1, 4, 32])
def test_lora_begins_from_the_best_approximation_of_what_has_moved(r: int, sparse: Any) -> None:
    """s B A = [U]_r; relative error = sqrt(tail of the squared spectrum) / ||U||; with the full rank nothing changes."""
    x, left, lora = trained(sparse), trail(sparse, trained(sparse)), task(LoRA(r=r, alpha=2.0 * r))
    start, kept = begin(lora, left)
    u = left.moved[Q]
    p, s, q = torch.linalg.svd(u)
    best = (p[:, :r] * s[:r]) @ q[:r]
    assert torch.allclose(product(lora, start), best, atol=1e-6)
    error = float((product(lora, start) - u).norm() / u.norm())
    assert error == pytest.approx(float((s[r:] ** 2).sum().sqrt() / u.norm()), abs=1e-6)
    tails = [float((torch.linalg.svdvals(v)[r:] ** 2).sum()) for v in left.moved.values()]
    whole = sum(float((v**2).sum()) for v in left.moved.values())
    assert kept == pytest.approx(1.0 - sum(tails) / whole, abs=1e-6)
    if r == 32:
        assert torch.allclose(said(lora, start), said(sparse, x), atol=1e-5)
    heads = [b.layout.views(v)["head.weight"] for b, v in ((lora, start), (sparse, x))]
    assert torch.equal(*heads)


def test_a_payload_is_the_entries_under_the_mask_and_nothing_else(sparse: Any) -> None:
    layers = [e for e in sparse.layout.entries if "shira" in e.name]
    assert [e.size for e in layers] == [2 * (32 + 32)] * 4 and not any("indices" in e.name for e in layers)
    moved = trail(sparse, trained(sparse)).moved
    assert {int((u != 0).sum()) for u in moved.values()} == {2 * (32 + 32)}
    again = trail(task(Sparse(r=2)), trained(sparse)).moved
    other = trail(task(Sparse(r=2, mask_seed=1)), trained(sparse)).moved
    assert all(torch.equal(u, again[n]) for n, u in moved.items())
    assert any(not torch.equal(u, other[n]) for n, u in moved.items())


def test_the_sparse_update_is_added_to_the_base(sparse: Any) -> None:
    x, full = trained(sparse), task(Full())
    start, kept = begin(full, trail(sparse, x))
    assert kept == pytest.approx(1.0) and torch.allclose(said(full, start), said(sparse, x), atol=1e-6)


def test_what_has_not_moved_can_still_learn(sparse: Any) -> None:
    """Factors of a zero matrix would be zero both, and would never get a gradient."""
    lora = task(LoRA(r=4))
    start, kept = begin(lora, trail(sparse, sparse.init))
    assert torch.equal(start, lora.init) and kept == 1.0
    one = sparse.init.clone()
    name = f"encoder.base_model.model.{Q.removesuffix('.weight')}.shira_weight.default"
    sparse.layout.views(one)[name][0] = 0.5  # of rank one
    start, kept = begin(lora, trail(sparse, one))
    a = lora.layout.views(start)[
        f"encoder.base_model.model.{Q.removesuffix('.weight')}.lora_A.default.weight"
    ]
    b = lora.layout.views(start)[
        f"encoder.base_model.model.{Q.removesuffix('.weight')}.lora_B.default.weight"
    ]
    assert kept == pytest.approx(1.0) and bool((a.norm(dim=1) > 0).all()) and not b[:, 1:].any()


def test_a_residual_takes_the_rest(sparse: Any) -> None:
    x, lora = trained(sparse), task(LoRA(r=2, residual=True))
    start, kept = begin(lora, trail(sparse, x))
    assert kept == pytest.approx(1.0) and torch.allclose(said(lora, start), said(sparse, x), atol=1e-5)


def test_full_and_lora_themselves_may_come_first() -> None:
    full, lora = task(Full()), task(LoRA(r=4))
    start, kept = begin(lora, trail(full, trained(full, 0.02)))
    assert 0.0 < kept < 0.5 and not torch.equal(start, lora.init)  # most of it has no place, and that is told
    wider = task(LoRA(r=8))
    x = trained(lora)
    start, kept = begin(wider, trail(lora, x))
    assert kept == pytest.approx(1.0) and torch.allclose(said(wider, start), said(lora, x), atol=1e-5)


def test_what_cannot_go_on_is_refused(sparse: Any) -> None:
    left = trail(sparse, trained(sparse))
    for tuning, why in (
        (IA3(), "cannot go on"),
        (Sparse(r=2), "cannot go on"),
        (LoRA(train="B"), "as it was drawn"),
    ):
        with pytest.raises(ModelError, match=why):
            begin(task(tuning), left)
    with pytest.raises(ModelError, match="by how much"):
        trail(task(IA3()), task(IA3()).init)
    with pytest.raises(ModelError, match="other base models"):
        begin(Quadratic(dim=3).open(None), left)
    with pytest.raises(ModelError, match="train other tensors"):
        begin(Quadratic(dim=3).open(None), trail(Quadratic(dim=2).open(None), torch.zeros(16)))


def test_without_a_tuning_the_vector_itself_goes_on() -> None:
    bound = Quadratic(dim=3).open(None)
    x = bound.layout.pack({"x": torch.tensor([1.0, 2.0, 3.0])})
    start, kept = begin(bound, trail(bound, x))
    assert torch.equal(start, x) and kept == 1.0
