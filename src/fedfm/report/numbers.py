"""Numbers as a reader wants them: units, three significant digits, a real minus sign, one rule of rounding.

Everything that is printed is rounded here, half away from zero on the shortest decimal that names the number: 0.725
is 0.73 and 0.675 is 0.68. Differences are taken before rounding, never between rounded numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

_WIDE = Context(prec=400)  # any float has all its digits


def finite(value: Any) -> float | None:
    """The value as a finite float, or None for anything else (missing, NaN, text, a boolean)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def decimals(values: Iterable[float | None]) -> int:
    """Decimals (0 to 4) for scores that stand together: three significant digits and more of the largest."""
    top = max((abs(v) for v in values if v is not None), default=0.0)
    return 0 if top >= 1000 else 1 if top >= 100 else 2 if top >= 10 else 3 if top >= 0.1 or top == 0 else 4


def rounded(value: float, digits: int) -> Decimal:
    """The number with that many decimals, half away from zero on its shortest decimal form."""
    return Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP, _WIDE)


def fixed(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """A number with that many decimals; an en dash when there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    near = rounded(value, digits)
    mark = "" if not near else "−" if near < 0 else "+" if sign else ""
    return f"{mark}{abs(near):,}"


def score(value: float | None) -> str:
    """A score on its own; beside others it takes their `decimals`."""
    return fixed(value, decimals([value]))


def short(value: float | None) -> str:
    """A number with about three significant digits; an en dash when there is none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size != 0 and (size < 0.001 or size >= 1e7):
        exact = Decimal(repr(float(value)))
        near = exact.quantize(Decimal(1).scaleb(exact.adjusted() - 1), ROUND_HALF_UP, _WIDE)
        mantissa = fixed(float(near.scaleb(-near.adjusted(), _WIDE)), 1).removesuffix(".0")
        return f"{mantissa}e{near.adjusted()}".replace("e-", "e−")
    text = fixed(value, 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 or size == 0 else 4)
    return text.rstrip("0").rstrip(".") if "." in text else text


def alike(values: Sequence[float | None]) -> list[str]:
    """Numbers of one column: three significant digits for the largest, the same decimals for all."""
    top = max((abs(v) for v in values if v is not None), default=0.0)
    digits = 0 if top >= 100 else 1 if top >= 10 else 2 if top >= 1 else 3 if top >= 0.1 else 4
    if 0 < top < 0.001:
        return [short(v) for v in values]
    return [fixed(v, digits) for v in values]


def count(value: float | None) -> str:
    """A whole number with thousands separated."""
    return "–" if value is None else fixed(value, 0)


def brief(value: float | None) -> str:
    """A large count in k, M or B."""
    if value is None:
        return "–"
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{_three(value / (1e3 if unit == 'k' else limit))} {unit}"
    return count(value)


def size(value: float | None) -> str:
    """Bytes in decimal units (1 kB = 1,000 B)."""
    if value is None:
        return "–"
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= limit:
            return f"{_three(value / limit)} {unit}"
    return f"{fixed(value, 0)} B"


def span(seconds: float | None) -> str:
    """A duration: `740 ms`, `12.4 s`, `3 min 10 s`, `2 h 05 min`."""
    if seconds is None:
        return "–"
    if seconds == 0:
        return "0 s"
    if seconds < 0.9995:
        return f"{_three(seconds * 1000)} ms"
    if seconds < 59.95:
        return f"{_three(seconds)} s"
    whole = math.floor(seconds + 0.5)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def share(part: float, whole: float | None = 1.0) -> str:
    """Part of the whole in per cent."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    return f"{fixed(percent, int(percent < 10 and abs(percent - round(percent)) > 0.05))} %"


def plural(number: float, one: str, many: str | None = None) -> str:
    """`1 party`, `3 parties`."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def _three(value: float) -> str:
    size_ = abs(value)
    return fixed(value, 0 if size_ >= 99.95 else 1 if size_ >= 9.995 else 2)
