"""Files that are written whole or not at all, whoever is killed meanwhile; which place a path means; and what a disk's or
a kernel's refusal means."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from fedfm.core.errors import ConfigError, FedfmError, MachineFault, Problem

_SELF = os.urandom(4).hex()  # tells this process's temporary files from those of a dead one with its number
_OPEN = (
    "too many files are open in this process",
    "raise the limit (ulimit -n 4096), or use fewer workers (engine.workers)",
)
_SHORT = {
    errno.EMFILE: _OPEN,
    errno.ENFILE: _OPEN,
    errno.EAGAIN: (
        "no further process or thread may be started",
        "raise the limit (ulimit -u), or use fewer workers (engine.workers, threads)",
    ),
    errno.ENOMEM: (
        "there is no memory left",
        "use a smaller batch, or fewer workers or threads (engine.workers, threads)",
    ),
    errno.ENOBUFS: ("there are no buffers left for sockets", "use fewer workers (engine.workers)"),
    errno.ENOSPC: ("the disk, or shared memory (/dev/shm), is full", "free some space"),
}
_SAID = {  # what a library says without a number
    "allocate memory": errno.ENOMEM,
    "out of memory": errno.ENOMEM,
    "start new thread": errno.EAGAIN,
    "shared memory": errno.ENOSPC,
}
_WHY = {
    errno.ENOSPC: ("the disk is full", "free some space"),
    errno.EDQUOT: ("your quota is used up", "free some space"),
    errno.EROFS: ("the file system is read-only", "mount it for writing, or take another folder"),
    errno.EACCES: ("this user may not write there", "give the folder's owner the right to write"),
    errno.EPERM: ("this user may not write there", "give the folder's owner the right to write"),
    errno.EMFILE: _OPEN,
    errno.ENFILE: _OPEN,
    errno.ENAMETOOLONG: ("the path is too long", "take a folder with a shorter path"),
}


def path(given: str | os.PathLike[str]) -> Path:
    """The place that a person means: `~` and `~user` are home folders, also where no shell has put them in. Raises ConfigError."""
    text = os.fspath(given)
    found = Path(os.path.expanduser(text))
    first = "".join(found.parts[:1])
    if not first.startswith("~"):
        return found
    if text.startswith("~") and not os.path.lexists(first):
        what, why = f"no home folder is known for '{first}'", "a path that begins with ~ means one"
        fix = f"write the path out; for a folder of this name ./{text}"
        raise ConfigError([Problem(text, what, why, fix)])
    return Path.cwd() / found  # a folder of this name, whoever asks for its place again


def cannot_write(path: Path, e: OSError) -> MachineFault:
    """What a failed write means, where, and what to do."""
    why, fix = _WHY.get(e.errno or 0, (e.strerror or str(e), "look at the disk"))
    return MachineFault(
        f"{path} cannot be written: {why}\n    why: what a run keeps must be on disk before it goes on; nothing "
        f"that was written before is lost\n    fix: {fix}, then fedfm resume"
    )


def short(e: BaseException) -> MachineFault | None:
    """What a machine has run short of (memory, files, processes, space), and what to do; None: it is another error."""
    number = e.errno if isinstance(e, OSError) else errno.ENOMEM if isinstance(e, MemoryError) else None
    if isinstance(e, RuntimeError):
        number = next((n for words, n in _SAID.items() if words in str(e)), None)
    if number not in _SHORT or isinstance(e, FedfmError):
        return None
    why, fix = _SHORT[number]
    told = " ".join(str(e).split())[:200]
    return MachineFault(
        f"this machine has run short: {why}\n    why: {type(e).__name__}{f': {told}' if told else ''}\n    fix: {fix}"
    )


def write(path: Path, data: bytes) -> None:
    """All or nothing: a temporary file beside it, fsync, then rename. Raises MachineFault when the disk does not take it."""
    part = path.with_name(f".{path.name}.{os.getpid()}-{_SELF}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        try:
            with part.open("wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as e:
        raise cannot_write(path, e) from e


def sweep(folder: Path) -> None:
    """Delete the temporary files that killed processes left in `folder`."""
    for part in folder.glob(".*.part"):
        pid, _, whose = part.name.removesuffix(".part").rpartition(".")[2].partition("-")
        if pid.isdigit() and not (alive(int(pid)) and (int(pid) != os.getpid() or whose == _SELF)):
            part.unlink(missing_ok=True)


def alive(pid: int) -> bool:
    """Is there a process of this number here?"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
