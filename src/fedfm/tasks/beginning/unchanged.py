"""What a module has beside its tensors, as it was opened: hooks, layers, the settings of torch's own layers.

None of it lies in the vector. A party that changes it in its work would change it for whoever trains in the same
process next, and for nobody in another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
Layer = tuple[str, nn.Module, tuple[int, ...], tuple[nn.Module | None, ...], dict[str, int | float]]


def layers(module: nn.Module) -> list[Layer]:
    """Each layer as it is now: its hooks, its own layers and, of torch's classes, the numbers that are its settings."""
    return [
        (name, m, _hooks(m), tuple(m._modules.values()), _numbers(m)) for name, m in module.named_modules()
    ]


def changed(as_opened: Sequence[Layer], trained: Sequence[tuple[str, Tensor]]) -> str:
    """The first thing that is not as it was, in words; empty: all is."""
    return next(_changes(as_opened, trained), "")


def _changes(as_opened: Sequence[Layer], trained: Sequence[tuple[str, Tensor]]) -> Iterator[str]:
    for name, t in trained:
        if not t.requires_grad:
            yield f"froze '{name}'"
    for name, m, hooks, inner, numbers in as_opened:
        where = f"layer '{name}'" if name else "the module"
        if _hooks(m) != hooks:
            yield f"put a hook on {where}, or took one off"
        if len(m._modules) != len(inner) or any(
            a is not b for a, b in zip(m._modules.values(), inner, strict=True)
        ):
            yield f"put another layer into {where}"
        now = vars(m)
        for key, was in numbers.items():
            if now.get(key) != was:
                yield f"set {key}={now.get(key)!r} of {where}, which was {was!r}"


def _hooks(m: nn.Module) -> tuple[int, ...]:
    return tuple(len(getattr(m, name)) for name in _HOOKS)


def _numbers(m: nn.Module) -> dict[str, Any]:
    if not type(m).__module__.startswith("torch.nn."):
        return {}  # others' layers may keep in numbers what their forward pass found
    return {k: v for k, v in vars(m).items() if isinstance(v, int | float) and k != "training"}
