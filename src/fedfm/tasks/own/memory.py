"""Two tensors of a module on one memory: what is trained gets a memory of its own, and the tie would be lost."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedfm.core.errors import ModelError


def apart(module: nn.Module) -> None:
    """Raises ModelError for a trained tensor that shares memory with another parameter, buffer or attribute."""
    held = [*module.named_parameters(), *module.named_buffers()]
    known = {id(t) for _, t in held}
    for where, part in module.named_modules():
        if part._forward_pre_hooks:  # computes it anew at each call, as a spectral norm does
            continue
        plain = [(f"{where}.{k}".lstrip("."), v) for k, v in vars(part).items() if isinstance(v, Tensor)]
        held += [(name, t) for name, t in plain if id(t) not in known and not nn.parameter.is_lazy(t)]
    spans = sorted(
        (*_span(t), i)
        for i, (_, t) in enumerate(held)
        if t.layout == torch.strided and t.numel() and t.data_ptr()
    )
    open_: list[tuple[int, int]] = []
    for begin, end, i in spans:
        open_ = [(e, j) for e, j in open_ if e > begin]
        for _, j in open_:
            first, second = sorted((i, j))
            if any(held[k][1].requires_grad for k in (i, j)) and _overlap(held[i][1], held[j][1]):
                _refuse(*held[first], *held[second])
        open_.append((end, i))


def _refuse(name: str, one: Tensor, other_name: str, other: Tensor) -> None:
    same = (one.data_ptr(), one.shape, one.stride()) == (other.data_ptr(), other.shape, other.stride())
    tie = f"self.{other_name} = self.{name}, the parameter itself, without .data or a new nn.Parameter"
    if not same:
        tie = f"one parameter, and compute the other of it in forward (a view or transpose of self.{name})"
    raise ModelError(
        f"task.module: {name} and {other_name} are two tensors on one memory\n    why: what is trained lies in one vector, "
        "each tensor at a place of its own: they would part at the first step, and the saved model score otherwise\n"
        f"    fix: {tie}; .clone() if each is to learn on its own"
    )


def _span(t: Tensor) -> tuple[int, int]:
    last = sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
    return t.data_ptr(), t.data_ptr() + (last + 1) * t.element_size()


def _overlap(one: Tensor, other: Tensor) -> bool:
    """Do they share a value? Slices of one buffer may lie between each other and share none."""
    if one.device != other.device:
        return False
    if one.element_size() != other.element_size() or (one.is_contiguous() and other.is_contiguous()):
        return True
    return bool(torch.isin(_places(one), _places(other)).any())


def _places(t: Tensor) -> Tensor:
    found = torch.tensor([t.data_ptr()])
    for n, stride in zip(t.shape, t.stride(), strict=True):
        found = (found[:, None] + torch.arange(n) * stride * t.element_size()).flatten()
    return found
