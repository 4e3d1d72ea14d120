"""Handwritten digits of 8 x 8 pixels: the smallest image set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedfm.cards.registry import knob, method
from fedfm.core.errors import MissingExtra
from fedfm.core.schema import Column
from fedfm.data.bundled.slices import balanced, pick
from fedfm.data.partition.dirichlet import Dirichlet
from fedfm.data.source import Parties, Partition, Row, divide
from fedfm.data.splits import Source

_TRAIN = 1437  # of the 1,797 images, 360 are held out for good


@method(
    "digits",
    slot="data",
    section="II.B",
    paper="Kaynak, Methods of combining multiple classifiers and their applications to handwritten digit "
    "recognition, 1995 (UCI optical digits, through scikit-learn)",
)
@dataclass(frozen=True)
class Digits(Source):
    """Handwritten digits: `image` uint8 (1, 8, 8) with values 0..240, `label` "0".."9". Extra: data.

    1,437 train and 360 test images. The seed chooses the train rows, the test rows are always the same.
    """

    train_rows: int = knob(
        1437, "training images of all parties together, balanced over the digits", low=1, high=1437
    )
    test_rows: int = knob(360, "held-out images, balanced over the digits", low=1, high=360)
    partition: Partition = knob(
        doc="how the training images are divided among parties",
        factory=lambda: Dirichlet(alpha=0.5, parties=8),
    )

    def read(self, seed: int, columns: Sequence[Column] | None) -> Parties:
        """Load, hold out and divide; raises `MissingExtra` without scikit-learn."""
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise MissingExtra("scikit-learn", "data", "the data set 'digits'") from None
        import torch

        bunch = load_digits()
        # Pixels are 0..16; times 15 they use the range of a byte.
        images = torch.from_numpy((bunch.images * 15).astype("uint8")).unsqueeze(1)
        rows: list[Row] = [{"image": x, "label": str(y)} for x, y in zip(images, bunch.target, strict=True)]
        train, test = rows[:_TRAIN], rows[_TRAIN:]
        names = [r["label"] for r in train]
        chosen = pick(train, balanced(names, self.train_rows, seed, what="train_rows"))
        held = pick(test, balanced([r["label"] for r in test], self.test_rows, None, what="test_rows"))
        return divide(chosen, held, self.partition, seed, labels=names)
