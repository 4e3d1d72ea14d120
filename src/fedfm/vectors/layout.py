"""The tree of trainable parameters: named tensors that are views on one flat, aligned vector.

Aggregators, codecs, clipping, noise, masks and robust rules work on the flat vector at memory bandwidth;
per-layer methods go through the `Layout`. The frozen base is never in here.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfm.vectors.patterns import matches

ALIGN = 16  # elements: 64 bytes of fp32, so that every tensor starts on a cache line


def _up(n: int) -> int:
    return (n + ALIGN - 1) // ALIGN * ALIGN


@dataclass(frozen=True)
class Entry:
    """One tensor of a layout. `axes` names, per dimension, the term that may cut it ("width", "rank" or "")."""

    name: str
    shape: tuple[int, ...]
    offset: int  # elements
    axes: tuple[str, ...] = ()
    trainable: bool = True  # False: a declared buffer (batch-norm statistics, a residual of the base)

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Names, shapes and offsets of a flat vector of `size` elements (padding between tensors is always zero)."""

    entries: tuple[Entry, ...]
    size: int

    @classmethod
    def of(
        cls,
        shapes: Mapping[str, Iterable[int]],
        *,
        axes: Mapping[str, tuple[str, ...]] | None = None,
        buffers: Iterable[str] = (),
    ) -> Layout:
        """Lay the tensors out in the given order, each at a multiple of 64 bytes."""
        entries, at, still = [], 0, set(buffers)
        for name, shape in shapes.items():
            entry = Entry(name, tuple(shape), at, (axes or {}).get(name, ()), name not in still)
            entries.append(entry)
            at += _up(entry.size)
        return cls(tuple(entries), at)

    @classmethod
    def flat(cls, n: int) -> Layout:
        """A vector of n values without names."""
        return cls((Entry("", (n,), 0),), n)

    @classmethod
    def join(cls, **parts: Layout) -> Layout:
        """Several vectors behind each other; the names get the prefix `part/`."""
        entries, at = [], 0
        for prefix, part in parts.items():
            entries += [
                Entry(f"{prefix}/{e.name}", e.shape, at + e.offset, e.axes, e.trainable) for e in part.entries
            ]
            at += part.size
        return cls(tuple(entries), at)

    def like(self, shapes: Mapping[str, Iterable[int]]) -> Layout:
        """Some of these tensors with other shapes."""
        mine = {e.name: e for e in self.entries}
        return Layout.of(
            shapes,
            axes={n: mine[n].axes for n in shapes},
            buffers=[n for n in shapes if not mine[n].trainable],
        )

    def sub(self, pattern: str, *, rest: bool = False) -> tuple[Layout, Tensor]:
        """The layout of the tensors that match (`rest`: of the others), and where its elements lie in this one."""
        return self._part([e for e in self.entries if matches(pattern, e.name) != rest])

    def _part(self, kept: list[Entry]) -> tuple[Layout, Tensor]:
        """The layout of some of the tensors, and where its elements lie in this one."""
        where = [torch.arange(e.offset, e.offset + _up(e.size)) for e in kept]
        sub = self.like({e.name: e.shape for e in kept})
        return sub, torch.cat(where) if where else torch.empty(0, dtype=torch.long)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Every tensor by name, as a view on `flat` (shape (size,))."""
        if flat.shape != (self.size,):
            raise ValueError(f"a vector of {self.size} elements is needed, got shape {tuple(flat.shape)}")
        return {e.name: flat[e.offset : e.offset + e.size].view(e.shape) for e in self.entries}

    def blank(self, flat: Tensor) -> Tensor:
        """Set the padding of `flat` to zero, in place; returns it."""
        end = 0
        for e in self.entries:
            flat[end : e.offset] = 0
            end = e.offset + e.size
        flat[end:] = 0
        return flat

    def pack(self, tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
        """The flat vector that holds `tensors`; names absent are zero."""
        flat = torch.zeros(self.size, dtype=dtype)
        for name, view in self.views(flat).items():
            if name in tensors:
                view.copy_(tensors[name])
        return flat

    @functools.cached_property
    def trainable(self) -> int:
        """Parameters, without padding and buffers."""
        return sum(e.size for e in self.entries if e.trainable)

    # ---- sorts of numbers: weights, buffers, padding ----------------------------------------------------------
    @functools.cached_property
    def mixed(self) -> bool:
        """Does the vector hold buffers besides weights?"""
        return any(not e.trainable for e in self.entries)

    @functools.cached_property
    def numbers(self) -> int:
        """Values, without padding; all of a vector without names."""
        return sum(e.size for e in self.entries) if self.entries else self.size

    @functools.cached_property
    def _sorts(self) -> tuple[tuple[Layout, Tensor], tuple[Layout, Tensor]]:
        still = [e for e in self.entries if not e.trainable]
        return self._part([e for e in self.entries if e.trainable]), self._part(still)

    @property
    def trained(self) -> Layout:
        """The layout of the weights alone (itself when there are no buffers)."""
        return self._sorts[0][0] if self.mixed else self

    @property
    def still(self) -> Layout:
        """The layout of the buffers alone."""
        return self._sorts[1][0]

    def weights(self, x: Tensor) -> Tensor:
        """The weights of `x` (size,), over `trained`: `x` itself, a view where they lie in front, else a copy."""
        if not self.mixed:
            return x
        sub, where = self._sorts[0]
        front = sub.size == 0 or int(where[-1]) == sub.size - 1
        return x[: sub.size] if front else x[where.to(x.device)]

    def buffers(self, x: Tensor) -> Tensor:
        """The buffers of `x` (running statistics, fixed residuals), over `still`: a copy."""
        return x[self._sorts[1][1].to(x.device)]

    def whole(self, weights: Tensor, buffers: Tensor) -> Tensor:
        """The vector of which these are the weights and the buffers."""
        if not self.mixed:
            return weights
        (_, w), (_, b) = self._sorts
        x = weights.new_zeros(self.size)
        x[w.to(x.device)], x[b.to(x.device)] = weights, buffers.to(x.dtype)
        return x

    @functools.cached_property
    def digest(self) -> str:
        return hashlib.sha256(repr(self.entries).encode()).hexdigest()[:16]

    def __hash__(self) -> int:
        return hash(self.digest)
