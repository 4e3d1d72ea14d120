"""What is to run: a federation, and the config that records it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fedfm.config.building import from_config
from fedfm.config.marker import refusal, unspoken
from fedfm.config.record import to_config
from fedfm.core.errors import ConfigError
from fedfm.core.federation import Federation


@dataclass(frozen=True)
class Setup:
    """The object that was given, which is the object that runs; `notes` say which settings gave way to which."""

    fed: Federation
    recipe: str | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def config(self) -> dict[str, Any]:
        """The record: complete, and plain but for markers of what a config cannot say."""
        return {**({"recipe": self.recipe} if self.recipe else {}), **to_config(self.fed)}

    @classmethod
    def of(cls, what: Setup | Federation | Mapping[str, Any]) -> Setup:
        """From a federation, or from a complete config; a config that holds markers is refused."""
        if isinstance(what, Setup):
            return what
        if isinstance(what, Federation):
            return cls(what)
        if found := list(unspoken(what)):
            raise ConfigError([refusal(where, name) for where, name in found])
        return cls(from_config(what), what.get("recipe"))
