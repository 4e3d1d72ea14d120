"""States on disk: nested dicts of tensors, numbers and strings as one safetensors file. Never pickled.

Client state stays with the client as versioned files, nothing overwritten: the server's checkpoint holds only
which version of each client it accepted, so rejection, lateness, failure and rollback are one integer.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from fedfm.core.errors import ResumeError
from fedfm.core.message import finite, raw
from fedfm.core.protocols import State
from fedfm.files import sweep, write

FORMAT = "1"  # of a state's file
LONGEST = 150  # characters of a folder's name; file systems allow 255 bytes


def freeze(state: State) -> bytes:
    """A state as safetensors bytes."""
    tensors: dict[str, Tensor] = {}
    plain = _strip(state, tensors)  # fills `tensors`
    tensors = tensors or {"": torch.zeros(0)}
    whole = {"format": FORMAT, "state": plain, "sha256": _digest(plain, tensors)}
    # One entry of metadata: the library writes several in any order, and equal states are to be equal bytes.
    return bytes(save(tensors, metadata={"state": json.dumps(whole, allow_nan=False)}))


def _digest(plain: Any, tensors: dict[str, Tensor]) -> str:
    """Of all that a state's file says: a disk may give other bytes than it was given, and still a sound file."""
    total = hashlib.sha256(json.dumps(plain).encode())
    for key, t in sorted(tensors.items()):
        total.update(f"{key} {t.dtype} {tuple(t.shape)}".encode() + b"\0")
        total.update(raw(t))
    return total.hexdigest()


def _strip(node: Any, tensors: dict[str, Tensor]) -> Any:
    """`node` without its tensors, which go to `tensors`. (No closure: one that calls itself keeps a model alive.)"""
    if isinstance(node, Tensor):
        key = str(len(tensors))
        tensors[key] = node.detach().to("cpu").contiguous().clone()
        return {"$tensor": key}
    if isinstance(node, dict):
        if odd := [k for k in node if not isinstance(k, str | int | float)]:
            raise TypeError(f"the keys of a state are strings or numbers; not {type(odd[0]).__name__}")
        return {"$dict": [[k, _strip(v, tensors)] for k, v in node.items()]}
    if isinstance(node, list | tuple):
        return {"$list": [_strip(v, tensors) for v in node]}
    if isinstance(node, float) and not math.isfinite(node):
        return {"$float": str(node)}
    if node is None or isinstance(node, bool | int | float | str):
        return node
    raise TypeError(f"a state holds tensors, numbers, strings, lists and dicts; not {type(node).__name__}")


def thaw(path: Path) -> State:
    """The inverse of `freeze`, from a file. Raises ResumeError."""
    try:
        with safe_open(str(path), "pt") as f:
            head = json.loads((f.metadata() or {})["state"])
            if (found := head.get("format", "0")) != FORMAT:
                why = f"{path} has the format {found}, this fedfm reads {FORMAT}"
                raise ResumeError(f"{why}: use the version of fedfm that wrote it, or start a new run")
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 - no mapping
            if head.get("sha256", now := _digest(head["state"], tensors)) != now:
                raise ValueError("its bytes are not those that were written")
            return dict(_fill(head["state"], tensors))
    except ResumeError:
        raise
    except FileNotFoundError as e:
        fix = "restore it from a copy of the run's folder, or start a new run"
        raise ResumeError(f"{path} is missing; {fix}") from e
    except Exception as e:  # noqa: BLE001 - any damage means the same to the user
        fix = "restore it; without a damaged checkpoint (remove it) the one before it is gone on from"
        raise ResumeError(f"{path} is damaged or no state file ({e}); {fix}") from e


def _fill(node: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(node, dict):
        return node
    if "$tensor" in node:
        return tensors[node["$tensor"]]
    if "$float" in node:
        return float(node["$float"])
    if "$list" in node:
        return [_fill(v, tensors) for v in node["$list"]]
    return {k: _fill(v, tensors) for k, v in node["$dict"]}


def leaves(state: Any) -> Iterator[Any]:
    """Every value of a state that is neither a dict nor a list."""
    if isinstance(state, dict | list | tuple):
        for v in state.values() if isinstance(state, dict) else state:
            yield from leaves(v)
    else:
        yield state


def whole(state: Any) -> bool:
    """Is every number in a state finite?"""
    numbers = (v for v in leaves(state) if isinstance(v, Tensor | float))
    return all(finite(v) if isinstance(v, Tensor) else math.isfinite(v) for v in numbers)


def lent(state: Any) -> Any:
    """A state as a method gets it, with dicts and lists of its own: what it writes there counts if the round succeeds."""
    if isinstance(state, dict):
        return {k: lent(v) for k, v in state.items()}
    return type(state)(map(lent, state)) if isinstance(state, list | tuple) else state


def lasting(state: State) -> State:
    """The state without what lives for one session only (keys that start with `_`)."""
    return {k: lasting(v) if isinstance(v, dict) else v for k, v in state.items() if not k.startswith("_")}


def holds(state: State) -> bool:
    """Is there anything to keep? Nothing but empty dicts is no state."""
    return any(holds(v) if isinstance(v, dict) else True for v in state.values())


def _folder(client: str) -> str:
    """A party's name as one folder's name, whatever it holds: separators, dots alone, more than a disk takes."""
    name = quote(client, safe="")
    if not name.strip("."):
        name = name.replace(".", "%2E") or "%"
    if len(name) <= LONGEST:
        return name
    return f"{name[:LONGEST]}-{hashlib.sha256(client.encode()).hexdigest()[:16]}"


class Store:
    """One directory of versioned client states; version 0 is the empty state and has no file."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, client: str, version: int) -> Path:
        """Where a version lies."""
        return self.folder / _folder(client) / f"{version:08d}.safetensors"

    def load(self, client: str, version: int) -> State:
        """Raises ResumeError when the state that the server accepted is not there or damaged."""
        return thaw(self.path(client, version)) if version else {}

    def save(self, client: str, version: int, state: State) -> int:
        """Returns the version that now holds `state`: 0 when there is nothing to keep. Raises MachineFault."""
        state = lasting(state)
        if not holds(state):
            return 0
        self.put(client, version, freeze(state))
        return version

    def put(self, client: str, version: int, data: bytes) -> None:
        """Keep a state's bytes. Idempotent: a job that is done again puts the same. Raises MachineFault."""
        path = self.path(client, version)
        if not (path.exists() and path.stat().st_size == len(data) and path.read_bytes() == data):
            write(path, data)

    def keep(self, client: str, versions: Set[int], upto: int | None = None) -> None:
        """Delete what neither the last nor the current checkpoint can name (and is not newer than `upto`)."""
        folder = self.path(client, 0).parent
        for path in folder.glob("*.safetensors"):
            version = int(path.stem) if path.stem.isdigit() else None
            if version is not None and version not in versions and (upto is None or version <= upto):
                path.unlink(missing_ok=True)
        sweep(folder)
