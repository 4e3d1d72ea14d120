"""Fashion-MNIST: small grey pictures of clothes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from fedfm.cards.registry import knob, method
from fedfm.core.schema import Column
from fedfm.data.bundled.slices import balanced, file_bytes
from fedfm.data.partition.dirichlet import Dirichlet
from fedfm.data.source import Parties, Partition, Row, divide
from fedfm.data.splits import Source

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@method(
    "fashion-mnist",
    slot="data",
    section="II.B",
    paper="Xiao et al., Fashion-MNIST: a novel dataset for benchmarking machine learning algorithms, 2017",
)
@dataclass(frozen=True)
class FashionMnist(Source):
    """Pictures of clothes: `image` uint8 (1, 28, 28), `label` the class name; bundled with the package.

    6,000 train and 1,000 test images of the 60,000 and 10,000, balanced; the seed chooses the train rows, the
    test rows are always the same. Card and licence: bundled/fashion-mnist.README.md and .LICENSE.txt.
    """

    train_rows: int = knob(
        4000, "training images of all parties together, balanced over the classes", low=1, high=6000
    )
    test_rows: int = knob(400, "held-out images, balanced over the classes", low=1, high=1000)
    partition: Partition = knob(
        doc="how the training images are divided among parties",
        factory=lambda: Dirichlet(alpha=0.5, parties=8),
    )

    def read(self, seed: int, columns: Sequence[Column] | None) -> Parties:
        """Read the slice and divide it; raises `DataError` when a size is out of range."""
        import numpy as np
        import torch

        with np.load(io.BytesIO(file_bytes("fashion-mnist.npz")), allow_pickle=False) as file:
            part = {name: file[name] for name in file.files}

        def rows(split: str, count: int, by: int | None) -> list[Row]:
            names = [CLASSES[k] for k in part[f"{split}_labels"]]
            index = balanced(names, count, by, what=f"{split}_rows")
            pictures = torch.from_numpy(part[f"{split}_images"][index]).unsqueeze(1)
            return [{"image": x, "label": names[i]} for x, i in zip(pictures.unbind(), index, strict=True)]

        return divide(
            rows("train", self.train_rows, seed),
            rows("test", self.test_rows, None),
            self.partition,
            seed,
            labels=CLASSES,
        )
