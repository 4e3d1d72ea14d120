"""What looking at a site finds: one record a thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Grade = Literal["good", "note", "bad", "open"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and what was found.

    `grade`: good; note (joining goes on, somebody should look); bad (it stands in the way of joining); open (not looked
    at, and why). `fix` says what mends it.
    """

    topic: str
    grade: Grade
    said: str
    why: str = ""
    fix: str = ""
