"""Label flipping: malicious parties train honestly on wrong labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedfm.around import AroundClient
from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed
from fedfm.core.message import Message
from fedfm.core.protocols import Adversary, Bound, Client, State
from fedfm.data.source import Shard
from fedfm.trust.robustness.attack.membership import drawn


@method(
    "label-flip",
    slot="adversary",
    section="V.A",
    survey=(70,),
    paper="Biggio et al., Support vector machines under adversarial label noise, ACML 2011; "
    "Tolpegin et al., Data poisoning attacks against federated learning systems, ESORICS 2020",
    also=("data-poisoning",),
)
@dataclass(frozen=True)
class LabelFlip(Adversary):
    """Malicious parties change labels before training: y to L - 1 - y of L classes, or `source` to `target`.

    floor(rate * m) of the m labels that the mapping would change are changed, the same ones in every round; negative
    labels (ignored positions) and the held-out data are untouched. For tasks with one class label an example.
    """

    fraction: float | None = knob(0.2, "share of malicious parties", above=0.0, high=1.0, alternative="size")
    count: int | None = knob(
        None, "number of malicious parties, instead of the share", low=1, alternative="size"
    )
    mapping: str = knob("reverse", "reverse: y to L-1-y; pair: source to target", choices=("reverse", "pair"))
    source: int = knob(0, "label that `pair` changes", low=0)
    target: int = knob(1, "label that `pair` puts there", low=0)
    rate: float = knob(1.0, "share of the labels in question that is flipped", low=0.0, high=1.0)
    classes: int = knob(0, "L, for `reverse`; 0: what the task says", low=0)

    def __post_init__(self) -> None:
        if self.mapping == "pair" and self.source == self.target:
            raise ValueError(
                f"pair flips label {self.source} to itself, which changes nothing: set another target"
            )

    def feasible(self, parties: int, bound: Bound) -> str:
        """Labels that are not there cannot be flipped; nor can unknown classes, nor others than there are."""
        data = bound.encode(Shard("", ()))
        if not isinstance(getattr(data, "labels", None), Tensor) or not hasattr(data, "with_labels"):
            return (
                "label-flip needs data with class labels, and this task's have none: every malicious party would fail "
                "in every round, and any defence would look perfect; use sign-flip, or a classification task"
            )
        known = _known(bound)
        n = known or self.classes
        if self.mapping == "reverse" and not n:
            return (
                "reversing labels needs the number of classes, which this task does not say; adversary.classes=NUMBER, where its "
                "labels are whole numbers"
            )
        if known and self.classes and self.classes != known:
            return f"adversary.classes={self.classes}, and the task has {known} classes; adversary.classes=0 takes what the task says"
        if n and self.mapping == "pair" and max(self.source, self.target) >= n:
            return f"label {max(self.source, self.target)} of {n} classes, which count from 0; lower adversary.source and .target"
        return ""

    def members(self, ids: Sequence[str], ctx: Ctx) -> frozenset[str]:
        return drawn(ids, self.fraction, self.count, ctx)

    def idle(self, data: Any, ctx: Ctx, bound: Bound) -> str:
        n = self.classes or _known(bound)
        if not isinstance(data.labels, Tensor):
            return "its targets are no class numbers (whole ones): there are no labels to flip"
        if self.mapping == "reverse" and data.labels.numel() and int(data.labels.max()) >= n:
            return f"it holds label {int(data.labels.max())}, which {n} classes, counted from 0, have not (adversary.classes)"
        if torch.equal(self.flipped(data.labels, n, ctx.at(round=0).rng("label-flip")), data.labels):
            what = f"label {self.source}" if self.mapping == "pair" else "label that it would change"
            return f"it has no {what}, or fewer than rate={self.rate:g} needs to flip one"
        return ""

    def wrap(self, client: Client) -> Client:
        return _Mislabelled(client, self)

    def flipped(self, labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
        """A copy of `labels` (long, any shape) with the flips."""
        if self.mapping == "reverse":
            wrong = torch.where(labels >= 0, classes - 1 - labels, labels)
        else:
            wrong = torch.where(labels == self.source, self.target, labels)
        places = (wrong != labels).reshape(-1).nonzero().reshape(-1)
        order = torch.randperm(places.numel(), generator=generator)
        chosen = places[order[: math.floor(self.rate * places.numel() + 1e-9)]]
        out = labels.clone()
        out.view(-1)[chosen] = wrong.reshape(-1)[chosen]
        return out


@dataclass(frozen=True)
class _Mislabelled(AroundClient):
    """A client that sees flipped labels; the data themselves stay as they are."""

    inner: Client
    attack: LabelFlip

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> Any:
        if not isinstance(labels := getattr(data, "labels", None), Tensor) or not hasattr(
            data, "with_labels"
        ):
            raise ClientFailed(
                "label-flip: this task's data have no class labels to flip; it works on classification "
                "tasks (of texts, images, features), not on language modelling"
            )
        # Drawn for round 0 whatever the round: flipping other labels each time would be noise, not a poisoned data set.
        wrong = self.attack.flipped(labels, self._classes(labels, bound), ctx.at(round=0).rng("label-flip"))
        return self.inner.work(brief, data.with_labels(wrong), state, ctx, bound)

    def _classes(self, labels: Tensor, bound: Bound) -> int:
        if self.attack.mapping == "pair":
            return 0
        n = self.attack.classes or _known(bound)
        if not n:
            raise ClientFailed(
                "label-flip: mapping=reverse needs the number of classes, which this task does not say "
                "(a party may hold only some of them): set adversary.classes"
            )
        if labels.numel() and int(labels.max()) >= n:
            raise ClientFailed(
                f"label-flip: label {int(labels.max())} with {n} classes; correct adversary.classes"
            )
        return n


def _known(bound: Bound) -> int:
    """How many classes the task says that there are; 0: it does not say."""
    return int(getattr(bound.objective, "classes", 0)) or len(getattr(bound.objective, "labels", None) or ())
