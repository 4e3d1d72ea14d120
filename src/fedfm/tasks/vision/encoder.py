"""Pictures and a pre-trained encoder: one feature a picture, of one length, and a linear head."""

from __future__ import annotations

import dataclasses
import inspect
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedfm.cards.registry import knob, load, method
from fedfm.core.errors import DataError, ModelError, words_of
from fedfm.core.protocols import Scores, Task
from fedfm.models.folder import read
from fedfm.models.identity import Base
from fedfm.models.store import local
from fedfm.tasks.beginning.adapter import begun, tuned
from fedfm.tasks.bound import BoundModule, groups_of
from fedfm.tasks.export import in_dtype, source
from fedfm.tasks.features import Features
from fedfm.tasks.network import fresh, load_base
from fedfm.tasks.networked import HEAD, Headed, graded, read_head
from fedfm.tasks.ragged import Ragged
from fedfm.tasks.tuning import Tuning
from fedfm.tasks.vision.image import ImageClassification
from fedfm.text import markdown, nearest

PIXELS = "preprocessor_config.json"  # mean, deviation and size of an image processor
CHUNK = 32  # pictures scored at once


@method("vision-classification", slot="task", section="II.A", also=("vit", "picture-classification"))
@dataclass(frozen=True)
class VisionClassification(Task):
    """Classify pictures: `scale` times the L2-normalised feature of a pre-trained vision encoder, a linear head.

    The head is always trained; `tuning` says what of the encoder is: under `head` each picture's feature is computed
    once. Pictures are brought to `size` pixels a side and to the encoder's own mean and deviation; grey ones get three
    equal channels. Rows: `image`, `label` [, `group`]. Scores: accuracy, loss (cross-entropy, nats), accuracy/GROUP.
    """

    columns = ImageClassification.columns

    model: str = knob(
        "dinov2-s",
        "a packaged model, a folder in Hugging Face layout, or a hub id (org/name@revision)",
        place="folder",
    )
    start: str | None = knob(
        None, "a folder with an adapter to go on from: rank and targets are taken from it", place="folder"
    )
    tuning: Tuning = knob(factory=lambda: load("head")(), doc="what of the encoder is trained")
    size: int = knob(
        98,
        "pixels a side that pictures are brought to, whole patches; 0: the encoder's own size",
        low=0,
        high=16384,
        stays="refused",
    )
    pooling: str = knob(
        "cls",
        "patch features to the picture's (a map of features: mean)",
        choices=("cls", "mean"),
        stays="refused",
    )
    scale: float = knob(10.0, "length of the feature vector", low=0.0, stays="refused")
    dropout: float = knob(0.0, "every dropout rate of the encoder, in training", low=0.0, high=1.0)
    dtype: str = knob(
        "float32",
        "of the frozen encoder; what is added and the head are float32",
        choices=("float32", "bfloat16"),
    )
    gradient_checkpointing: bool = knob(False, "compute activations twice instead of keeping them")

    def open(self, data: Any, device: str = "cpu") -> BoundModule:
        """Raises DataError when the data set has no pictures or no labels, ModelError when the model cannot be used."""
        if not data.schema.labels or len(data.schema.shapes.get("image", ())) != 3:
            raise DataError("vision-classification needs rows of `image` (uint8, C x H x W) and `label`")
        labels = tuple(data.schema.labels)
        return Pictured(begun(self, labels), labels).bind(device)

    def restore(self, folder: Path, labels: list[str] | None) -> tuple[nn.Module, Any]:
        """The module and the objective that `save` wrote to `folder`."""
        whole = (folder / "config.json").exists()
        again = dataclasses.replace(self, model=str(folder) if whole else self.model)
        objective, encoder = Pictured(again, tuple(labels or ())), _encoder(again)
        head = nn.Linear(_width(encoder), objective.classes)
        read_head(head, folder)
        objective.whole = Seen(self.tuning.reload(encoder, folder), head, again)
        objective.task = self
        return objective.whole, objective

    def readme(self, folder: Path, labels: tuple[str, ...] | None, base: Base) -> str:
        """How to use the folder without fedfm's classes."""
        adapter = (folder / "adapter_config.json").exists()
        line, place, revision = source(base, folder)
        encoder = f"AutoModel.from_pretrained(base{revision}{in_dtype(self.dtype)})"
        return _README.format(
            labels=", ".join(map(markdown, labels or ())),
            peft="from peft import PeftModel\n" if adapter else "",
            extra=line,
            base=place,
            encoder=f"PeftModel.from_pretrained({encoder}, folder)" if adapter else encoder,
            size=self.size,
            pooled="hidden[:, 0]" if self.pooling == "cls" else "hidden.mean(1)",
            scale=self.scale,
        )


class Seen(nn.Module):
    """Encoder and head, on pictures as bytes."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, encoder: nn.Module, head: nn.Linear, task: VisionClassification):
        super().__init__()
        self.encoder, self.head, self.pooling, self.scale = encoder, head, task.pooling, task.scale
        told = _told(task.model)
        self.size = task.size or _own_size(encoder, told)
        for name, key in (("mean", "image_mean"), ("deviation", "image_std")):
            value = torch.tensor(told.get(key, [0.5] * 3), dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(name, value, persistent=False)
        forward = inspect.signature(_plain(encoder).forward).parameters
        self.more = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in forward else {}

    def train(self, mode: bool = True) -> Seen:
        """A frozen encoder stays in evaluation mode: nobody trains the statistics of its layers."""
        super().train(mode)
        if not any(p.requires_grad for p in self.encoder.parameters()):
            self.encoder.eval()
        return self

    def features(self, pictures: Tensor) -> Tensor:
        """Float32 features (n, width) of length `scale`, from bytes (n, C, H, W)."""
        x = pictures.float() / 255.0
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
        if x.shape[-2:] != (self.size, self.size):
            x = functional.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        x = (x - self.mean) / self.deviation
        dtype = next((p.dtype for p in self.encoder.parameters() if p.is_floating_point()), x.dtype)
        hidden = self.encoder(pixel_values=x.to(dtype), **self.more).last_hidden_state.float()
        if hidden.dim() == 4:  # a map (n, width, h, w), as convolutions make it
            pooled = hidden.mean((2, 3))
        else:
            pooled = hidden[:, 0] if self.pooling == "cls" else hidden.mean(1)
        return functional.normalize(pooled, dim=-1) * self.scale

    def forward(self, pictures: Tensor) -> Tensor:
        """Class scores (n, classes)."""
        out: Tensor = self.head(self.features(pictures))
        return out


@dataclass(frozen=True, eq=False)
class Pictures:
    """Bytes (n, C, H, W), class numbers (n,), groups; features where the encoder is frozen."""

    pixels: Tensor
    labels: Tensor
    groups: tuple[str | None, ...] = ()
    features: Features | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def with_labels(self, labels: Tensor) -> Pictures:
        """The same pictures under other labels (n,)."""
        return dataclasses.replace(self, labels=labels)


@dataclass(frozen=True, eq=False)
class Batch:
    """Bytes (n, C, H, W), or in their place features (n, width) under a frozen encoder; class numbers (n,)."""

    pixels: Tensor
    labels: Tensor
    features: Tensor | None = None


class Pictured(Headed):
    """Cross-entropy over the task's labels."""

    def __init__(self, task: Any, labels: tuple[str, ...]):
        super().__init__(task, lambda t: _build(t, len(labels)), labels)
        self.classes = len(labels)

    def fits(self, network: Any) -> None:
        whole: Any = self.whole
        patch = getattr(_plain(network).config, "patch_size", 1)
        patch = max(patch) if isinstance(patch, list | tuple) else int(patch)
        if whole.size % patch or not whole.size:
            near = max(patch, round(whole.size / patch) * patch)
            raise ModelError(
                f"{self.task.model}: {whole.size} pixels are no whole patches\n    why: it sees patches of {patch} x {patch}\n"
                f"    fix: task.size={near}"
            )
        try:
            with torch.no_grad():
                whole.features(torch.zeros(1, 3, whole.size, whole.size, dtype=torch.uint8))
        except Exception as e:  # noqa: BLE001 - nobody can list what networks of strangers raise
            own = _own_size(network, _told(self.task.model))
            raise ModelError(
                f"{self.task.model}: it cannot see pictures of {whole.size} pixels\n    why: {' '.join(words_of(e).split())[:200]}\n"
                f"    fix: {f'task.size={own}' if own else 'another size (task.size)'}, or another vision encoder"
            ) from e

    def beside(self, folder: Path) -> None:
        if (theirs := Path(local(self.task.model)) / PIXELS).is_file():
            shutil.copyfile(theirs, folder / PIXELS)

    # ---- rows -------------------------------------------------------------------------------------------------
    def encode(self, rows: Any) -> Pictures:
        """Stack a shard. Raises DataError for labels that the task does not know, and for other channels than 1 or 3."""
        number = {label: i for i, label in enumerate(self.labels or ())}
        if strange := [r["label"] for r in rows.rows if r.get("label") not in number]:
            raise DataError(
                f"{rows.party}: the label {strange[0]!r} is unknown ({nearest(str(strange[0]), number)})\n"
                f"    labels known: {', '.join(number)}"
            )
        if not len(rows):
            return Pictures(torch.zeros(0, 3, 1, 1, dtype=torch.uint8), torch.zeros(0, dtype=torch.long))
        pixels = torch.stack([r["image"] for r in rows.rows])
        if pixels.shape[1] not in (1, 3):
            raise DataError(
                f"{rows.party}: pictures of {pixels.shape[1]} channels\n    why: the encoder sees red, green and blue\n"
                "    fix: data.image_mode=RGB"
            )
        groups = groups_of(rows)
        features = Features(Ragged.of([[0]] * len(pixels))) if self.frozen else None
        return Pictures(pixels, torch.tensor([number[r["label"]] for r in rows.rows]), groups, features)

    def batch(self, encoded: Pictures, index: Tensor, device: torch.device) -> Batch:
        labels = encoded.labels[index].to(device)
        if encoded.features is None:
            return Batch(encoded.pixels[index].to(device), labels)
        whole: Any = self.whole
        found = encoded.features(index, lambda rows: whole.features(encoded.pixels[rows].to(device)))
        return Batch(labels[:0], labels, found)

    def explain(self, row: Any) -> dict[str, Any]:
        return {"image": tuple(row["image"].shape), "label": row["label"]}

    # ---- numbers ----------------------------------------------------------------------------------------------
    def logits(self, module: nn.Module, batch: Batch) -> Tensor:
        """(n, classes)"""
        seen: Any = module
        out: Tensor = seen(batch.pixels) if batch.features is None else seen.head(batch.features)
        return out

    def classify(self, module: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.logits(module, batch).argmax(-1), batch.labels

    def losses(self, module: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(self.logits(module, batch), batch.labels, reduction="none")

    def score(self, module: nn.Module, encoded: Pictures, device: torch.device) -> Scores:
        hits, losses = [torch.zeros(0, dtype=torch.bool)], [torch.zeros(0, dtype=torch.float64)]
        for index in torch.split(torch.arange(len(encoded)), CHUNK):
            batch = self.batch(encoded, index, device)
            logits = self.logits(module, batch)
            hits.append((logits.argmax(-1) == batch.labels).cpu())
            losses.append(functional.cross_entropy(logits, batch.labels, reduction="none").double().cpu())
        return graded(torch.cat(hits), torch.cat(losses), encoded.groups)

    def predict(self, module: nn.Module, pictures: Sequence[Any], device: torch.device) -> list[str]:
        """The most likely label of each picture (bytes, C x H x W)."""
        labels, found = self.labels or (), list[str]()
        for picture in pictures:
            out = self.logits(module, Batch(torch.as_tensor(picture)[None].to(device), torch.zeros(0)))
            found.append(labels[int(out.argmax())])
        return found


def _encoder(task: VisionClassification) -> Any:
    encoder = load_base(
        "AutoModel",
        task.model,
        dtype=task.dtype,
        dropout=task.dropout,
        checkpointing=task.gradient_checkpointing,
        pictures=True,
    )
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = nn.Identity()  # it makes a feature that nobody reads here
    return encoder


def _build(task: VisionClassification, classes: int) -> Seen:
    encoder = _encoder(task)
    with fresh():
        head = nn.Linear(_width(encoder), classes)
    network = tuned(task, encoder)
    if task.start and (Path(task.start) / HEAD).is_file():
        read_head(head, Path(task.start))
    return Seen(network, head, task)


def _plain(network: Any) -> Any:
    """The encoder itself, where a tuning has wrapped it."""
    return network.get_base_model() if hasattr(network, "get_base_model") else network


def _width(encoder: Any) -> int:
    config = encoder.config
    return int(getattr(config, "hidden_size", None) or config.hidden_sizes[-1])


def _told(model: str) -> dict[str, Any]:
    """What the model's folder says of its image processor."""
    path = Path(local(model)) / PIXELS
    return read(path) if path.is_file() else {}


def _own_size(network: Any, told: dict[str, Any]) -> int:
    """Pixels a side that the encoder was trained on; 0 where nobody says."""
    size = getattr(_plain(network).config, "image_size", 0) or told.get("size", 0)
    size = next(iter(size.values()), 0) if isinstance(size, dict) else size
    return int(max(size) if isinstance(size, list | tuple) else size or 0)


_README = """# A tuned classifier of pictures

Labels, in the order of the head's rows: {labels}

```python
import torch
{extra}{peft}from safetensors.torch import load_file
from transformers import AutoModel

folder = "."
base = {base}
encoder = {encoder}.eval()
head = load_file(folder + "/head.safetensors")
x = ...  # pictures (n, 3, {size}, {size}): bytes / 255, less the image processor's mean, over its deviation
with torch.no_grad():
    hidden = encoder(pixel_values=x).last_hidden_state.float()
features = torch.nn.functional.normalize({pooled}, dim=-1) * {scale}
logits = features @ head["weight"].T + head["bias"]  # (pictures, labels)
```

A size that the encoder was not trained on needs `interpolate_pos_encoding=True` where it asks for it.
With fedfm: `fedfm.tasks.load_tuned(folder).predict(pictures)`.
"""
