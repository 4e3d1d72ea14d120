"""What parties answered, read with suspicion: an answer is whatever its sender chose to write."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fedfm.core.message import Message


def numbers(answers: Mapping[str, Message], key: str) -> dict[str, float]:
    """The finite number under `key` of each answer; who gave none is left out."""
    found: dict[str, float] = {}
    for i, m in answers.items():
        value = m.info.get(key)
        if isinstance(value, int | float) and abs(value) < 1e300 and math.isfinite(value):
            found[i] = float(value)
    return found
