"""Collecting what is wrong with a data set, to report everything at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from fedfm.core.errors import DataError, Problem

_PER_PLACE = 5  # a file with a million bad rows still gives a readable message


@dataclass
class Faults:
    """The problems of one data set, in order of discovery; a few per file, the others counted."""

    what: str
    problems: list[Problem] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    def add(self, place: str, what: str, why: str, fix: str, line: int | None = None) -> None:
        """Note a problem in `place` (a file), at a line where there is one."""
        self.seen[place] += 1
        if self.seen[place] <= _PER_PLACE:
            self.problems.append(Problem(f"{place}:{line}" if line else place, what, why, fix))

    def settle(self) -> None:
        """Raise `DataError` with everything that was noted, if anything was."""
        if not self.problems:
            return
        n = sum(self.seen.values())
        lines = [f"{n} problem{'s' if n != 1 else ''} in the data of {self.what}"]
        lines += [f"  {i}. {p}" for i, p in enumerate(self.problems, 1)]
        lines += [
            f"  ... and {k - _PER_PLACE} more in {place}" for place, k in self.seen.items() if k > _PER_PLACE
        ]
        raise DataError("\n".join(lines))
