"""What a module holds where torch does not see it, or leaves it out of what it saves: a saved model would be another one."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

from fedfm.core.errors import ModelError

TORCHS = frozenset(vars(nn.Module()))  # what torch itself keeps in a module


def seen(module: nn.Module) -> None:
    """Raises ModelError for trainable parameters in a container or an object of a module that are not among its own."""
    known = {id(p) for p in module.parameters()}
    for name, part in module.named_modules():
        for key, value in vars(part).items():
            if key in TORCHS or all(id(p) in known for p in _parameters(value, set())):
                continue
            where = f"{name}.{key}" if name else key
            sorts: dict[type, str] = {list: "List", tuple: "List", dict: "Dict"}
            sort = sorts.get(type(value))
            keep = (
                f"self.{key} = nn.Module{sort}(...), or nn.Parameter{sort}"
                if sort
                else "an attribute of the module itself"
            )
            raise ModelError(
                f"task.module: {where} holds layers in a {type(value).__name__}, where torch does not see them\n    why: "
                f"they are no parameters of the module: neither trained, nor sent, nor saved\n    fix: {keep}; "
                "requires_grad_(False) for a model that is only asked"
            )


def stored(module: nn.Module, names: Iterable[str]) -> None:
    """Raises ModelError for tensors that are learnt or travel, and that the module's `state_dict` does not hold."""
    there = module.state_dict(keep_vars=True)
    if not (lost := [name for name in names if name not in there]):
        return
    owner, _, key = lost[0].rpartition(".")
    held = module.get_submodule(owner)
    fix = f"register_buffer({key!r}, ..., persistent=True) in {type(held).__name__}"
    if key not in held._non_persistent_buffers_set:
        fix = f"let the state_dict of {type(module).__name__} hold it under this name (a hook of its own leaves it out)"
    raise ModelError(
        f"task.module: {', '.join(lost[:3])}{', ...' * (len(lost) > 3)} would not be saved\n    why: what is learnt lies there "
        f"also, and the state_dict, which is what is saved, does not hold it: the saved model would score otherwise\n    fix: {fix}"
    )


def unwrapped(module: nn.Module) -> nn.Module:
    """The module itself, without what torch wraps it in."""
    wrapped = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while (
        inner := getattr(module, "module" if isinstance(module, wrapped) else "_orig_mod", None)
    ) is not None:
        module = inner
    return module


def compiled(module: nn.Module) -> None:
    """Warn of parts that a class compiles: what is saved has names that the class knows, and a plain one does not."""
    names = [n for n in unwrapped(module).state_dict(keep_vars=True) if "_orig_mod." in n]
    if names:
        warnings.warn(
            f"fedfm: the module compiles a part of itself, and is saved under names as {names[0]}: they load into a class that "
            "compiles the same part, and into a plain one as {n.replace('_orig_mod.', ''): t for n, t in state.items()}; "
            "Torch(torch.compile(net)), the whole compiled, or part.compile() in place keeps plain names",
            UserWarning,
            stacklevel=3,
        )


def _parameters(value: Any, met: set[int]) -> Iterator[nn.Parameter]:
    """Trainable parameters inside containers, and objects that are no modules, each looked at once."""
    if isinstance(value, nn.Parameter | nn.Module):
        own = [value] if isinstance(value, nn.Parameter) else value.parameters()
        yield from (p for p in own if p.requires_grad)
    elif id(value) not in met and not isinstance(value, Tensor | type | FunctionType | ModuleType):
        met.add(id(value))
        inside = value if isinstance(value, list | tuple | set) else getattr(value, "__dict__", {}).values()
        for inner in value.values() if isinstance(value, dict) else inside:
            yield from _parameters(inner, met)
