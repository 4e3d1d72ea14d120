"""Make the bundled slice fashion-mnist.npz from the four files of Fashion-MNIST.

    python scripts/make_fashion_mnist.py FOLDER [OUT_FOLDER]

The folder must hold the four idx files (Debian package dataset-fashion-mnist:
usr/share/datasets/fashion-mnist).
"""

from __future__ import annotations

import gzip
import hashlib
import sys
from pathlib import Path

import numpy as np

PER_CLASS = {"train": 600, "test": 100}
FILES = {"train": "train", "test": "t10k"}


def idx(path: Path) -> np.ndarray:
    """An idx file of bytes: a magic number whose last byte is the rank, the big-endian sizes, the values."""
    raw = gzip.decompress(path.read_bytes())
    rank = raw[3]
    shape = np.frombuffer(raw, ">i4", rank, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def main(source: Path, out: Path) -> None:
    arrays = {}
    for split, stem in FILES.items():
        images = idx(source / f"{stem}-images-idx3-ubyte.gz")
        labels = idx(source / f"{stem}-labels-idx1-ubyte.gz")
        # The first images of each class, class after class: like stands beside like, which compresses better.
        chosen = np.concatenate([np.flatnonzero(labels == c)[: PER_CLASS[split]] for c in range(10)])
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images[chosen], labels[chosen]
    out.mkdir(parents=True, exist_ok=True)
    path = out / "fashion-mnist.npz"
    np.savez_compressed(path, **arrays)
    raw = path.read_bytes()
    print(
        {k: v.shape for k, v in arrays.items()}, f"{len(raw)} bytes, sha256 {hashlib.sha256(raw).hexdigest()}"
    )


if __name__ == "__main__":
    default = Path(__file__).resolve().parents[1] / "src" / "fedfm" / "data" / "bundled"
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else default)
