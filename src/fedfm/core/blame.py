"""Whose fault a failure is: decided by whose input the code was handling, and told apart by type.

A party's numbers, bytes or absence cost that party the round; a bug of a method's own code ends the run; a worker,
a disk or memory that fails sends the job elsewhere, or stops the run so that it can be resumed.
"""

from __future__ import annotations

import sysconfig
import traceback
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from fedfm.cards.registry import name_of
from fedfm.core.errors import (
    FedfmError,
    MachineFault,
    MethodFault,
    PartyFault,
    ResumeError,
    RoundFailed,
    words_of,
)
from fedfm.core.job import Fault
from fedfm.core.state import leaves

T = TypeVar("T")
_HERE, _PYTHON = Path(__file__).parents[1], sysconfig.get_path("stdlib")
MOST_WORDS = 4000  # characters of a failure that are passed on: a traceback's worth, not a party's gigabyte


def of_session(e: BaseException, answered: bool, simulated: bool) -> tuple[Fault, str, str]:
    """(fault, error, where) of an exception in a session.

    A line is named where nobody has declared the failure: several parties that fail in one line point to the method.
    Before its first answer a session has handled nothing of others: what it raises is the method's own bug. Later
    it may be what another party said, unless the house itself found the method at fault. At a real party it is that
    party's, and only the exception's name leaves.
    """
    where, error = place(e), words_of(e)[:MOST_WORDS]
    if isinstance(e, PartyFault):
        return "party", error, ""
    if machine(e):
        return "machine", error, where
    if not simulated:
        return "party", type(e).__name__, ""
    return ("party" if answered and not isinstance(e, MethodFault) else "method"), error, where


def machine(e: BaseException) -> bool:
    """A disk (full, or without a state that was kept there), a worker, memory: nothing that the federation could help."""
    if isinstance(e, MachineFault | ResumeError | MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(e, RuntimeError) and "allocate memory" in str(e)


def place(e: BaseException) -> str:
    """The innermost line of a person's own code, else of fedfm's, else of a library's; of a declared fault its own."""
    if isinstance(e.__cause__, StopIteration):  # of a generator it comes out as another
        e = e.__cause__
    way = sorted(traceback.extract_tb(e.__traceback__), key=lambda f: whose(f.filename))
    return e.where if isinstance(e, MethodFault) else shown(way[-1]) if way else ""


def whose(file: str) -> int:
    """Whose code it is: 2 a person's own, 1 fedfm's, 0 a library's or Python's."""
    if Path(file).is_relative_to(_HERE):
        return 1
    return 0 if "site-packages" in file or file.startswith(("<frozen", _PYTHON)) else 2


def shown(frame: traceback.FrameSummary) -> str:
    """File, line and function; the file from the package on, or from the folder that a person stands in."""
    path = Path(frame.filename)
    root = next((r for r in (_HERE.parent, Path.cwd()) if path.is_relative_to(r)), Path())
    return f"{path.relative_to(root) if path.is_relative_to(root) else path}:{frame.lineno}, in {frame.name}"


@contextmanager
def untouched(slot: str, method: Any, *given: Any) -> Iterator[None]:
    """What a method is given belongs to others too: one that writes into it changes their run, each engine's another way."""
    theirs = [t for t in leaves(given) if isinstance(t, torch.Tensor)]
    before = [t._version for t in theirs]
    yield
    if before != [t._version for t in theirs]:
        raise MethodFault(
            slot, f"{name_of(method)} writes into what it was given; let it work on a copy: x.clone()"
        )


def intact(slot: str, method: Any, bound: Any) -> None:
    """Raises MethodFault for a method that leaves a model whose tensors no longer lie where the next one reads them."""
    try:
        bound.check()
    except FedfmError as e:
        raise MethodFault(slot, f"{name_of(method)} leaves the model otherwise than it was lent: {e}") from e


@contextmanager
def of_slot(slot: str, method: Any, *given: Any) -> Iterator[None]:
    """Code of a server-side method on what the server itself made: whatever it raises unasked is its own bug."""
    try:
        with untouched(slot, method, *given):
            yield
    except FedfmError:
        raise
    except (Exception, SystemExit) as e:  # noqa: BLE001 - any bug
        if machine(e):
            raise MachineFault(words_of(e)) from e
        raise MethodFault(slot, f"{name_of(method)} raised {words_of(e)}", place(e)) from e


def mended(why: str, method: Any) -> tuple[str, str]:
    """Why a method cannot act, and what would help: what it says itself behind its last semicolon."""
    (reason, _, fix), name = why.rpartition("; "), name_of(method)
    return (reason, fix) if reason else (why, f"other settings (fedfm show {name}), or another method")


def chosen(does: str, method: Any, ids: Sequence[Any], free: Container[str], slot: str = "select") -> None:
    """Raises MethodFault for a choice of parties that names one twice, or one that cannot be chosen now."""
    for i, n in Counter(ids).items():
        if n > 1 or i not in free:
            wrong = f" {n} times in one round" if n > 1 else ", which is not among those given to it"
            raise MethodFault(slot, f"{name_of(method)} {does} {i!r}{wrong}")


def jointly(work: Callable[[], T], again: Callable[[], Any] | None) -> T:
    """Code on all parties' messages. What they say never ends a run: the round fails.

    `again` repeats the work without the malicious parties' messages (None: there are none, so the bug is the
    method's own); if it fails there too, the method is to blame, and the run ends.
    """
    try:
        return work()
    except MethodFault as e:
        if again is None:
            raise
        try:
            again()
        except (RoundFailed, PartyFault):
            pass
        except FedfmError:
            raise e from None
        raise RoundFailed(
            f"{e.what} on this round's messages; without the malicious parties' it works"
        ) from e
