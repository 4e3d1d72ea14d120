"""A model of the hub as a folder: its id, and a revision if there is one, is resolved to a commit once."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

from fedfm.models.reach import reachable, refusal

_WORDS = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.spm", "*.bpe", "*.codes")
_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")


def is_id(text: str) -> bool:
    """`name`, `org/name` or `org/name@revision`."""
    return _ID.fullmatch(text) is not None


@functools.cache
def snapshot(model: str) -> Path:
    """The folder of one commit in the hub's cache; what is missing there is downloaded. Raises ModelError."""
    name, _, revision = model.partition("@")
    if not reachable():
        if (found := cached(model)) is not None:
            return found
        raise refusal(model, name, "this model of the hub is not here", OSError("not in the cache"))
    from huggingface_hub import HfApi, snapshot_download

    try:
        info = HfApi().model_info(name, revision=revision or None)
        files = [s.rfilename for s in info.siblings or () if "/" not in s.rfilename]
        weights = [f for f in files if f.endswith(".safetensors")] or [f for f in files if f.endswith(".bin")]
        return Path(snapshot_download(name, revision=info.sha, allow_patterns=[*_WORDS, *weights]))
    except Exception as e:  # noqa: BLE001 - the hub's client raises types of four libraries here
        raise refusal(model, name, "the hub does not give this model", e) from e


def cached(model: str) -> Path | None:
    """The folder of a model of the hub that is whole in its cache; nothing is asked and nothing downloaded."""
    from huggingface_hub import snapshot_download

    name, _, revision = model.partition("@")
    try:
        found = Path(snapshot_download(name, revision=revision or None, local_files_only=True))
    except Exception:  # noqa: BLE001 - whatever the reason is, it is not here
        return None
    weights = any(next(found.glob(pattern), None) is not None for pattern in ("*.safetensors", "*.bin"))
    return found if weights and (found / "config.json").is_file() else None


def commit(folder: str | os.PathLike[str]) -> str | None:
    """The commit whose snapshot a folder of the hub's cache is; None for any other folder."""
    place = Path(folder)
    return (
        place.name if place.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", place.name) else None
    )
