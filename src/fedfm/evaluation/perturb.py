"""Perturbed copies of test rows: what a picture or a text may suffer on its way, drawn from the name of the case."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedfm.data.source import stream

Change = Callable[[Any, float, np.random.Generator], Any]  # of a value, a strength and a stream


def noise(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Gaussian noise on a picture (C, H, W) uint8; `strength`: its standard deviation as a share of the range."""
    drawn = torch.from_numpy(rng.normal(0.0, 255.0 * strength, tuple(image.shape)))
    return (image.double() + drawn).round().clamp(0, 255).to(image.dtype)


def occlusion(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """A rectangle of the picture's own mean over a picture (C, H, W); `strength`: its share of the area."""
    (h, w), out = image.shape[-2:], image.clone()
    sides = [max(1, round(side * math.sqrt(strength))) for side in (h, w)]
    top, left = (int(rng.integers(0, side - part + 1)) for side, part in zip((h, w), sides, strict=True))
    out[:, top : top + sides[0], left : left + sides[1]] = image.double().mean().round().to(image.dtype)
    return out


def typos(text: str, strength: float, rng: np.random.Generator) -> str:
    """Letters dropped, doubled or swapped with the one before; `strength`: the share of letters that this befalls."""
    out: list[str] = []
    hit, how = rng.random(len(text)) < strength, rng.integers(0, 3, len(text))
    for i, letter in enumerate(text):
        if not (hit[i] and letter.isalnum()):
            out.append(letter)
        elif how[i] == 1:
            out += [letter, letter]
        elif how[i] == 2 and out:
            out.insert(len(out) - 1, letter)
    return "".join(out) if "".join(out).strip() else text


KINDS: Mapping[str, tuple[Change, tuple[str, ...]]] = {  # what changes, and in which columns
    "noise": (noise, ("image",)),
    "occlusion": (occlusion, ("image",)),
    "typos": (typos, ("text", "text_pair")),
}


def fitting(columns: tuple[str, ...]) -> tuple[str, ...]:
    """The kinds that can change something in rows of these columns."""
    return tuple(name for name, (_, where) in KINDS.items() if set(where) & set(columns))


def perturbed(shard: Any, kind: str, strength: float) -> Any:
    """A copy of a shard, one kind of change in every row; the same for the same rows, kind and strength."""
    change, columns = KINDS[kind]
    rng = stream(0, f"perturbed/{kind}")
    rows = tuple(
        {**row, **{c: change(row[c], strength, rng) for c in columns if row.get(c) is not None}}
        for row in shard.rows
    )
    return dataclasses.replace(shard, rows=rows)
