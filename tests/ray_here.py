"""A stand-in for the library Ray in this very process: its actors are objects, and each does as it is told at once."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """What the library raises of an actor that died."""


class Here:
    """What `engine=ray` calls of the library. `dies`: by actor (0, 1, ...), the call of `hear` in which it dies."""

    exceptions = SimpleNamespace(RayError=RayError)
    cloudpickle = pickle

    def __init__(self, cores: int = 2, dies: Mapping[int, int] | None = None):
        self.cores, self.dies = cores, dict(dies or {})
        self.told: list[tuple[int, Any, Any, Any]] = []  # actor, head, brief, state
        self.killed: list[int] = []
        self.made = 0

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.cores)}

    def put(self, what: Any) -> Any:
        return what

    def remote(self, of: Any) -> Any:
        def make() -> Actor:
            self.made += 1
            return Actor(self, self.made - 1, of())

        return SimpleNamespace(options=lambda **k: SimpleNamespace(remote=make))

    def wait(
        self, refs: Sequence[Any], num_returns: int, timeout: float | None = None
    ) -> tuple[list[Any], list[Any]]:
        return list(refs[:num_returns]), list(refs[num_returns:])

    def get(self, ref: Any) -> Any:
        if isinstance(ref.gives, Exception):
            raise ref.gives
        return ref.gives

    def kill(self, actor: Actor) -> None:
        self.killed.append(actor.number)


class Actor:
    """One actor: `actor.METHOD.remote(...)` gives what is asked for later."""

    def __init__(self, ray: Here, number: int, inner: Any):
        self.ray, self.number, self.inner, self.calls = ray, number, inner, Counter[str]()
        self.open = SimpleNamespace(remote=lambda *a: self._call("open", *a))
        self.hear = SimpleNamespace(remote=lambda *a: self._call("hear", *a))

    def _call(self, name: str, *given: Any) -> Any:
        self.calls[name] += 1
        if name == "hear":
            self.ray.told.append((self.number, *given))
            if self.calls[name] >= self.ray.dies.get(self.number, 1 << 30):
                return Later(RayError("the actor died unexpectedly"))
        return Later(getattr(self.inner, name)(*given))


class Later:
    """What an actor will have said."""

    def __init__(self, gives: Any):
        self.gives = gives
