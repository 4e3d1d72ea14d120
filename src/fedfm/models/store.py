"""The cache of packaged models: fetched and converted once, published whole or not at all."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from fedfm.core.errors import ModelError
from fedfm.files import path as meant
from fedfm.models.announce import Say, announcing
from fedfm.models.convert import convert, require
from fedfm.models.folder import check
from fedfm.models.hub import cached, is_id, snapshot
from fedfm.models.packaged import Packaged, catalog
from fedfm.text import nearest

RECORD = "fedfm-model.json"
_only_here: ContextVar[bool] = ContextVar("only_here", default=False)


@dataclass(frozen=True)
class Row:
    """One line of the store's status; `bytes` is 0 and `path` is where it would be while not `cached`."""

    name: str
    kind: str
    parameters: int
    license: str
    package: str
    cached: bool
    bytes: int
    path: str


def cache() -> Path:
    """`$FEDFM_CACHE`, or the platform's cache folder."""
    if given := os.environ.get("FEDFM_CACHE"):
        return meant(given).absolute()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "fedfm" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "fedfm"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedfm"


def path(name_or_path: str | os.PathLike[str], *, progress: bool = True) -> str:
    """What `from_pretrained` takes, for a packaged name, a local folder or a hub id (which comes back as it is).

    A packaged name wins over a folder of that name (write ./name for the folder) and is fetched at first use.
    Raises ModelError for a folder without a model, and for a word that nearly is a packaged name.
    """
    text = os.fspath(name_or_path)
    if text in catalog():
        return str(fetch(text, progress=progress))
    folder = meant(text)
    if text and folder.is_dir():
        check(folder)
        return str(folder)
    if text and folder.exists():
        raise ModelError(
            f"{text}: is a file\n    fix: name the folder that holds config.json and the weights"
        )
    if re.match(r"[./~\\]|[A-Za-z]:[\\/]", text) or text.count("/") > 1 or "\\" in text:
        raise ModelError(
            f"{text}: no such folder\n    fix: check the path; packaged models: {', '.join(catalog())}"
        )
    if close := _near(text):
        raise ModelError(
            f"{text}: no packaged model of this name, and no such folder\n"
            f"    fix: did you mean '{close}'? A model of the hub is written org/name, a folder ./{text}"
        )
    if not is_id(text):
        raise ModelError(
            f"'{text}': neither a packaged model, nor a folder, nor a hub id (org/name, org/name@revision)\n"
            f"    fix: packaged models are {', '.join(catalog())}"
        )
    return text


def local(name_or_path: str | os.PathLike[str], *, progress: bool = True) -> Path:
    """The folder that holds the model; a hub id becomes the snapshot of one commit. Raises ModelError."""
    if _only_here.get():
        if (found := here(name_or_path)) is None:
            raise ModelError(
                f"{name_or_path}: is not here\n    fix: open it once where there is a network: a run does"
            )
        return found
    place = Path(path(name_or_path, progress=progress))
    if not place.is_dir():
        place = snapshot(os.fspath(name_or_path))
        check(place)
    return place


@contextlib.contextmanager
def only_here() -> Iterator[None]:
    """Inside, models that are not on this machine are a ModelError: nothing is fetched and no hub is asked."""
    token = _only_here.set(True)
    try:
        yield
    finally:
        _only_here.reset(token)


def here(name_or_path: str | os.PathLike[str]) -> Path | None:
    """The folder that `local` would give, if nothing has to be fetched for it. Raises ModelError like `path`."""
    text = os.fspath(name_or_path)
    if text in catalog():
        model = catalog()[text]
        return fetch(text) if not model.package or _ready(_place(model)) else None
    place = Path(path(text))
    if place.is_dir():
        return place
    if (found := cached(text)) is not None:
        check(found)
    return found


@contextlib.contextmanager
def alone(file: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock `file`, one process at a time; `waiting()` is called once when another one holds it."""
    lock = FileLock(file, mode=0o666)  # of a cache that several people share
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def fetch(name: str, *, force: bool = False, progress: bool = True) -> Path:
    """The folder of a packaged model; fetches and converts it unless it is there (`force`: in any case)."""
    if name not in catalog():
        raise ModelError(f"{name}: no packaged model of this name\n    fix: {nearest(name, catalog())}")
    model = catalog()[name]
    folder = _place(model)
    if not force and _ready(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with announcing(progress) as say:
            waiting = f"{name}: another process is fetching it; waiting"
            with alone(folder.parent / f".{folder.name}.lock", lambda: say(waiting)):
                if force or not _ready(folder):
                    _build(model, folder, say)
    except OSError as error:
        if error.errno is None:  # raised by a library, not by the operating system
            raise ModelError(f"{name}: cannot be converted\n    why: {error}") from error
        raise ModelError(
            f"{name}: cannot be stored in {folder.parent}\n    why: {error}\n"
            "    fix: make room or rights there, or set FEDFM_CACHE to another folder"
        ) from error
    return folder


def status() -> list[Row]:
    """One row per packaged model, in the order of the catalog."""
    rows = []
    for model in catalog().values():
        folder = _place(model)
        cached = _ready(folder)
        size = sum(file.stat().st_size for file in folder.iterdir()) if cached else 0
        package = f"{model.package} {model.version}".strip() or "made on the spot"
        row = (model.name, model.kind, model.parameters, model.license, package, cached, size, str(folder))
        rows.append(Row(*row))
    return rows


def _place(model: Packaged) -> Path:
    identity = "\n".join([model.wheel_sha256, model.convert, *(sha256 for _, sha256 in model.files)])
    return cache() / "models" / f"{model.name}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def _ready(folder: Path) -> bool:
    """The record is written last and knows every size: a folder that was cut or edited is built again."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in record["bytes"].items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def _build(model: Packaged, folder: Path, say: Say) -> None:
    from fedfm.models.wheels import gather

    # the lock is held, so what an interrupted process left of this model is nobody's
    for left in folder.parent.glob(f".{folder.name}.part-*"):
        shutil.rmtree(left)
    part = folder.parent / f".{folder.name}.part-{os.urandom(4).hex()}"
    source, made = part / "source", part / "made"
    try:
        require(model)
        source.mkdir(parents=True)
        made.mkdir()
        if model.package:
            gather(model, source, say)
        say(f"{model.name}: writing {folder}" + (" (about a minute, once)" if model.parameters > 5e7 else ""))
        convert(model, source, made)
        _seal(model, made)
        if folder.exists():
            os.replace(folder, part / "old")
        os.replace(made, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _seal(model: Packaged, made: Path) -> None:
    """Provenance and sizes, then everything to the disk: the rename that follows must not outrun the data."""
    mode = (made / "config.json").stat().st_mode
    sizes = {}
    for file in sorted(made.iterdir()):
        file.chmod(mode)  # some writers make weights private, which a shared cache cannot use
        sizes[file.name] = file.stat().st_size
    record = {
        "name": model.name,
        "kind": model.kind,
        "parameters": model.parameters,
        "license": model.license,
        "source": model.source,
        "package": model.package,
        "version": model.version,
        "wheel_sha256": model.wheel_sha256,
        "files_sha256": dict(model.files),
        "converter": model.convert,
        "bytes": sizes,
    }
    (made / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for file in made.iterdir():
        with file.open("rb+") as handle:
            os.fsync(handle.fileno())


def _near(word: str) -> str | None:
    """A packaged name that `word` misses narrowly; well-known hub ids of one word (gpt2) are not near."""
    low = word.lower()
    if "/" in word or len(low) < 4:
        return None
    for name in catalog():
        if name.startswith(low) or name in low:
            return name
    return next(iter(difflib.get_close_matches(low, catalog(), n=1, cutoff=0.75)), None)
