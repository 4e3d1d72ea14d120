"""A run directory: who may write to it, what it records of itself, and what killed runs left in it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fedfm.core.errors import ConfigError, MachineFault, Problem, ResumeError
from fedfm.files import alive, short, write
from fedfm.files import path as meant

FORMAT = 1  # of run.json and baselines.json
LOCK, OWNER, RECORD, CONFIG = ".lock", ".owner", "run.json", "config.yaml"
TAKEN = "is being written by process"
EXPORTS = ("export", "merged")  # as it is, and added to the base model
ROUNDS = "rounds"  # kept for audits; private, as checkpoints are
GRACE_S = 10.0  # workers of a killed process notice its death within moments
_PART = re.compile(r"^\..+\.\d+(-[0-9a-f]+\.part)?$")  # folders in the making, and the files of `write`


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What the disk refuses inside becomes a MachineFault that names the folder and what to do."""
    try:
        yield
    except OSError as e:
        if e.errno != errno.ENOSPC and (fault := short(e)) is not None:
            raise fault from e
        raise MachineFault(
            f"{folder}: {e.strerror or type(e).__name__}"
            + (f" ({e.filename})" if e.filename and str(e.filename) != str(folder) else "")
            + "\n    fix: give a folder that can be written to (--out), or make room on the disk"
        ) from e


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Be the only process that writes to `folder`. Raises ResumeError that names the owner, MachineFault."""
    lock = FileLock(str(folder / LOCK))
    deadline = time.monotonic() + GRACE_S
    while True:
        with writing(folder):
            if _taken_at_once(lock):
                break
            pid, host = _owner(folder)
            if _lives(pid, host) or time.monotonic() > deadline:
                raise ResumeError(
                    f"{folder} {TAKEN} {pid or 'unknown'} on {host or 'an unknown host'}\n"
                    "    fix: wait for it, end it, or give another folder (--out)"
                )
        time.sleep(0.1)
    try:
        with writing(folder):
            (folder / OWNER).write_text(json.dumps([os.getpid(), socket.gethostname()]))
            _sweep(folder)
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / OWNER).unlink(missing_ok=True)
        lock.release()
        if not (folder / RECORD).exists():
            with contextlib.suppress(OSError):
                (folder / LOCK).unlink(missing_ok=True)


def _taken_at_once(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:  # an OSError too, and no fault of the disk
        return False
    return True


@contextlib.contextmanager
def begun(out: str | Path | None, name: str) -> Iterator[Path]:
    """A folder of our own for a new run; it is gone again if nothing but its plan was written to it.

    Raises ConfigError for a folder that holds anything, ResumeError for one that a running process owns.
    """
    folder = _fresh(name) if out is None else meant(out)
    ours = out is None or not folder.exists()
    if folder.exists() and not folder.is_dir():
        raise _taken(folder, "it is a file", "give a folder")
    if not ours and not (folder / LOCK).exists():
        _empty(folder)  # before a lock is put into somebody's folder
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    started = False
    try:
        with owned(folder):
            _empty(folder)
            try:
                yield folder
            finally:
                started = any((folder / "checkpoints").glob("*"))
                if not started:
                    for path in folder.iterdir():
                        if path.name not in (LOCK, OWNER):
                            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    finally:
        if ours and not started:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _empty(folder: Path) -> None:
    held = sorted(p.name for p in folder.iterdir() if p.name not in (LOCK, OWNER))
    if not held:
        return
    if (folder / "checkpoints").is_dir() or RECORD in held:
        raise _taken(
            folder,
            "a run never overwrites another",
            f"choose another folder, or `fedfm resume {folder}`",
        )
    if CONFIG in held:
        why = f"its {CONFIG} would be overwritten"
    else:
        why = f"it holds {', '.join(held[:3])}{' ...' if len(held) > 3 else ''}"
    raise _taken(folder, why, f"give a folder that is not there yet, e.g. --out {folder / 'run-1'}")


def _taken(folder: Path, why: str, fix: str) -> ConfigError:
    return ConfigError([Problem("--out", f"{folder} is not empty", why, fix)])


def _fresh(name: str) -> Path:
    """runs/NAME-K with the first K that nobody has; made at once, so that two processes never take the same."""
    k = 1
    while True:
        folder = Path("runs") / f"{name}-{k}"
        try:
            with contextlib.suppress(FileExistsError), writing(folder.parent):
                folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            return folder
        except FileExistsError:
            k += 1
        except OSError as e:
            with writing(folder):
                raise e


# ---- its record -----------------------------------------------------------------------------------------------
def record(folder: Path, plan: dict[str, Any]) -> None:
    """Make `plan` what run.json says, durably."""
    with writing(folder):
        write(folder / RECORD, json.dumps({"format": FORMAT, **plan}, indent=1).encode())


def recorded(folder: Path) -> dict[str, Any]:
    """What run.json says; empty where a run was killed before it had said anything. Raises ResumeError."""
    path = folder / RECORD
    if not folder.is_dir() or not (path.exists() or (folder / CONFIG).exists()):
        raise ResumeError(
            f"{folder} is no run directory: it has no config.yaml; give the folder that `fedfm run` wrote"
        )
    if not path.exists():
        if any((folder / "checkpoints").glob("*")):
            raise ResumeError(
                f"{path} is missing: nothing says what this is a run of\n"
                "    fix: restore it (copy a run directory as a whole), or start another run"
            )
        return {}
    return versioned(path)


def versioned(path: Path) -> dict[str, Any]:
    """A JSON record of a known format. Raises ResumeError that says what is wrong with it."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(plain, dict):
            raise ValueError("it holds no record")
    except (OSError, ValueError) as e:
        raise ResumeError(f"{path} is damaged ({e})\n    fix: restore it, or start another run") from e
    if plain.get("format") != FORMAT:
        raise ResumeError(
            f"{path} has format {plain.get('format', 'unknown')}, this release reads {FORMAT}\n"
            "    fix: resume with the release of fedfm that wrote it, or start another run"
        )
    return plain


# ---- who holds it ---------------------------------------------------------------------------------------------
def _owner(folder: Path) -> tuple[int, str]:
    try:
        pid, host = json.loads((folder / OWNER).read_text())
        return int(pid), str(host)
    except (OSError, ValueError, TypeError):
        return 0, ""


def holder(folder: Path) -> str:
    """The process that writes to a folder, in words, as far as can be told from here; empty where none does."""
    pid, host = _owner(folder)
    return f"process {pid} on {host}" if _lives(pid, host) else ""


def _lives(pid: int, host: str) -> bool:
    """Does this process exist, as far as can be told from here?"""
    if not pid or host != socket.gethostname():
        return bool(host)
    return alive(pid)


def _sweep(folder: Path) -> None:
    """Remove what killed processes had half written; nobody else writes here now."""
    for path in [*folder.glob(".*"), *folder.glob("*/.*"), *folder.glob("clients/*/.*")]:
        if not _PART.match(path.name):
            continue
        if not path.is_dir():
            path.unlink(missing_ok=True)
        elif path.parent in (folder, folder / ROUNDS):  # elsewhere it is a party's, whatever it is called
            shutil.rmtree(path)
