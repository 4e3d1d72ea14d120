"""One exception tree. Every message says what is wrong, where, and what to do about it.

FedfmError
├── ConfigError        a config that cannot run; carries *all* its problems
├── DataError          a file, a column or a row that cannot be used
├── ModelError         a model that cannot be found, checked or loaded
├── MissingExtra       an optional library is not installed; carries the install line
├── ResumeError        a run directory that cannot be continued or read
├── RoundFailed        this round yields no model (no quorum, too few shares); nobody's state moves
├── ClientFailed       one client's work failed; the round goes on without it
└── MessageRefused     a message that must not be used (shape, dtype, size, NaN); the round goes on
"""

from __future__ import annotations

import difflib
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
        head = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''} in this federation"
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


class ClientFailed(FedfmError):
    """One client's work failed (an exception, a loss or update that is not finite)."""


class MessageRefused(FedfmError):
    """A message that must not be used."""


def reason(e: Exception) -> str:
    """Why a message was refused: our own words, or what its bytes did to a decoder."""
    return str(e) if isinstance(e, MessageRefused) else f"{type(e).__name__}: {e}"


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or the sorted list of what exists when nothing is near."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else "known here: " + ", ".join(known)
