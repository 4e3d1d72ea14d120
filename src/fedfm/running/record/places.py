"""Where what a run reads lies: settings that may change when it is moved, because what lies there is compared by digests."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedfm.config.compose import Config
from fedfm.config.places import ROWS, places
from fedfm.core.errors import ResumeError


def moved(was: Config, now: Config) -> dict[str, tuple[str, str]]:
    """The settings that name another place for the same sort of thing; of models both must be folders, not names."""
    there = {at: value for at, value, _ in places(now)}
    return {
        at: (str(value), str(there[at]))
        for at, value, sort in places(was)
        if at in there
        and value != there[at]
        and (sort == ROWS or (os.path.isabs(value) and os.path.isabs(there[at])))
    }


def placed(was: Config, now: Config) -> Config:
    """The config `was` with the places of `now`."""
    found: Config = json.loads(json.dumps(was))
    there = {at: value for at, value, _ in places(now)}
    for at in moved(was, now):
        *path, last = at.split(".")
        node: Any = found
        for key in path:
            node = node[int(key)] if isinstance(node, list) else node[key]
        node[last] = there[at]
    return found


def renamed(digests: Mapping[str, str], was: Config, now: Config) -> dict[str, str]:
    """Digests of what lies in the places of `now`, under the names that those of `was` gave them."""
    found = dict(digests)
    for old, new in moved(was, now).values():
        found = {name.replace(new, old): digest for name, digest in found.items()}
    return found


def there(config: Config, folder: Path, *, given: bool) -> None:
    """Raises ResumeError for a place where nothing lies any more. `given`: the federation came from Python."""
    for at, value, sort in places(config):
        for path in value if isinstance(value, list) else [value]:
            full = os.path.expanduser(str(path))
            if (
                os.path.lexists(full)
                or (sort != ROWS and not os.path.isabs(full))
                or glob.glob(full, recursive=True)
            ):
                continue
            where = f"`{at}` of the federation" if given else f"`{at}` in {folder / 'config.yaml'}"
            raise ResumeError(
                f"{folder} cannot go on: {at} names {path}, and nothing is there\n    why: it was moved or removed since, or the "
                f"path is relative to another folder\n    fix: put it back, or write its new place as {where}: what lies there is "
                "compared with what the run began with"
            )
