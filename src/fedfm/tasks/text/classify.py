"""Sequence classification: an encoder's pooled, normalised features and a linear head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedfm.cards.registry import method
from fedfm.core.errors import DataError
from fedfm.core.protocols import Scores
from fedfm.core.schema import Column
from fedfm.data.kinds import Group, Label, Text
from fedfm.tasks.bound import BoundModule
from fedfm.tasks.network import load_tokenizer
from fedfm.tasks.networked import graded
from fedfm.tasks.text.encoder import Batch, EncoderTask, Pooled, Texts
from fedfm.text import markdown, nearest


@method(
    "sequence-classification",
    slot="task",
    section="II.A",
    also=("text-classification", "sentiment-analysis", "nli"),
)
@dataclass(frozen=True)
class SequenceClassification(EncoderTask):
    """Classify texts, or pairs of texts: `scale` times the L2-normalised mean (or first) token feature, a linear head.

    The head is always trained; `tuning` says what of the encoder is. Rows: `text`, `label` [, `text_pair`, `group`].
    Scores: accuracy, loss (mean cross-entropy, nats), and accuracy/GROUP.
    """

    columns = (
        Column("text", Text()),
        Column("text_pair", Text(), required=False),
        Column("label", Label()),
        Column("group", Group(), required=False),
    )

    def open(self, data: Any, device: str = "cpu") -> BoundModule:
        """Raises DataError when the data set has no labels, ModelError when the model cannot be used."""
        if not data.labels:
            raise DataError(
                "sequence-classification needs rows with `text` and `label`; these have no labels\n"
                "    fix: name the label column of the data set, or use the task causal-lm"
            )
        return self.begin(tuple(data.labels), device)

    def objective(self, labels: tuple[str, ...] | None, module: nn.Module | None = None) -> Pooled:
        return Classification(self, load_tokenizer(self.model), labels, module)

    def told(self, labels: tuple[str, ...] | None) -> tuple[str, str]:
        names = ", ".join(map(markdown, labels or ()))
        return (
            f"# A tuned text classifier\n\nLabels, in the order of the head's rows: {names}",
            'logits = features @ head["weight"].T + head["bias"]  # (texts, labels)',
        )


class Classification(Pooled):
    """Cross-entropy over the task's labels."""

    def __init__(
        self, task: Any, tokenizer: Any, labels: tuple[str, ...] | None, module: nn.Module | None = None
    ):
        super().__init__(task, tokenizer, labels, module)
        self.width = self.classes = len(labels or ())

    def targets(self, rows: Sequence[Mapping[str, Any]], party: str) -> Tensor:
        """Class numbers. Raises DataError for labels that the task does not know."""
        assert self.labels is not None
        numbers = {name: i for i, name in enumerate(self.labels)}
        unknown: dict[Any, Any] = {}
        for r in rows:
            if r.get("label") not in numbers:
                unknown.setdefault(r.get("label"), r.get("text"))
        if unknown:
            which = [
                f"the row {str(text)[:40]!r} has the unknown label {label!r} ({nearest(str(label), numbers)})"
                for label, text in unknown.items()
            ]
            raise DataError(f"{party}: {'; '.join(which)}\n    labels known: {', '.join(self.labels)}")
        return torch.tensor([numbers[r["label"]] for r in rows], dtype=torch.long)

    def logits(self, module: nn.Module, batch: Batch) -> Tensor:
        return self.outputs(module, batch)

    def classify(self, module: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.outputs(module, batch).argmax(-1), batch.labels

    def losses(self, module: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(self.outputs(module, batch), batch.labels, reduction="none")

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(self.outputs(module, batch), batch.labels)  # their mean, in one pass

    def score(self, module: nn.Module, encoded: Texts, device: torch.device) -> Scores:
        """`accuracy`, `loss`, and `accuracy/GROUP`; the same for the same rows in any order."""
        hits, losses = (
            torch.zeros(len(encoded), dtype=torch.bool),
            torch.zeros(len(encoded), dtype=torch.float64),
        )
        for index in self.chunks(encoded):
            batch = self.batch(encoded, index, device)
            logits = self.outputs(module, batch)
            hits[index] = (logits.argmax(-1) == batch.labels).cpu()
            losses[index] = functional.cross_entropy(logits, batch.labels, reduction="none").double().cpu()
        return graded(hits, losses, encoded.groups)

    def predict(self, module: nn.Module, texts: Any, device: torch.device) -> list[str]:
        """The most likely label of each text, or pair of texts."""
        labels = self.labels or ()
        return self.each(module, texts, device, lambda out: [labels[k] for k in out.argmax(-1).tolist()])
