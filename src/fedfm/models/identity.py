"""Which base model this is: digests over configuration and weights, and over what turns text into tokens."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfm.core.errors import ModelError
from fedfm.files import path as meant
from fedfm.models.folder import VOCABULARIES

# says which library wrote the file, not which model it is
_IGNORED = ("transformers_version", "_name_or_path", "_commit_hash")
_SETTLED_NS = 2_000_000_000
_WORDS = (
    *VOCABULARIES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template*",
    "preprocessor_config.json",
)


@dataclass(frozen=True)
class Base:
    """A base model as it was found: what it was called, where it lies, and what it is."""

    name: str  # as the task names it
    folder: str
    revision: str | None  # the commit, for a model of the hub
    weights: str  # digest of config and weights
    words: str  # digest of the tokenizer's files and the chat template; "" where there are none

    @property
    def source(self) -> str:
        """What other libraries load it by: the hub's id, or the folder."""
        return self.name.partition("@")[0] if self.revision else self.folder


def base(model: str | os.PathLike[str]) -> Base:
    """The identity of a packaged model, a folder or a hub id; a hub id is resolved to its commit. Raises ModelError."""
    from fedfm.models.hub import commit
    from fedfm.models.store import local

    folder = local(model)
    total, found = hashlib.sha256(), words(folder)
    for name, sha256 in found.items():
        total.update(f"{name}\0{sha256}\n".encode())
    said = total.hexdigest() if found else ""
    return Base(os.fspath(model), str(folder.absolute()), commit(folder), digest(folder), said)


def words(folder: str | os.PathLike[str]) -> dict[str, str]:
    """SHA-256 (hex) by name of the files that turn text or pictures into what the network sees, the template's too."""
    where = Path(folder)
    found = [p for pattern in _WORDS for p in sorted(where.glob(pattern)) if p.is_file()]
    return {file.name: _sha256(file) for file in dict.fromkeys(found)}


def digest(folder: str | os.PathLike[str]) -> str:
    """SHA-256 (hex) of a model folder: config.json without its volatile keys, and every weight file, by name.

    Hashing runs at disk speed, once: the result is kept in the cache under the sizes and times of the files.
    Raises ModelError when config.json or the weights are missing.
    """
    where = meant(folder)
    files = _files(where)
    stats = {file.name: file.stat() for file in files}
    key = {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
    kept = _kept(where)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads(kept.read_text(encoding="utf-8"))
        if record["key"] == key:
            return str(record["digest"])
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name}\0{_sha256(file)}\n".encode())
    found = total.hexdigest()
    # a file written a moment ago may change again within one tick of the clock
    if max(stat.st_mtime_ns for stat in stats.values()) < time.time_ns() - _SETTLED_NS:
        _keep(kept, {"folder": str(where.resolve()), "digest": found, "key": key})
    return found


def _files(folder: Path) -> list[Path]:
    config = folder / "config.json"
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not config.is_file() or not weights:
        missing = "config.json" if not config.is_file() else "weights (*.safetensors)"
        raise ModelError(f"{folder}: no {missing} here, so this base model has no digest")
    return [config, *weights]


def _sha256(file: Path) -> str:
    if file.name == "config.json":
        try:
            config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"{file}: is not JSON: {error}") from error
        settled = {name: value for name, value in config.items() if name not in _IGNORED}
        return hashlib.sha256(json.dumps(settled, sort_keys=True).encode()).hexdigest()
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _kept(folder: Path) -> Path:
    from fedfm.models.store import cache

    # in the cache, not in the folder: that one may be read-only, and is not ours
    return cache() / "digests" / f"{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]}.json"


def _keep(file: Path, record: dict[str, Any]) -> None:
    part = file.with_suffix(f".{os.getpid()}.part")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(record) + "\n", encoding="utf-8")
        os.replace(part, file)
