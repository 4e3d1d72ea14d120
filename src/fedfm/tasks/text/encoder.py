"""What the tasks on a text encoder share: texts and pairs as tokens, a pooled, normalised feature, a linear head."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedfm.cards.registry import knob, load
from fedfm.core.errors import DataError, ModelError, Problem
from fedfm.core.protocols import Task
from fedfm.models.identity import Base
from fedfm.tasks.beginning.adapter import begun, tuned
from fedfm.tasks.bound import BoundModule, groups_of
from fedfm.tasks.export import in_dtype, source
from fedfm.tasks.features import Features
from fedfm.tasks.network import fresh, load_base
from fedfm.tasks.networked import HEAD, Headed, read_head
from fedfm.tasks.ragged import Ragged
from fedfm.tasks.text.tokens import TextObjective
from fedfm.tasks.tuning import Tuning

CHUNK = 64  # rows scored at once
SINGLE, PAIR = "single texts", "pairs of texts"
Text = str | tuple[str, str]  # one text, or a pair


@dataclass(frozen=True)
class EncoderTask(Task):
    """Fields and folder of a task with a linear head on `scale` times the L2-normalised feature of a text encoder."""

    model: str = knob(
        "minilm",
        "a packaged model, a folder in Hugging Face layout, or a hub id (org/name@revision)",
        place="folder",
    )
    start: str | None = knob(
        None, "a folder with an adapter to go on from: rank and targets are taken from it", place="folder"
    )
    tuning: Tuning = knob(factory=lambda: load("lora")(), doc="what of the encoder is trained")
    max_tokens: int = knob(64, "longer texts are cut", low=2, stays="told")
    pooling: str = knob("mean", "token features to text feature", choices=("mean", "cls"), stays="refused")
    scale: float = knob(10.0, "length of the feature vector", low=0.0, stays="refused")
    dropout: float = knob(0.0, "every dropout rate of the encoder, in training", low=0.0, high=1.0)
    dtype: str = knob(
        "float32",
        "of the frozen encoder; what is added and the head are float32",
        choices=("float32", "bfloat16"),
    )
    gradient_checkpointing: bool = knob(False, "compute activations twice instead of keeping them")

    def objective(self, labels: tuple[str, ...] | None, module: nn.Module | None = None) -> Pooled:
        """What is done with the module, given the class names where there are any."""
        raise NotImplementedError

    def begin(self, labels: tuple[str, ...] | None, device: str) -> BoundModule:
        """The bound module. Raises ModelError when the model cannot be used."""
        return begun(self, labels).objective(labels).bind(device)

    def probe(self, bound: Any, rows: Any) -> list[Problem]:
        from fedfm.tasks.text.probes import texts

        return texts(bound, rows)

    def restore(self, folder: Path, labels: list[str] | None) -> tuple[nn.Module, Any]:
        """The module and the objective that `save` wrote to `folder`."""
        where = str(folder) if (folder / "config.json").exists() else self.model
        again = dataclasses.replace(self, model=where)
        encoder, objective = _encoder(again), again.objective(None if labels is None else tuple(labels))
        head = nn.Linear(encoder.config.hidden_size, objective.width)
        read_head(head, folder)
        objective.whole = Read(self.tuning.reload(encoder, folder), head, self.pooling, self.scale)
        objective.task = self
        return objective.whole, objective

    def readme(self, folder: Path, labels: tuple[str, ...] | None, base: Base) -> str:
        """How to use the folder without fedfm's classes."""
        adapter = (folder / "adapter_config.json").exists()
        line, place, revision = source(base, folder)
        encoder = f"AutoModel.from_pretrained(base{revision}{in_dtype(self.dtype)})"
        title, result = self.told(labels)
        return _README.format(
            title=title,
            peft="from peft import PeftModel\n" if adapter else "",
            extra=line,
            base=place,
            revision=revision,
            encoder=f"PeftModel.from_pretrained({encoder}, folder)" if adapter else encoder,
            pooled="(hidden * mask).sum(1) / mask.sum(1)" if self.pooling == "mean" else "hidden[:, 0]",
            max_tokens=self.max_tokens,
            scale=self.scale,
            result=result,
        )

    def told(self, labels: tuple[str, ...] | None) -> tuple[str, str]:
        """The heading of the README, and the line of Python that makes the result of the features."""
        raise NotImplementedError


class Read(nn.Module):
    """Encoder and head."""

    def __init__(self, encoder: nn.Module, head: nn.Linear, pooling: str, scale: float):
        super().__init__()
        self.encoder, self.head, self.pooling, self.scale = encoder, head, pooling, scale

    def features(self, ids: Tensor, mask: Tensor, types: Tensor | None = None) -> Tensor:
        """Float32 features (n, width) of length `scale`, from token ids, mask and segments (n, tokens)."""
        more = {} if types is None else {"token_type_ids": types}
        hidden = self.encoder(input_ids=ids, attention_mask=mask, **more).last_hidden_state.float()
        hidden = hidden[:, -mask.shape[1] :]  # virtual tokens stand before the text
        if self.pooling == "mean":
            weight = mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * weight).sum(1) / weight.sum(1)
        else:
            pooled = hidden[:, 0]
        return functional.normalize(pooled, dim=-1) * self.scale

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor | None = None) -> Tensor:
        """What the head gives (n, outputs)."""
        out: Tensor = self.head(self.features(ids, mask, types))
        return out


@dataclass(frozen=True, eq=False)
class Texts:
    """Tokenised rows, what is to be learnt of them (n,) (class numbers, or numbers) and, where rows have one, groups.

    `types`: each token's segment, where a row has a second text and the network tells segments apart.
    """

    tokens: Ragged
    labels: Tensor
    groups: tuple[str | None, ...] = ()
    features: Features | None = field(default=None, repr=False)  # where the encoder is frozen
    cut: int = 0  # texts that fill max_tokens: they were cut, but for those that fit to the token
    types: Ragged | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def with_labels(self, labels: Tensor) -> Texts:
        """The same texts under other labels (n,)."""
        if labels.shape != self.labels.shape:
            raise ValueError(f"{len(self)} labels are needed, got shape {tuple(labels.shape)}")
        return dataclasses.replace(self, labels=labels.to(self.labels.dtype))


@dataclass(frozen=True, eq=False)
class Batch:
    """Padded token ids, mask and segments (n, tokens), labels (n,); features (n, width) for all of them but the labels
    under a frozen encoder."""

    ids: Tensor
    mask: Tensor
    labels: Tensor
    features: Tensor | None = None
    types: Tensor | None = None


class Pooled(Headed, TextObjective):
    """What a head learns from pooled features; `targets` reads it from the rows, `width` is how much the head gives."""

    width: int
    learns = "label"  # the column

    def __init__(
        self,
        task: Any,
        tokenizer: Any,
        labels: tuple[str, ...] | None = None,
        module: nn.Module | None = None,
    ):
        super().__init__(task, tokenizer, lambda t: _build(t, self.width), labels)
        self.whole = module
        self.seen: set[str] = set()  # of single texts and pairs

    def targets(self, rows: Sequence[Mapping[str, Any]], party: str) -> Tensor:
        """What is to be learnt of each row (n,). Raises DataError."""
        raise NotImplementedError

    # ---- rows -------------------------------------------------------------------------------------------------
    def encode(self, rows: Any) -> Texts:
        """Tokenise a shard. Raises DataError for rows without text or without what is to be learnt."""
        party = rows.party
        if bare := [i for i, r in enumerate(rows.rows) if not isinstance(r.get("text"), str)]:
            raise DataError(
                f"{party}: {len(bare)} rows have no `text`, row {bare[0]} first; name the text column"
            )
        labels = self.targets(rows.rows, party)
        texts = [_text(r) for r in rows.rows]
        self.seen |= set(map(_sort, texts))
        tokens, types = self._tokens(texts)
        groups = groups_of(rows)
        full = int((tokens.lengths >= self.limit).sum())
        return Texts(tokens, labels, groups, Features(tokens) if self.frozen else None, full, types)

    def few(self, encoded: Texts, n: int) -> Texts:
        """The first n rows, without features that were kept."""
        kept = range(min(n, len(encoded)))
        types = None if encoded.types is None else Ragged.of([encoded.types[i] for i in kept])
        tokens = Ragged.of([encoded.tokens[i] for i in kept])
        return Texts(tokens, encoded.labels[:n], encoded.groups[:n], types=types)

    def explain(self, row: dict[str, Any]) -> dict[str, Any]:
        """What the model sees of a row: `text`, `tokens`, `loss_mask` (false: the loss is on the `label`)."""
        said = _text(row)
        ids = self._tokens([said])[0][0]
        return {
            "text": said if isinstance(said, str) else "\n".join(said),
            "tokens": [self.tokenizer.decode([i]) for i in ids],
            "loss_mask": [False] * len(ids),
            "label": row.get(self.learns),
        }

    def batch(self, encoded: Texts, index: Tensor, device: torch.device) -> Batch:
        labels = encoded.labels[index].to(device)
        if encoded.features is not None:
            whole: Any = self.whole
            features = encoded.features(
                index, lambda rows: whole.features(*self._padded(encoded, rows, device))
            )
            return Batch(labels[:0], labels[:0], labels, features)
        ids, mask, types = self._padded(encoded, index, device)
        return Batch(ids, mask, labels, None, types)

    def _padded(
        self, encoded: Texts, index: Tensor, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        ids, mask = encoded.tokens.padded(index, self.tokenizer.pad_token_id)
        types = None if encoded.types is None else encoded.types.padded(index, 0)[0].to(device)
        return ids.to(device), mask.to(device), types

    def _tokens(self, texts: Sequence[Text]) -> tuple[Ragged, Ragged | None]:
        """Token ids, and segments where there is a pair and the network tells segments apart.

        A tokenizer without a separator gets a pair as two lines.
        """
        alone = self.tokenizer.num_special_tokens_to_add()
        if self.tokenizer.num_special_tokens_to_add(pair=True) <= alone:
            texts = [t if isinstance(t, str) else "\n".join(t) for t in texts]
        pairs = {i: t for i, t in enumerate(texts) if not isinstance(t, str)}
        ids = self._ids([t for t in texts if isinstance(t, str)])["input_ids"]
        if not pairs:
            return self.within(Ragged.of(ids)), None
        both = self._ids(*map(list, zip(*pairs.values(), strict=True)))
        typed, types = both.get("token_type_ids"), iter(both.get("token_type_ids") or ())
        single, double = iter(ids), iter(both["input_ids"])
        found = [next(double if i in pairs else single) for i in range(len(texts))]
        tokens = self.within(Ragged.of(found))
        if not typed:
            return tokens, None
        return tokens, Ragged.of([next(types) if i in pairs else [0] * len(f) for i, f in enumerate(found)])

    def _ids(self, *texts: list[str]) -> Mapping[str, list[list[int]]]:
        """The tokenizer's lists for texts, or for texts and their seconds (these with segments)."""
        if not texts[0]:
            return {"input_ids": []}
        found: Mapping[str, list[list[int]]] = self.tokenizer(
            *texts,
            truncation=True,
            max_length=self.limit,
            return_attention_mask=False,
            return_token_type_ids=len(texts) > 1 and self._segments,
        )
        return found

    @property
    def _segments(self) -> bool:
        """Does the network tell two segments apart, as the tokenizer marks them?"""
        marked = "token_type_ids" in self.tokenizer.model_input_names
        return marked and getattr(self.network(self.whole).config, "type_vocab_size", 0) > 1

    @property
    def inputs(self) -> list[str]:
        return sorted(self.seen)

    def _as_trained(self, texts: Sequence[Text]) -> None:
        """Raises ModelError for single texts where the model has learnt pairs alone, and the other way round."""
        strange = next((i for i, t in enumerate(texts) if self.seen and _sort(t) not in self.seen), None)
        if strange is not None:
            single = _sort(texts[strange]) == SINGLE
            fix = "(text, second) for each; on the command line --file with the columns text and text_pair"
            raise ModelError(
                f"text {strange} is {'a single text' if single else 'a pair'}, and the model has learnt {' and '.join(self.inputs)}\n"
                f"    why: its answer would say nothing\n    fix: {fix if single else 'one text for each'}"
            )

    # ---- numbers ----------------------------------------------------------------------------------------------
    def outputs(self, module: nn.Module, batch: Batch) -> Tensor:
        """(n, width)"""
        if batch.features is not None:
            out: Tensor = module.head(batch.features)  # type: ignore[operator]
        elif batch.types is None:
            out = module(batch.ids, batch.mask)
        else:
            out = module(batch.ids, batch.mask, batch.types)
        return out

    def chunks(self, encoded: Texts) -> Iterator[Tensor]:
        return encoded.tokens.chunks(CHUNK, encoded.labels.tolist())

    def each(
        self,
        module: nn.Module,
        texts: Sequence[Text],
        device: torch.device,
        of: Callable[[Tensor], list[Any]],
    ) -> list[Any]:
        """`of` the outputs for each text or pair of texts."""
        self._as_trained(texts)
        tokens, types = self._tokens([t if isinstance(t, str) else (t[0], t[1]) for t in texts])
        encoded = Texts(tokens, torch.zeros(len(tokens), dtype=torch.long), types=types)
        found: list[Any] = [None] * len(tokens)
        for index in tokens.chunks(CHUNK):
            said = of(self.outputs(module, self.batch(encoded, index, device)))
            for i, one in zip(index.tolist(), said, strict=True):
                found[i] = one
        return found


def _sort(text: Text) -> str:
    return SINGLE if isinstance(text, str) else PAIR


def _text(row: Mapping[str, Any]) -> Text:
    return (row["text"], row["text_pair"]) if row.get("text_pair") else str(row["text"])


def _encoder(task: EncoderTask) -> Any:
    encoder = load_base(
        "AutoModel",
        task.model,
        dtype=task.dtype,
        dropout=task.dropout,
        checkpointing=task.gradient_checkpointing,
    )
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = _Unused()  # it makes a feature that nobody reads here
    return encoder


class _Unused(nn.Module):
    """In the place of a layer whose output is not read; some networks call it unasked."""

    def forward(self, x: Any, *more: Any, **named: Any) -> Any:
        return x


def _build(task: EncoderTask, width: int) -> Read:
    encoder = _encoder(task)
    with fresh():
        head = nn.Linear(encoder.config.hidden_size, width)
    network = tuned(task, encoder)
    if task.start and (Path(task.start) / HEAD).is_file():
        read_head(head, Path(task.start))
    return Read(network, head, task.pooling, task.scale)


_README = """{title}

```python
import torch
{extra}{peft}from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

folder, texts = ".", ["a text"]
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
{result}
```

For pairs: `tokenizer(texts, pairs, ...)`, and `token_type_ids=batch["token_type_ids"]` where the tokenizer gives them and the
encoder tells segments apart; a tokenizer without a separator was given the two on two lines.

With fedfm: `fedfm.tasks.load_tuned(folder).predict(texts)`, or of a list of pairs.
"""
