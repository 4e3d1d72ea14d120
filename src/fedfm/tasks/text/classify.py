"""Sequence classification: an encoder's pooled, normalised features and a linear head."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedfm.cards.registry import knob, load, method
from fedfm.core.errors import DataError, Problem, nearest
from fedfm.core.protocols import Scores, Task
from fedfm.core.schema import Column
from fedfm.core.text import markdown
from fedfm.data.kinds import Group, Label, Text
from fedfm.models.identity import Base
from fedfm.tasks.beginning.adapter import begun
from fedfm.tasks.bound import BoundModule
from fedfm.tasks.export import in_dtype, source, write_weights
from fedfm.tasks.features import Features
from fedfm.tasks.network import fresh, guarded, load_base, load_tokenizer
from fedfm.tasks.ragged import Ragged
from fedfm.tasks.text.tokens import TextObjective
from fedfm.tasks.tuning import Tuning

CHUNK, HEAD = 64, "head.safetensors"  # rows scored at once; the head's file


@method("sequence-classification", slot="task", section="II.A")
@dataclass(frozen=True)
class SequenceClassification(Task):
    """Classify texts: `scale` times the L2-normalised mean (or first) token feature, then a linear head.

    The head is always trained; `tuning` says what of the encoder is. Rows: `text`, `label` [, `group`]. Scores:
    accuracy, loss (mean cross-entropy, nats), and accuracy/GROUP.
    """

    columns = (Column("text", Text()), Column("label", Label()), Column("group", Group(), required=False))

    model: str = knob(
        "minilm", "a packaged model, a folder in Hugging Face layout, or a hub id (org/name@revision)"
    )
    start: str | None = knob(
        None, "a folder with an adapter to go on from: rank and targets are taken from it"
    )
    tuning: Tuning = knob(factory=lambda: load("lora")(), doc="what of the encoder is trained")
    max_tokens: int = knob(64, "longer texts are cut", low=2)
    pooling: str = knob("mean", "token features to text feature", choices=("mean", "cls"))
    scale: float = knob(10.0, "length of the feature vector", low=0.0)
    dropout: float = knob(0.0, "every dropout rate of the encoder, in training", low=0.0, high=1.0)
    dtype: str = knob(
        "float32",
        "of the frozen encoder; what is added and the head are float32",
        choices=("float32", "bfloat16"),
    )
    gradient_checkpointing: bool = knob(False, "compute activations twice instead of keeping them")

    def open(self, data: Any, device: str = "cpu") -> BoundModule:
        """Raises DataError when the data set has no labels, ModelError when the model cannot be used."""
        if not data.labels:
            raise DataError(
                "sequence-classification needs rows with `text` and `label`; these have no labels\n"
                "    fix: name the label column of the data set, or use the task causal-lm"
            )
        labels = tuple(data.labels)
        task = begun(self, labels)
        return Classification(task, load_tokenizer(self.model), _build, labels).bind(device)

    def probe(self, bound: Any, rows: Any) -> list[Problem]:
        from fedfm.tasks.text.probes import texts

        return texts(bound, rows)

    def restore(self, folder: Path, labels: list[str]) -> tuple[nn.Module, Any]:
        """The module and the objective that `save` wrote to `folder`."""
        where = str(folder) if (folder / "config.json").exists() else self.model
        tokenizer, encoder = load_tokenizer(where), _encoder(self, where)
        head = nn.Linear(encoder.config.hidden_size, len(labels))
        _head(head, folder)
        module = Classifier(self.tuning.reload(encoder, folder), head, self.pooling, self.scale)
        return module, Classification(self, tokenizer, _build, tuple(labels), module)

    def readme(self, folder: Path, labels: tuple[str, ...], base: Base) -> str:
        """How to use the folder without fedfm's classes."""
        adapter = (folder / "adapter_config.json").exists()
        line, place, revision = source(base, folder)
        encoder = f"AutoModel.from_pretrained(base{revision}{in_dtype(self.dtype)})"
        return _README.format(
            peft="from peft import PeftModel\n" if adapter else "",
            extra=line,
            base=place,
            revision=revision,
            labels=", ".join(map(markdown, labels)),
            encoder=f"PeftModel.from_pretrained({encoder}, folder)" if adapter else encoder,
            pooled="(hidden * mask).sum(1) / mask.sum(1)" if self.pooling == "mean" else "hidden[:, 0]",
            max_tokens=self.max_tokens,
            scale=self.scale,
        )


class Classifier(nn.Module):
    """Encoder and head."""

    def __init__(self, encoder: nn.Module, head: nn.Linear, pooling: str, scale: float):
        super().__init__()
        self.encoder, self.head, self.pooling, self.scale = encoder, head, pooling, scale

    def features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Float32 features (n, width) of length `scale`, from token ids and mask (n, tokens)."""
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        hidden = hidden[:, -mask.shape[1] :]  # virtual tokens stand before the text
        if self.pooling == "mean":
            weight = mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * weight).sum(1) / weight.sum(1)
        else:
            pooled = hidden[:, 0]
        return functional.normalize(pooled, dim=-1) * self.scale

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits (n, labels)."""
        out: Tensor = self.head(self.features(ids, mask))
        return out


@dataclass(frozen=True, eq=False)
class Texts:
    """Tokenised rows with their labels (n,) and, where rows have one, groups."""

    tokens: Ragged
    labels: Tensor
    groups: tuple[str | None, ...] = ()
    features: Features | None = field(default=None, repr=False)  # where the encoder is frozen
    cut: int = 0  # texts that fill max_tokens: they were cut, but for those that fit to the token

    def __len__(self) -> int:
        return len(self.tokens)

    def with_labels(self, labels: Tensor) -> Texts:
        """The same texts under other labels (n,)."""
        if labels.shape != self.labels.shape:
            raise ValueError(f"{len(self)} labels are needed, got shape {tuple(labels.shape)}")
        return dataclasses.replace(self, labels=labels.long())


@dataclass(frozen=True, eq=False)
class Batch:
    """Padded token ids and mask (n, tokens), labels (n,); features (n, width) in their place under a frozen encoder."""

    ids: Tensor
    mask: Tensor
    labels: Tensor
    features: Tensor | None = None


class Classification(TextObjective):
    """Cross-entropy over the task's labels."""

    def __init__(
        self,
        task: SequenceClassification,
        tokenizer: Any,
        build: Any,
        labels: tuple[str, ...],
        module: nn.Module | None = None,
    ):
        super().__init__(task, tokenizer, lambda t: build(t, len(labels)), labels)
        self.whole, self.frozen, self.classes = module, False, len(labels)

    def bind(self, device: str) -> BoundModule:
        bound = super().bind(device)
        encoder = self.network(bound.module)
        self.frozen = not self.task.dropout and not any(p.requires_grad for p in encoder.parameters())
        return bound

    def network(self, module: Any) -> Any:
        return module.encoder

    def save(self, module: Any, folder: str) -> None:
        """Write the encoder's part as the tuning does, the head as `head.safetensors`, and a README."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        head = {n: p.detach().to("cpu", copy=True) for n, p in module.head.state_dict().items()}
        write_weights(head, Path(folder) / HEAD)
        super().save(module, folder)

    # ---- rows -------------------------------------------------------------------------------------------------
    def encode(self, rows: Any) -> Texts:
        """Tokenise a shard. Raises DataError for rows without text and for labels that the task does not know."""
        assert self.labels is not None
        numbers, party = {name: i for i, name in enumerate(self.labels)}, rows.party
        if bare := [i for i, r in enumerate(rows.rows) if not isinstance(r.get("text"), str)]:
            raise DataError(
                f"{party}: {len(bare)} rows have no `text`, row {bare[0]} first; name the text column"
            )
        unknown: dict[Any, int] = {}
        for i, r in enumerate(rows.rows):
            if r.get("label") not in numbers:
                unknown.setdefault(r.get("label"), i)
        if unknown:
            which = [
                f"row {i} has the unknown label {label!r} ({nearest(str(label), numbers)})"
                for label, i in unknown.items()
            ]
            raise DataError(f"{party}: {'; '.join(which)}\n    labels known: {', '.join(self.labels)}")
        tokens = self._tokens([r["text"] for r in rows.rows])
        groups = tuple(None if r.get("group") is None else str(r["group"]) for r in rows.rows)
        labels = torch.tensor([numbers[r["label"]] for r in rows.rows], dtype=torch.long)
        full = int((tokens.lengths >= self.limit).sum())
        return Texts(tokens, labels, groups, Features(tokens) if self.frozen else None, full)

    def few(self, encoded: Texts, n: int) -> Texts:
        """The first n rows, without features that were kept."""
        tokens = Ragged.of([encoded.tokens[i] for i in range(min(n, len(encoded)))])
        return Texts(tokens, encoded.labels[:n], encoded.groups[:n])

    def explain(self, row: dict[str, Any]) -> dict[str, Any]:
        """What the model sees of a row: `text`, `tokens`, `loss_mask` (false: the loss is on the `label`)."""
        ids = self._tokens([row["text"]])[0]
        return {
            "text": row["text"],
            "tokens": [self.tokenizer.decode([i]) for i in ids],
            "loss_mask": [False] * len(ids),
            "label": row.get("label"),
        }

    def batch(self, encoded: Texts, index: Tensor, device: torch.device) -> Batch:
        labels = encoded.labels[index].to(device)
        if encoded.features is not None:
            whole: Any = self.whole
            features = encoded.features(
                index, lambda rows: whole.features(*self._padded(encoded, rows, device))
            )
            return Batch(labels[:0], labels[:0], labels, features)
        return Batch(*self._padded(encoded, index, device), labels)

    def _padded(self, encoded: Texts, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        ids, mask = encoded.tokens.padded(index, self.tokenizer.pad_token_id)
        return ids.to(device), mask.to(device)

    def _tokens(self, texts: list[str]) -> Ragged:
        found = Ragged.of(
            self.tokenizer(
                texts,
                truncation=True,
                max_length=self.limit,
                return_attention_mask=False,
                return_token_type_ids=False,
            )["input_ids"]
            if texts
            else []
        )
        return self.within(found)

    # ---- numbers ----------------------------------------------------------------------------------------------
    def logits(self, module: nn.Module, batch: Batch) -> Tensor:
        """(n, labels)"""
        out: Tensor = module(batch.ids, batch.mask) if batch.features is None else module.head(batch.features)  # type: ignore
        return out

    def classify(self, module: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.logits(module, batch).argmax(-1), batch.labels

    def losses(self, module: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(self.logits(module, batch), batch.labels, reduction="none")

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(self.logits(module, batch), batch.labels)  # their mean, in one pass

    def chunks(self, encoded: Texts) -> Iterator[Tensor]:
        return encoded.tokens.chunks(CHUNK, encoded.labels.tolist())

    def score(self, module: nn.Module, encoded: Texts, device: torch.device) -> Scores:
        """`accuracy`, `loss`, and `accuracy/GROUP`; the same for the same rows in any order."""
        hits, losses = (
            torch.zeros(len(encoded), dtype=torch.bool),
            torch.zeros(len(encoded), dtype=torch.float64),
        )
        for index in self.chunks(encoded):
            batch = self.batch(encoded, index, device)
            logits = self.logits(module, batch)
            hits[index] = (logits.argmax(-1) == batch.labels).cpu()
            losses[index] = functional.cross_entropy(logits, batch.labels, reduction="none").double().cpu()
        scores = {
            "accuracy": (float(hits.sum()), len(encoded)),
            "loss": (math.fsum(losses.tolist()), len(encoded)),
        }
        for name in sorted({g for g in encoded.groups if g is not None}):
            mine = torch.tensor([g == name for g in encoded.groups])
            scores[f"accuracy/{name}"] = float(hits[mine].sum()), int(mine.sum())
        return scores if len(encoded) else {}

    def predict(self, module: nn.Module, texts: Any, device: torch.device) -> list[str]:
        """The most likely label of each text."""
        assert self.labels is not None
        tokens = self._tokens(list(texts))
        encoded, found = Texts(tokens, torch.zeros(len(tokens), dtype=torch.long)), [""] * len(tokens)
        for index in tokens.chunks(CHUNK):
            best = self.logits(module, self.batch(encoded, index, device)).argmax(-1).tolist()
            for i, label in zip(index.tolist(), best, strict=True):
                found[i] = self.labels[label]
        return found


def _encoder(task: SequenceClassification, model: str) -> Any:
    encoder = load_base(
        "AutoModel", model, dtype=task.dtype, dropout=task.dropout, checkpointing=task.gradient_checkpointing
    )
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # it makes a feature that is not used here
    return encoder


def _build(task: SequenceClassification, labels: int) -> Classifier:
    encoder = _encoder(task, task.model)
    with fresh():
        head = nn.Linear(encoder.config.hidden_size, labels)
    network = task.tuning.apply(encoder)
    if task.start:
        task.tuning.resume(network, Path(task.start))
        if (Path(task.start) / HEAD).is_file():
            _head(head, Path(task.start))
    return Classifier(network, head, task.pooling, task.scale)


def _head(head: nn.Linear, folder: Path) -> None:
    """Take the head that `save` wrote. Raises ModelError."""
    from safetensors.torch import load_file

    with guarded(str(folder), f"{HEAD} cannot be read"):
        head.load_state_dict(load_file(folder / HEAD))


_README = """# A tuned text classifier

Labels, in the order of the head's rows: {labels}

```python
import torch
{extra}{peft}from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

folder, texts = ".", ["a text to classify"]
base = {base}
tokenizer = AutoTokenizer.from_pretrained(base{revision})
encoder = {encoder}.eval()
head = load_file(folder + "/head.safetensors")
batch = tokenizer(texts, padding=True, truncation=True, max_length={max_tokens}, return_tensors="pt")
with torch.no_grad():
    hidden = encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state.float()
mask = batch["attention_mask"].unsqueeze(-1)
hidden = hidden[:, -mask.shape[1]:]
features = torch.nn.functional.normalize({pooled}, dim=-1) * {scale}
logits = features @ head["weight"].T + head["bias"]  # (texts, labels)
```

With fedfm: `fedfm.tasks.load_tuned(folder).predict(texts)`.
"""
