"""What a config cannot say: a marker stands for it, with its class, what it looks like, and a digest of its numbers."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedfm.core.blame import whose
from fedfm.core.errors import Problem

LONGEST = 300  # characters of a repr that a config keeps
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def plain_scalar(value: Any) -> Any:
    """A number of numpy as Python's own, a path as text; anything else as it is."""
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value


def live(value: Any) -> bool:
    """Is it an object of the running process, and no plain data?"""
    return not isinstance(value, dict | list | tuple | str | int | float | None | np.generic | Path)


def marker(value: Any) -> dict[str, Any]:
    """`{object: module:Class, repr: ..., digest: ...}`: what it is, what it looks like, and of what it is made.

    A function or class is named itself; the digest of one's own covers its code, what it closes over, and the globals
    that it names. Arrays and weights are in the digest by their bytes.
    """
    named = hasattr(value, "__qualname__") and hasattr(value, "__module__")
    of = value if named else type(value)
    said: dict[str, Any] = {"object": f"{of.__module__}:{of.__qualname__}"}
    if named:
        return said | ({"digest": fingerprint(value)} if _own(value) else {})
    text = _shown(value)
    said["repr"] = text if len(text) <= LONGEST else text[:LONGEST] + "..."
    if len(text) > LONGEST or _held(value) is not None or any(isinstance(v, bytes) for v in _parts(value)):
        said["digest"] = fingerprint(value)
    return said


def fingerprint(value: Any) -> str:
    """SHA-256 of what a value is made of: numbers by their bytes, other objects by what they print."""
    total = hashlib.sha256()
    for part in _parts(value):
        total.update(part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass"))
        total.update(b"\x00")
    return total.hexdigest()


def unspoken(config: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Path and class of every marker in a config."""
    if isinstance(config, Mapping):
        if isinstance(config.get("object"), str):
            yield where, config["object"]
            return
        for k, v in config.items():
            yield from unspoken(v, f"{where}.{k}" if where else str(k))
    elif isinstance(config, list | tuple):
        for i, v in enumerate(config):
            yield from unspoken(v, f"{where}.{i}" if where else str(i))


def refusal(where: str, what: str) -> Problem:
    return Problem(
        where,
        f"this is an object of a Python process ({what})",
        "a config records it and cannot make it again",
        "give the object from Python: fedfm.run(federation), fedfm.resume(folder, federation)",
    )


def _made(module: torch.nn.Module) -> dict[str, Any]:
    """Its state, but for layers that have no shape yet."""
    return {n: t for n, t in module.state_dict().items() if not torch.nn.parameter.is_lazy(t)}


def _parts(value: Any, seen: frozenset[int] = frozenset()) -> Iterator[str | bytes]:
    """What identifies a value, piece by piece."""
    if id(value) in seen:
        return
    within = seen | {id(value)}
    if value is None or isinstance(value, str | int | float):
        yield json.dumps(value)
    elif isinstance(value, torch.Tensor):
        yield f"{value.dtype} {tuple(value.shape)}"
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape}"
        yield repr(value.tolist()).encode() if value.dtype.hasobject else value.tobytes()
    elif isinstance(value, Mapping):
        for k, v in value.items():
            yield str(k)
            yield from _parts(v, within)
    elif isinstance(value, list | tuple | set | frozenset):
        yield str(len(value))
        for v in value if isinstance(value, list | tuple) else sorted(value, key=repr):
            yield from _parts(v, within)
    elif (held := _held(value)) is not None:
        yield _shown(value)
        yield from _parts(held, within)
    else:
        yield _shown(value)


def _held(value: Any) -> dict[str, Any] | None:
    """What an object of one's own, a dataclass, a module or a function is made of; None: what it prints says all."""
    if isinstance(value, torch.nn.Module):
        settings = {
            f"{name}.{k}": v
            for name, m in value.named_modules()
            for k, v in vars(m).items()
            if not k.startswith("_") and k != "training" and isinstance(v, str | int | float | tuple | None)
        }
        return _made(value) | settings
    if isinstance(value, types.MethodType) and _own(value):
        return {"self": value.__self__, "function": value.__func__}
    if isinstance(value, functools.partial):
        return {"function": value.func, "args": value.args, "keywords": value.keywords}
    if isinstance(value, types.FunctionType) and _own(value):
        return _of_function(value)
    if isinstance(value, type) and _own(value):
        return {k: v for k, v in vars(value).items() if not k.startswith("__") or k == "__init__"} | {
            f"base {b.__qualname__}": b for b in value.__bases__
        }
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if not isinstance(value, type) and _own(type(value)) and hasattr(value, "__dict__"):
        return dict(vars(value))
    return None


def _of_function(function: types.FunctionType) -> dict[str, Any]:
    """Its code, its defaults, what it closes over, and the globals that it names; the code of functions inside it too."""
    codes, world = [function.__code__], function.__globals__
    for code in codes:
        codes += [c for c in code.co_consts if isinstance(c, types.CodeType)]
    names = sorted({n for code in codes for n in code.co_names if n in world})
    return {
        "code": [code.co_code.hex() for code in codes],
        "constants": [c for code in codes for c in code.co_consts if not isinstance(c, types.CodeType)],
        "names": [code.co_names for code in codes],
        "defaults": [function.__defaults__, function.__kwdefaults__],
        "closes over": [_cell(c) for c in function.__closure__ or ()],
        "globals": {n: world[n] for n in names if not isinstance(world[n], types.ModuleType)},
    }


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing is in it yet
        return None


def _own(value: Any) -> bool:
    """Is it code of a person's own, and not of a library or of fedfm?"""
    code = getattr(value, "__code__", None)
    file = (
        code.co_filename
        if isinstance(code, types.CodeType)
        else getattr(sys.modules.get(value.__module__), "__file__", None)
    )
    return whose(file or "<own>") == 2 and value.__module__ != "builtins"


def _shown(value: Any) -> str:
    """The repr without addresses, which differ from process to process."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    if hasattr(value, "columns") and hasattr(value, "shape"):  # a table: its rows are nobody's business
        return f"{tuple(value.shape)} {list(value.columns)}"
    try:
        return _ADDRESS.sub("", repr(value))
    except Exception as e:  # a stranger's repr
        return f"<no repr: {type(e).__name__}>"
