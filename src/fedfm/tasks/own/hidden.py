"""Layers that a module holds where torch does not see them: they would be neither trained, nor sent, nor saved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from fedfm.core.errors import ModelError


def seen(module: nn.Module) -> None:
    """Raises ModelError for parameters in a list, tuple or dict of a module that are not among its parameters."""
    known = {id(p) for p in module.parameters()}
    for name, part in module.named_modules():
        for key, value in vars(part).items():
            if key.startswith("_") or not isinstance(value, list | tuple | dict):
                continue
            if any(id(p) not in known for p in _parameters(value)):
                sort = "Dict" if isinstance(value, dict) else "List"
                where = f"{name}.{key}" if name else key
                raise ModelError(
                    f"task.module: {where} holds layers in a {type(value).__name__}, where torch does not see them\n    why: "
                    f"they are no parameters of the module: neither trained, nor sent, nor saved\n    fix: self.{key} = "
                    f"nn.Module{sort}({key}), or nn.Parameter{sort} for bare parameters"
                )


def _parameters(value: Any) -> Iterator[nn.Parameter]:
    if isinstance(value, nn.Parameter):
        if value.requires_grad:
            yield value
    elif isinstance(value, nn.Module):
        yield from (p for p in value.parameters() if p.requires_grad)
    elif isinstance(value, list | tuple | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _parameters(inner)
