"""Collecting what is wrong with a data set, to report everything at once."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from fedfm.core.errors import DataError, Problem

_PER_PLACE = 5  # a file with a million bad rows still gives a readable message
_IN_ALL = 20  # and so does a folder of a thousand such files
_FILES = 3  # named of those that lack the same column


@dataclass
class Faults:
    """The problems of one data set, in order of discovery; a few per file, the others counted.

    `notes`: what was read all the same, and a person should know.
    """

    what: str
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    _told: Counter[str] = field(default_factory=Counter)
    _absent: dict[str, tuple[int, dict[str, tuple[str, ...]]]] = field(default_factory=dict)

    def add(self, place: str, what: str, why: str, fix: str, line: int | None = None) -> None:
        """Note a problem in `place` (a file), at a line where there is one."""
        self.seen[place] += 1
        if self._told[place] < _PER_PLACE and len(self.problems) < _IN_ALL:
            self._told[place] += 1
            self.problems.append(Problem(f"{place}:{line}" if line else place, what, why, fix))

    def once(self, places: Sequence[str], what: str, why: str, fix: str) -> None:
        """Note one problem that several places have."""
        self._absent[what] = len(self.problems), dict.fromkeys(places, ())
        self.problems.append(Problem(_some(places), what, why, fix))

    def absent(
        self, place: str, column: str, role: str, found: Sequence[str], fix: str, more: str = ""
    ) -> None:
        """Note that `place` lacks a column; the same column missing in several files is one problem."""
        what = f"there is no column '{column}'" + (f" ({role})" if role else "")
        at, places = self._absent.setdefault(what, (len(self.problems), {}))
        places[place] = tuple(found)
        names = list(places)
        where = _some(names)
        first = next(iter(places.values()))
        who = (
            "it has"
            if len(names) == 1
            else "they have"
            if len(set(places.values())) == 1
            else f"{names[0]} has"
        )
        close = difflib.get_close_matches(column, first, n=1, cutoff=0.6)
        why = f"{who}: {', '.join(first)}" + (f"; did you mean '{close[0]}'?" if close else "") + more
        if len(names) == 1:
            self.problems.append(Problem(where, what, why, fix))
        else:  # the first file's fix stands for all
            self.problems[at] = Problem(where, what, why, self.problems[at].fix)

    def spoilt(self, place: str) -> bool:
        """Was anything noted in this file?"""
        return place in self.seen or any(place in places for _, places in self._absent.values())

    def settle(self) -> None:
        """Raise `DataError` with everything that was noted, if anything was."""
        if not self.problems:
            return
        n = sum(self.seen.values()) + len(self._absent)
        lines = [f"{n} problem{'s' if n != 1 else ''} in the data of {self.what}"]
        lines += [f"  {i}. {p}" for i, p in enumerate(self.problems, 1)]
        rest = self.seen - self._told
        lines += [f"  ... and {k} more in {place}" for place, k in rest.items() if self._told[place]]
        if others := [k for place, k in rest.items() if not self._told[place]]:
            lines.append(
                f"  ... and {sum(others)} more in {len(others)} other place{'s' * (len(others) > 1)}"
            )
        raise DataError("\n".join(lines))


def _some(places: Sequence[str]) -> str:
    return ", ".join(places[:_FILES]) + (f" and {len(places) - _FILES} more" if len(places) > _FILES else "")
