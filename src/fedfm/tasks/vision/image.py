"""Image classification with a small convolutional network: trained whole, by width, or cut in two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from fedfm.cards.registry import knob, method
from fedfm.core.context import Terms
from fedfm.core.errors import DataError
from fedfm.core.protocols import Scores, Task
from fedfm.core.schema import Column
from fedfm.data.kinds import Group, Image, Label
from fedfm.tasks.bound import BoundModule, Objective, groups_of, members
from fedfm.vectors.cut import share

MOST = 64  # blocks


@method("image-classification", slot="task", section="VII")
@dataclass(frozen=True)
class ImageClassification(Task):
    """Classify images with a convolutional network made from scratch (no normalisation layers, global pooling).

    Blocks of convolution (3x3), ReLU and pooling, then a linear head. Blocks before `cut` form the `front` of a split
    model, the others its `back` (in three parts: `body`, and the head as `tail`). Every hidden channel may be cut by
    width (HeteroFL); a sub-model divides its hidden activations by the width.
    """

    columns = (Column("image", Image()), Column("label", Label()), Column("group", Group(), required=False))

    channels: tuple[int, ...] = knob((16, 32, 64), "channels of each block", low=1, high=8192)
    cut: int = knob(1, "blocks that a split model keeps at the client", low=1)
    init_seed: int = knob(0, "seed of the initial weights, the same at every party", low=0)

    def __post_init__(self) -> None:
        blocks = self.channels
        if not isinstance(blocks, tuple | list) or type(self.cut) is not int:
            return  # of another type: a problem of its own
        if not 1 <= len(blocks) <= MOST:
            raise ValueError(
                f"channels names {len(blocks)} blocks: 1 to {MOST} are possible, e.g. channels=[16, 32]"
            )
        if self.cut > len(blocks):
            raise ValueError(
                f"cut={self.cut} is beyond the {len(blocks)} blocks of channels: set cut to 1 .. {len(blocks)}"
            )

    def open(self, data: Any, device: str = "cpu") -> BoundModule:
        shape, labels = data.schema.shapes.get("image", ()), data.schema.labels
        if labels is None or len(shape) != 3:
            raise DataError("image-classification needs rows of `image` (uint8, C x H x W) and `label`")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.init_seed)
            net = _Net(shape[0], self.channels, len(labels), self.cut)
        return BoundModule(net, _Objective(self, shape[0], tuple(labels)), axes=_axes(net), device=device)


class _Net(nn.Module):
    def __init__(self, inputs: int, channels: tuple[int, ...], classes: int, cut: int, scale: float = 1.0):
        super().__init__()
        sizes = list(zip((inputs, *channels), channels, strict=False))
        blocks = [nn.Conv2d(a, b, 3, padding=1) for a, b in sizes]
        self.front, self.back = nn.ModuleList(blocks[:cut]), nn.ModuleList(blocks[cut:])
        self.head = nn.Linear(channels[-1], classes)
        self.scale = scale

    def forward(self, x: Tensor, part: str = "whole") -> Tensor:  # (batch, C, H, W) -> (batch, classes)
        if part in ("whole", "front"):
            for block in self.front:
                x = self._pool(F.relu(block(x)))
        if part in ("whole", "back", "body"):
            for block in self.back:
                x = self._pool(F.relu(block(x)))
            x = x.mean((2, 3))
        return self.head(x) if part in ("whole", "back", "tail") else x

    def _pool(self, x: Tensor) -> Tensor:
        if self.training and self.scale != 1.0:
            x = x / self.scale
        return F.max_pool2d(x, 2) if min(x.shape[2:]) >= 4 else x


def _axes(net: _Net) -> dict[str, tuple[str, ...]]:
    axes: dict[str, tuple[str, ...]] = {"head.weight": ("", "width"), "head.bias": ("",)}
    convs = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d)]
    for i, (name, _) in enumerate(convs):
        axes[f"{name}.weight"] = ("width", "width" if i else "", "", "")
        axes[f"{name}.bias"] = ("width",)
    return axes


@dataclass(frozen=True, eq=False)
class Images:
    """Encoded images: (n, C, H, W) in [-1, 1], class numbers (n,), and test groups."""

    pixels: Tensor
    labels: Tensor
    groups: tuple[str | None, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def with_labels(self, labels: Tensor) -> Images:
        return Images(self.pixels, labels, self.groups)

    def only(self, index: Tensor) -> Images:
        return Images(self.pixels[index], self.labels[index])


class _Objective(Objective):
    def __init__(self, task: ImageClassification, inputs: int, labels: tuple[str, ...]):
        self.task, self.inputs, self.labels = task, inputs, labels
        self.classes = len(labels)

    def encode(self, rows: Any) -> Images:
        number = {label: i for i, label in enumerate(self.labels)}
        if not len(rows):
            return Images(torch.zeros(0, self.inputs, 1, 1), torch.zeros(0, dtype=torch.long))
        pixels = torch.stack([r["image"] for r in rows.rows]).float().div_(127.5).sub_(1.0)
        return Images(pixels, torch.tensor([number[r["label"]] for r in rows.rows]), groups_of(rows))

    def batch(self, encoded: Images, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        return encoded.pixels[index].to(device), encoded.labels[index].to(device)

    def losses(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(module(batch[0]), batch[1], reduction="none")

    def loss(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(module(batch[0]), batch[1])  # their mean, in one pass

    def logits(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        out: Tensor = module(batch[0])
        return out

    def classify(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return module(batch[0]).argmax(1), batch[1]

    def score(self, module: nn.Module, encoded: Images, device: torch.device) -> Scores:
        right, loss = 0, 0.0
        for at in range(0, len(encoded), 256):
            x, y = encoded.pixels[at : at + 256].to(device), encoded.labels[at : at + 256].to(device)
            logits = module(x)
            right += int((logits.argmax(1) == y).sum())
            loss += float(F.cross_entropy(logits, y, reduction="sum"))
        each = (
            (name, self.score(module, encoded.only(mine), device)) for name, mine in members(encoded.groups)
        )
        return {
            "accuracy": (float(right), len(encoded)),
            "loss": (loss, len(encoded)),
            **{f"accuracy/{name}": scores["accuracy"] for name, scores in each},
        }

    parts = {"front": ("front.*",), "back": ("back.*", "head.*"), "body": ("back.*",), "tail": ("head.*",)}

    def part(self, module: nn.Module, name: str, params: Any, *inputs: Any) -> Tensor:
        """front: batch to activations; back: activations and labels to the loss. In three, back is body and tail."""
        x, *labels = (inputs[0][0],) if name == "front" else inputs
        out: Tensor = functional_call(module, dict(params), (x,), {"part": name})
        return F.cross_entropy(out, labels[0]) if labels else out

    def target(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return batch[1]

    def narrow(self, terms: Terms) -> nn.Module:
        channels = tuple(share(terms.width, c) for c in self.task.channels)
        return _Net(self.inputs, channels, len(self.labels), self.task.cut, scale=terms.width)

    def explain(self, row: Any) -> dict[str, Any]:
        return {"image": tuple(row["image"].shape), "label": row["label"]}

    def save(self, module: nn.Module, folder: str) -> None:
        import json
        from pathlib import Path

        from fedfm.tasks.state import write_state

        net = f"net = _Net({self.inputs}, {tuple(self.task.channels)}, {len(self.labels)}, {self.task.cut})"
        made = f"from fedfm.tasks.vision.image import _Net\n\n{net}"
        write_state(module.state_dict(), folder, made, takes="pixels / 127.5 - 1.0", labels=self.labels)
        Path(folder, "config.json").write_text(
            json.dumps(
                {
                    "architecture": "fedfm image-classification",
                    "inputs": self.inputs,
                    "channels": self.task.channels,
                    "cut": self.task.cut,
                    "labels": self.labels,
                },
                indent=2,
            )
        )
