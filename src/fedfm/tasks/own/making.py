"""The module that a class or a function gives: one that was there before stays as it is, and is worked on as a copy."""

from __future__ import annotations

import copy
import weakref
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from fedfm.core.errors import ModelError, words_of
from fedfm.tasks.own.memory import apart

_GIVEN: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()  # what functions have given


def made(source: Any) -> Any:
    """What `source` gives, or is. Raises ModelError for a function that gives again what it has given before."""
    if isinstance(source, nn.Module) or not callable(source):
        return _own(source) if isinstance(source, nn.Module) else source
    fresh: dict[int, Tensor] = {}

    def hear(module: nn.Module, name: str, tensor: Any) -> None:
        if isinstance(tensor, Tensor):
            fresh[id(tensor)] = tensor

    hooks = [
        register_module_parameter_registration_hook(hear),
        register_module_buffer_registration_hook(hear),
    ]
    try:
        found = source()
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(found, nn.Module):
        return found
    held: dict[str, Tensor] = dict((*found.named_parameters(), *found.named_buffers()))
    if again := [n for n, t in held.items() if t.requires_grad and _GIVEN.get(id(t)) is t]:
        raise ModelError(
            f"task.module: gives {again[0]} a second time, the same tensor\n    why: it was trained where it was first given: "
            "a run would begin from what another has left\n    fix: a function that makes the module anew each time (no cache), "
            "or Torch(net): its weights are the start, and a copy is trained"
        )
    if any(id(t) not in fresh for t in held.values() if _learns(t)):
        return _own(found)
    _GIVEN.update({id(t): t for t in held.values()})
    _sized(found)
    apart(found)
    return found


def _learns(tensor: Tensor) -> bool:
    return tensor.requires_grad or not isinstance(tensor, nn.Parameter)


def _own(module: nn.Module) -> nn.Module:
    """A copy of a module that is the user's."""
    _sized(module)
    apart(module)
    try:
        return copy.deepcopy(module)
    except RuntimeError as e:
        raise ModelError(
            f"task.module: it cannot be copied: {words_of(e)[:200]}\n    why: a module that was there before stays as it is, and "
            "a copy of it is trained\n    fix: its class, or a function that makes it anew: Torch(lambda: Net(...))"
        ) from e


def _sized(module: nn.Module) -> None:
    if any(map(nn.parameter.is_lazy, (*module.parameters(), *module.buffers()))):
        raise ModelError(
            "task.module: has layers without a shape (nn.Lazy...)\n    why: what travels is laid out before the first row is "
            "read\n    fix: give the sizes, or call it on a row and give the module itself: net.eval(); net(x); net.train(); "
            "Torch(net) (eval: a batch norm takes no single row in training, and keeps its statistics)"
        )
