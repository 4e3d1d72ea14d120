"""A federation as plain data: made by asking the object, with a marker where it cannot be said."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from fedfm.cards.registry import registered
from fedfm.config.marker import fingerprint, live, marker, plain_scalar
from fedfm.core.combine import Pipe
from fedfm.core.federation import SHARED, Federation


def to_config(value: Any) -> Any:
    """Plain data that `from_config` turns back into `value`; markers stand for what has no name in a config.

    A subclass without a card of its own is not its parent: it is marked, with its fields. Fields that hold live
    objects (`knob(live=True)`) are recorded by their digest.
    """
    if type(value) is Pipe:
        return [to_config(s) for s in value.stages]
    if type(value).__module__.startswith("fedfm.core.protocols"):
        return None  # the identity of a slot
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _field(f, getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        if type(value) is Federation:
            own = [{k: v for k, v in s.items() if k not in SHARED} for s in fields.pop("stages")]
            return fields | ({"stages": own} if own else {})
        if (name := registered(type(value))) is not None:
            return {"name": name, **fields}
        return {"object": f"{type(value).__module__}:{type(value).__qualname__}", **fields}
    if isinstance(value, Mapping):
        return {str(k): to_config(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_config(v) for v in value]
    return marker(value) if live(value) else plain_scalar(value)


def _field(f: dataclasses.Field[Any], value: Any) -> Any:
    if type(value) is int and "float" in str(f.type) and "int" not in str(f.type):
        return float(value)  # as a config would read it
    if f.repr or not _there(value):
        return to_config(value)
    of = type(value)
    return {"object": f"{of.__module__}:{of.__qualname__}", "digest": fingerprint(value)}


def _there(value: Any) -> bool:
    return not (value is None or (isinstance(value, Mapping | list | tuple | str) and not value))


def digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of what determines the result (the engine does not, nor a horizon that is the number of rounds)."""
    idle = {"engine"} | ({"horizon"} if config.get("horizon") in (None, config.get("rounds")) else set())
    kept = {k: v for k, v in config.items() if k not in idle}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
