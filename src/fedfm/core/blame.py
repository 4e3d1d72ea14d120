"""Whose fault a failure is: decided by whose input the code was handling, and told apart by type.

A party's numbers, bytes or absence cost that party the round; a bug of a method's own code ends the run; a worker,
a disk or memory that fails sends the job elsewhere, or stops the run so that it can be resumed.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
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

T = TypeVar("T")


def of_session(e: BaseException, answered: bool, simulated: bool) -> tuple[Fault, str, str]:
    """(fault, error, where) of an exception in a session.

    A line is named where nobody has declared the failure: several parties that fail in one line point to the method.
    Before its first answer a session has handled nothing of others: what it raises is the method's own bug. Later
    it may be what another party said. At a real party it is that party's, and only the exception's name leaves.
    """
    where = place(e)
    if isinstance(e, PartyFault):
        return "party", str(e), ""
    if machine(e):
        return "machine", words_of(e), where
    if not simulated:
        return "party", type(e).__name__, ""
    error = str(e) if isinstance(e, FedfmError) else words_of(e)
    return ("party" if answered else "method"), error, where


def machine(e: BaseException) -> bool:
    """A disk (full, or without a state that was kept there), a worker, memory: nothing that the federation could help."""
    if isinstance(e, MachineFault | ResumeError | MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(e, RuntimeError) and "allocate memory" in str(e)


def place(e: BaseException) -> str:
    """The innermost line, of installed libraries only if there is no other: file, line and function."""
    if isinstance(e.__cause__, StopIteration):  # of a generator it comes out as another
        e = e.__cause__
    frames = sorted(traceback.extract_tb(e.__traceback__), key=lambda f: "site-packages" not in f.filename)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}, in {frames[-1].name}" if frames else ""


@contextmanager
def of_slot(slot: str, method: Any) -> Iterator[None]:
    """Code of a server-side method on what the server itself made: whatever it raises unasked is its own bug."""
    try:
        yield
    except FedfmError:
        raise
    except (Exception, SystemExit) as e:  # noqa: BLE001 - any bug
        if machine(e):
            raise MachineFault(words_of(e)) from e
        raise MethodFault(slot, f"{name_of(method)} raised {words_of(e)}", place(e)) from e


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
