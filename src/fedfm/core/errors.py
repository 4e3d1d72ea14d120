"""One exception tree. Every message says what is wrong, where, and what to do about it.

FedfmError
├── ConfigError        a config that cannot run; carries *all* its problems
├── DataError          a file, a column or a row that cannot be used
├── ModelError         a model that cannot be found, checked or loaded
├── MissingExtra       an optional library is not installed; carries the install line
├── ResumeError        a run directory that cannot be continued or read
├── RunFailed          a run that ended without a result to rely on; carries the result
├── RoundFailed        this round yields no model (no quorum, too few shares); nobody's state moves
├── PartyFault         one party's numbers, bytes or absence: costs that party the round
│   ├── ClientFailed   its work failed
│   └── MessageRefused a message that must not be used (shape, dtype, size, NaN)
├── MethodFault        a bug of a slot's own code: ends the run, names slot, file and line
└── MachineFault       a worker, a disk, memory: the job goes elsewhere, else the run stops, resumable
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from dataclasses import dataclass


class FedfmError(Exception):
    """Base of every error that fedfm raises on purpose."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a federation: `where` (dotted path), `what`, `why`, and the `fix`."""

    where: str
    what: str
    why: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}\n    why: {self.why}\n    fix: {self.fix}"


class ConfigError(FedfmError):
    """All problems of a config, at once, before anything was loaded."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = tuple(problems)
        of = " in this federation" if any(not p.where.startswith("-") for p in self.problems) else ""
        head = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}{of}"
        super().__init__("\n".join([head, *(f"  {i}. {p}" for i, p in enumerate(self.problems, 1))]))


class DataError(FedfmError):
    """A file, a column or a row that cannot be used."""


class ModelError(FedfmError):
    """A model that cannot be found, checked or loaded."""


class MissingExtra(FedfmError, ImportError):
    """An optional library is missing."""

    def __init__(self, library: str, extra: str, what_for: str):
        super().__init__(f"{what_for} needs {library}, which is not installed: pip install 'fedfm[{extra}]'")


class ResumeError(FedfmError):
    """A run directory that cannot be continued or read."""


class RoundFailed(FedfmError):
    """This round yields no model; the server's and every client's state stay as they were."""


class PartyFault(FedfmError):
    """One party's numbers, bytes or absence."""


class ClientFailed(PartyFault):
    """One client's work failed (a loss or update that is not finite, a simulated drop-out)."""


class MethodFault(FedfmError):
    """A bug in a method's own code. `slot`: which method; `where`: file, line and function."""

    def __init__(self, slot: str, what: str, where: str = ""):
        self.slot, self.what, self.where = slot, what, where
        super().__init__(f"{slot}: {what}" + (f"\n    where: {where}" if where else ""))


class MachineFault(FedfmError):
    """A worker, a disk or memory failed; nothing is wrong with the federation."""


class RunFailed(FedfmError):
    """A run that ended without a result to rely on; `result` is its folder and summary."""

    def __init__(self, message: str, result: object = None):
        self.result = result
        super().__init__(message)


class MessageRefused(PartyFault):
    """A message that must not be used."""


def words_of(e: BaseException) -> str:
    """An exception's type and words (ours: the words); of one without words, which method a class leaves unwritten."""
    frames = [frame for frame, _ in traceback.walk_tb(e.__traceback__)]
    try:
        said = str(e)
    except Exception as unsaid:  # noqa: BLE001 - a stranger's class
        said = f"(its own words cannot be had: {type(unsaid).__name__})"
    if not frames or said or not isinstance(e, NotImplementedError):
        return said if isinstance(e, FedfmError) else f"{type(e).__name__}: {said}"
    owner = frames[-1].f_locals.get("self")
    return f"{type(e).__name__}: {type(owner).__name__} does not define {frames[-1].f_code.co_name}()"
