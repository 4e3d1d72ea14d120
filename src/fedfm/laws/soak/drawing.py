"""Federations drawn at random from everything that is registered, with legal settings, so that `check` passes.

    fed = drawn(7, within=quadratics())     # the same federation for the same seed
    drawn(7, within=my_federation, must="my-codec")

The declared ranges and choices of the fields say what is legal. A combination that `check` refuses is mended slot by
slot; where that does not help, the next one is drawn.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedfm.cards.registry import SLOT_OF, load, methods
from fedfm.checks.rules import check
from fedfm.core.combine import Pipe
from fedfm.core.errors import FedfmError
from fedfm.core.federation import Federation, replace
from fedfm.core.protocols import Client, Selector, Server, Wire

DRAWN = (
    *("client", "server", "aggregate", "uplink", "downlink", "talk"),
    *("select", "pace", "adversary", "detect", "value", "reward"),
)
INSIDE = {Wire: "wire", Client: "client", Selector: "select"}  # slots of specs that stand within others
TRIES = 300
MENDS = 80
DEPTH = 2  # of specs inside specs


class Dice:
    """Draws that depend on nothing but their seed."""

    def __init__(self, *seed: int):
        self._rng = np.random.default_rng(seed)

    def chance(self, p: float) -> bool:
        return bool(self._rng.random() < p)

    def pick(self, among: Sequence[Any]) -> Any:
        return among[int(self._rng.integers(len(among)))]

    def scale(self, low: float, high: float) -> float:
        """2 to a power between `low` and `high`."""
        return float(2.0 ** self._rng.uniform(low, high))


def drawn(
    seed: int, within: Federation, *, must: str = "", wild: bool = True, crowd: float = 0.45
) -> Federation:
    """A federation with the task and the data of `within`, every other slot drawn or left as it is there.

    `must`: the name of a method that takes part. `wild=False` draws no number at the end of its range and none above
    its default. `crowd`: how often another slot is drawn, too. Raises FedfmError when no combination with `must` passes `check`.
    """
    dice = Dice(seed, len(must), *must.encode())
    for _ in range(TRIES):
        fed = _once(dice, within, must, wild, crowd)
        if fed is not None:
            return fed
    raise FedfmError(f"no combination with '{must}' passes check in {TRIES} draws around {within.task}")


def fits(slot: str) -> tuple[str, ...]:
    """The names of the registered methods that may fill `slot`."""
    return tuple(
        n
        for n, c in methods().items()
        if SLOT_OF.get(slot, slot) in c.slots and c.module.startswith("fedfm.")
    )


def _once(dice: Dice, within: Federation, must: str, wild: bool, crowd: float) -> Federation | None:
    held = ""  # the slot that `must` fills
    slots: dict[str, Any] = {}
    if must:
        held = dice.pick([s for s in DRAWN if must in fits(s)])
        slots[held] = _spec(load(must), dice, wild)
    for slot in DRAWN:
        if slot != held and dice.chance(crowd):
            slots[slot] = _slot(slot, dice, wild)
    slots |= {
        "rounds": dice.pick((2, 3, 4)),
        "seed": int(dice.pick(range(1000))),
        "fold": dice.pick(("float", "float", "fixed")),
    }
    fed = replace(within, **slots)
    for mend in range(MENDS):
        if not (problems := check(fed)):
            return fed
        named = [s for p in problems for s in DRAWN if s in p.where]
        others = [s for s in (*DRAWN, "fold") if getattr(fed, s) != getattr(within, s)]
        slot = dice.pick([s for s in (*named, *others, dice.pick(DRAWN)) if s != held] or ["seed"])
        fed = replace(
            fed, **{slot: _mended(slot, fed, within, dice, wild, 0.5 if mend < MENDS / 2 else 0.15)}
        )
    return None


def _mended(slot: str, fed: Federation, within: Federation, dice: Dice, wild: bool, anew: float) -> Any:
    """Another filling: the other half of the method in the opposite slot, another draw (so often: `anew`), or none."""
    if slot in ("client", "server") and dice.chance(0.5):
        other = fed.serving if slot == "client" else fed.client
        halves = [h for c in map(load, fits(slot)) if issubclass(c, Client | Server) for h in _half(c, other)]
        if halves:
            return dice.pick(halves)
    if slot == "aggregate" and fed.client.makes not in fed.aggregate.takes and dice.chance(0.5):
        halves = [
            h for c in map(load, fits(slot)) for h in _alike(c, fed.client) if fed.client.makes in h.takes
        ]
        if halves:
            return dice.pick(halves)
    return _slot(slot, dice, wild) if slot in DRAWN and dice.chance(anew) else getattr(within, slot)


def _half(cls: type, other: Any) -> list[Any]:
    """The other half of a method, if it speaks like this one."""
    return [half for half in _alike(cls, other) if half.dialect == other.dialect]


def _alike(cls: type, other: Any) -> list[Any]:
    """A spec of `cls` with the same settings where both have them; none where that is not legal."""
    mine = {f.name for f in dataclasses.fields(cls) if f.init}
    try:
        return [cls(**{f.name: getattr(other, f.name) for f in dataclasses.fields(other) if f.name in mine})]
    except (TypeError, ValueError):
        return []


def _slot(slot: str, dice: Dice, wild: bool) -> Any:
    if SLOT_OF.get(slot, slot) == "wire":
        return Pipe(*(_wire(dice, wild) for _ in range(dice.pick((1, 1, 2, 3)) if slot == "uplink" else 1)))
    return _spec(load(dice.pick(fits(slot))), dice, wild)


def _wire(dice: Dice, wild: bool) -> Any:
    return _spec(load(dice.pick([n for n in fits("uplink") if n != "pipe"])), dice, wild)


def _spec(cls: type, dice: Dice, wild: bool, depth: int = 0) -> Any:
    """A spec of `cls` with some fields drawn; the class itself refuses what does not go together."""
    hints = _hints(cls)
    if any(f.name == "stages" for f in dataclasses.fields(cls)):
        return cls(*(_wire(dice, wild) for _ in range(2)))
    for chance in [*[0.4] * 20, 0.0]:
        given = {}
        for f in dataclasses.fields(cls):
            needed = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
            if f.init and (
                needed or dice.chance(chance) or typing.get_args(hints[f.name])[-1:] in [(w,) for w in INSIDE]
            ):
                value = _value(f, hints[f.name], dice, wild, depth)
                if value is not dataclasses.MISSING:
                    given[f.name] = value
        try:
            return cls(**given)
        except ValueError:
            continue
    raise FedfmError(f"no setting of {cls.__name__} is legal")


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _value(f: dataclasses.Field[Any], hint: Any, dice: Dice, wild: bool, depth: int) -> Any:
    """A legal setting of a field; MISSING leaves it to its default."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if type(None) in args and dice.chance(0.3):
            return None
        hint = next(a for a in args if a is not type(None))
        origin, args = typing.get_origin(hint), typing.get_args(hint)
    if f.metadata.get("choices"):
        return dice.pick(f.metadata["choices"])
    if hint is bool:
        return dice.chance(0.5)
    if hint in (int, float):
        return _number(f, hint, dice, wild)
    if hint in INSIDE:
        return (
            _spec(load(dice.pick(_plain(INSIDE[hint]))), dice, wild, depth + 1)
            if depth < DEPTH
            else dataclasses.MISSING
        )
    if dataclasses.is_dataclass(hint):
        return _spec(typing.cast(type, hint), dice, wild, depth + 1)
    if origin in (dict, Mapping) and args[1] in INSIDE:
        among = _plain(INSIDE[args[1]])
        first = "party-0" if args[1] is Client else "x*"
        return {k: _spec(load(dice.pick(among)), dice, wild, depth + 1) for k in (first, "*")}
    if origin in (dict, Mapping) and args == (str, str):
        return {"party-1": "upload"}
    return dataclasses.MISSING


def _plain(slot: str) -> list[str]:
    """What may stand inside another spec: nothing that wraps in its turn."""
    among = fits({"wire": "uplink"}.get(slot, slot))
    return [n for n in among if not any(_wraps(h) for h in _hints(load(n)).values())]


def _wraps(hint: Any) -> bool:
    return hint in INSIDE or any(a in INSIDE for a in typing.get_args(hint))


def _number(f: dataclasses.Field[Any], kind: type, dice: Dice, wild: bool) -> Any:
    low, high, above, below = (f.metadata.get(end) for end in ("low", "high", "above", "below"))
    default = f.default if isinstance(f.default, int | float) else 1
    if wild and low is not None and dice.chance(0.15):
        return kind(low)
    if wild and high is not None and dice.chance(0.1):
        return kind(high)
    value = (default or 1) * dice.scale(-3, 3 if wild else 0)
    if kind is int and dice.chance(0.5):
        value = dice.pick((1, 2, 3, 5))
    if below is not None and value >= below:  # as near to the open end as the draw was far beyond it
        value = below - (below - (above or low or 0)) * dice.scale(-8, -1)
    value = kind(round(value)) if kind is int else float(f"{value:.3g}")
    if low is not None:
        value = max(value, kind(low))
    return value if high is None else min(value, kind(high))
