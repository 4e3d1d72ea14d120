"""States on disk: nested dicts of tensors, numbers and strings as one safetensors file. Never pickled.

Client state stays with the client as versioned files, nothing overwritten: the server's checkpoint holds only
which version of each client it accepted, so rejection, lateness, failure and rollback are one integer.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from fedfm.core.errors import ResumeError
from fedfm.core.message import finite
from fedfm.core.protocols import State


def write(path: Path, data: bytes) -> None:
    """All or nothing: a temporary file beside it, fsync, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    os.replace(part, path)


def freeze(state: State) -> bytes:
    """A state as safetensors bytes."""
    tensors: dict[str, Tensor] = {}

    def strip(node: Any) -> Any:
        if isinstance(node, Tensor):
            key = str(len(tensors))
            tensors[key] = node.detach().to("cpu").contiguous().clone()
            return {"$tensor": key}
        if isinstance(node, dict):
            return {"$dict": [[k, strip(v)] for k, v in node.items()]}
        if isinstance(node, list | tuple):
            return {"$list": [strip(v) for v in node]}
        if node is None or isinstance(node, bool | int | float | str):
            return node
        raise TypeError(
            f"a state holds tensors, numbers, strings, lists and dicts; not {type(node).__name__}"
        )

    skeleton = json.dumps(strip(state))  # fills `tensors`
    return bytes(save(tensors or {"": torch.zeros(0)}, metadata={"state": skeleton}))


def thaw(path: Path) -> State:
    """The inverse of `freeze`, from a file."""
    try:
        with safe_open(str(path), "pt") as f:
            skeleton = json.loads(f.metadata()["state"])

            def fill(node: Any) -> Any:
                if not isinstance(node, dict):
                    return node
                if "$tensor" in node:
                    return f.get_tensor(node["$tensor"])
                if "$list" in node:
                    return [fill(v) for v in node["$list"]]
                return {k: fill(v) for k, v in node["$dict"]}

            return dict(fill(skeleton))
    except Exception as e:  # noqa: BLE001 - any damage means the same to the user
        raise ResumeError(
            f"{path} is damaged or no state file ({e}); restore it, or resume from an older checkpoint"
        ) from e


def whole(state: Any) -> bool:
    """Is every number in a state finite?"""
    if isinstance(state, Tensor):
        return finite(state)
    if isinstance(state, dict):
        return all(map(whole, state.values()))
    if isinstance(state, list | tuple):
        return all(map(whole, state))
    return not isinstance(state, float) or math.isfinite(state)


def lasting(state: State) -> State:
    """The state without what lives for one session only (keys that start with `_`)."""
    return {k: lasting(v) if isinstance(v, dict) else v for k, v in state.items() if not k.startswith("_")}


def _holds(state: State) -> bool:
    return any(_holds(v) if isinstance(v, dict) else True for v in state.values())


class Store:
    """One directory of versioned client states; version 0 is the empty state and has no file."""

    def __init__(self, folder: Path):
        self.folder = folder

    def _path(self, client: str, version: int) -> Path:
        return self.folder / quote(client, safe="") / f"{version:08d}.safetensors"

    def load(self, client: str, version: int) -> State:
        return thaw(self._path(client, version)) if version else {}

    def save(self, client: str, version: int, state: State) -> int:
        """Returns the version that now holds `state`: 0 when there is nothing to keep."""
        state = lasting(state)
        if not _holds(state):
            return 0
        write(self._path(client, version), freeze(state))
        return version

    def keep(self, client: str, versions: set[int], upto: int | None = None) -> None:
        """Delete what neither the last nor the current checkpoint can name; what is newer than `upto` stays."""
        for path in self._path(client, 0).parent.glob("*.safetensors"):
            if int(path.stem) not in versions and (upto is None or int(path.stem) <= upto):
                path.unlink(missing_ok=True)
