"""Regression on texts: a number for each text or pair of texts, such as a rating or a similarity."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedfm.cards.registry import knob, method
from fedfm.checks.fitted import Fitted
from fedfm.core.errors import DataError, Problem
from fedfm.core.protocols import Scores
from fedfm.core.schema import Column
from fedfm.data.kinds import Group, Number, Text
from fedfm.tasks.bound import BoundModule, members
from fedfm.tasks.network import load_tokenizer
from fedfm.tasks.text.encoder import Batch, EncoderTask, Pooled, Texts

FAR = (
    10.0  # spreads between a target and the centre from which on a head that begins at the centre is refused
)


@method(
    "text-regression",
    slot="task",
    section="II.A",
    paper="Reimers and Gurevych, Sentence-BERT: sentence embeddings using Siamese BERT-networks, EMNLP 2019 (the "
    "regression objective, there on two separate features)",
    also=("regression", "sts", "stsb"),
)
@dataclass(frozen=True)
class TextRegression(EncoderTask):
    """Predict a number for each text or pair of texts: `center + spread * (w . feature + b)`, by least squares.

    Rows: `text`, `number` [, `text_pair`, `group`]. The loss is the squared error in units of `spread`. Scores: mse
    and mae in the numbers' own units, loss, and mse/GROUP.
    """

    columns = (
        Column("text", Text()),
        Column("text_pair", Text(), required=False),
        Column("number", Number()),
        Column("group", Group(), required=False),
    )

    scale: float = knob(1.0, "length of the feature vector", low=0.0, stays="refused")
    center: float = knob(
        0.0,
        "where predictions begin: about the mean of the numbers, agreed beforehand",
        fitted=True,
        stays="refused",
    )
    spread: float = knob(
        1.0,
        "unit of the head's output: about the numbers' standard deviation",
        above=0.0,
        fitted=True,
        stays="refused",
    )

    def open(self, data: Any, device: str = "cpu") -> BoundModule:
        """Raises ModelError when the model cannot be used. `data` is not looked at."""
        return self.begin(None, device)

    def objective(self, labels: tuple[str, ...] | None, module: nn.Module | None = None) -> Pooled:
        return Regression(self, load_tokenizer(self.model), None, module)

    def probe(self, bound: Any, rows: Any) -> list[Problem]:
        return [*_near(self, [r["number"] for r in rows.rows]), *super().probe(bound, rows)]

    def told(self, labels: tuple[str, ...] | None) -> tuple[str, str]:
        line = f'numbers = {self.center!r} + {self.spread!r} * (features @ head["weight"].T + head["bias"])[:, 0]'
        return "# A tuned regression on texts", line


def _near(task: TextRegression, numbers: Sequence[float]) -> Iterator[Problem]:
    """Least squares from afar: the first steps would be as large as the distance."""
    far = max((abs(n - task.center) / task.spread for n in numbers), default=0.0)
    if far <= FAR:
        return
    mean = math.fsum(numbers) / len(numbers)
    deviation = math.sqrt(math.fsum((n - mean) ** 2 for n in numbers) / len(numbers)) or abs(mean) or 1.0
    yield Fitted(
        "task.center",
        f"numbers lie up to {far:.3g} spreads from task.center={task.center:g} (task.spread={task.spread:g})",
        f"predictions begin there; a few rows have mean {mean:.3g} and standard deviation {deviation:.3g}",
        f"task.center={mean:.3g} task.spread={deviation:.3g}",
        quiet=(
            f"numbers lie more than {FAR:g} spreads from task.center={task.center:g} (task.spread={task.spread:g})",
            "predictions begin there; the mean and deviation of private numbers are not said: both settings stand in public "
            "files, and no epsilon covers them",
            "task.center=MEAN task.spread=DEVIATION as agreed beforehand, from public rows or from the range that such numbers "
            "have; or scale the numbers themselves by such a range",
        ),
    )


class Regression(Pooled):
    """Mean squared error in units of the task's spread."""

    width, learns = 1, "number"
    primary, higher_is_better = "mse", False

    def targets(self, rows: Sequence[Mapping[str, Any]], party: str) -> Tensor:
        if bare := [str(r.get("text"))[:40] for r in rows if not isinstance(r.get("number"), int | float)]:
            raise DataError(
                f"{party}: {len(bare)} rows have no `number`, {bare[0]!r} first; name the column of numbers"
            )
        return torch.tensor([r["number"] for r in rows], dtype=torch.float64)

    def errors(self, module: nn.Module, batch: Batch) -> Tensor:
        """Prediction less target, in spreads (n,)."""
        goal: Tensor = ((batch.labels - self.task.center) / self.task.spread).float()
        return self.outputs(module, batch)[:, 0].float() - goal

    def losses(self, module: nn.Module, batch: Batch) -> Tensor:
        return self.errors(module, batch).square()

    def score(self, module: nn.Module, encoded: Texts, device: torch.device) -> Scores:
        """`mse`, `mae`, `loss`, and `mse/GROUP`; the same for the same rows in any order."""
        n, wrong = len(encoded), torch.zeros(len(encoded), dtype=torch.float64)
        for index in self.chunks(encoded):
            wrong[index] = self.errors(module, self.batch(encoded, index, device)).double().cpu()
        squared, unit = wrong.square().tolist(), self.task.spread
        scores: Scores = {
            "mse": (math.fsum(squared) * unit**2, n),
            "mae": (math.fsum(wrong.abs().tolist()) * unit, n),
            "loss": (math.fsum(squared), n),
        }
        for name, mine in members(encoded.groups):
            scores[f"mse/{name}"] = math.fsum(squared[k] for k in mine) * unit**2, len(mine)
        return scores if n else {}

    def predict(self, module: nn.Module, texts: Any, device: torch.device) -> list[float]:
        """The number of each text, or pair of texts."""
        task = self.task
        return self.each(
            module, texts, device, lambda out: (task.center + task.spread * out[:, 0].double()).tolist()
        )
