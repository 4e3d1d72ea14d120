"""What a config cannot say: a marker stands for it, with its class, what it looks like, and a digest of its numbers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

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
    """`{object: module:Class, repr: ...}`; a function is named itself, arrays and weights by their digest."""
    named = hasattr(value, "__qualname__") and hasattr(value, "__module__")
    of = value if named else type(value)
    said: dict[str, Any] = {"object": f"{of.__module__}:{of.__qualname__}"}
    if named:
        return said
    text = _shown(value)
    said["repr"] = text if len(text) <= LONGEST else text[:LONGEST] + "..."
    if any(isinstance(v, bytes) for v in _parts(value)) or len(text) > LONGEST:
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


def _parts(value: Any) -> Iterator[str | bytes]:
    """What identifies a value, piece by piece."""
    if isinstance(value, torch.nn.Module):
        yield _shown(value)
        yield from _parts(_made(value))
    elif isinstance(value, torch.Tensor):
        yield f"{value.dtype} {tuple(value.shape)}"
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape}"
        yield repr(value.tolist()).encode() if value.dtype.hasobject else value.tobytes()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield type(value).__qualname__
        yield from _parts({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    elif isinstance(value, Mapping):
        for k, v in value.items():
            yield str(k)
            yield from _parts(v)
    elif isinstance(value, list | tuple):
        yield str(len(value))
        for v in value:
            yield from _parts(v)
    elif value is None or isinstance(value, str | int | float):
        yield json.dumps(value)
    else:
        yield _shown(value)


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
