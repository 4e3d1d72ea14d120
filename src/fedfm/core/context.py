"""The context of one piece of work: who, when, on what terms, and its streams of randomness.

A stream is a pure function of the run's seed and of what names it, so turning a codec off does not change which
clients are sampled, and every engine draws the same numbers. Secrets are the exception: they come from the
operating system, because the server knows the seed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fedfm.ledger.events import Event, Line
from fedfm.vectors.layout import Layout


@dataclass(frozen=True)
class Terms:
    """What is agreed with one client for one piece of work. None leaves it to the client's own method."""

    width: float = 1.0  # share of the hidden units
    rank: int | None = None  # directions of a low-rank tuning
    steps: int | None = None  # local steps
    batch: int | None = None  # examples a step
    group: str | None = None  # a cluster, an edge
    grade: float | None = None  # how good a model is due

    @property
    def shape(self) -> tuple[float, int | None]:
        """The part that cuts the layout."""
        return self.width, self.rank

    @property
    def key(self) -> str:
        """The part that changes what the brief holds."""
        return "|".join(map(str, (self.shape, *(v for v in (self.group, self.grade) if v is not None))))


class Noise:
    """A stream of numbers for noise and draws: a seeded generator, or SHAKE-256 keyed by 32 secret bytes.

    The second is cryptographic and keeps its whole key; torch's own generator keeps 32 bits of a seed.
    """

    def __init__(self, source: torch.Generator | bytes):
        self.source, self.calls = source, 0

    @property
    def secret(self) -> bool:
        """Can nobody draw it again?"""
        return isinstance(self.source, bytes)

    def uniform(self, n: int) -> Tensor:
        """(n,) numbers uniform in [0, 1), fp64."""
        if isinstance(self.source, torch.Generator):
            return torch.rand(n, dtype=torch.float64, generator=self.source)
        return self._words(n).bitwise_right_shift(10).double().mul_(2.0**-53)

    def order(self, n: int) -> list[int]:
        """0 .. n - 1 in random order, every order alike."""
        if isinstance(self.source, torch.Generator):
            return list(torch.randperm(n, generator=self.source).tolist())
        out = list(range(n))  # Fisher and Yates
        for i, k in enumerate(self.below(torch.arange(n, 0, -1)).tolist()):
            out[i], out[i + k] = out[i + k], out[i]
        return out

    def normal(self, n: int) -> Tensor:
        """(n,) standard normal numbers, fp64."""
        if isinstance(self.source, torch.Generator):
            return torch.randn(n, generator=self.source, dtype=torch.float64)
        half = (n + 1) // 2
        unit = (
            (self._bytes(2 * half).bitwise_right_shift(10).bitwise_and(2**53 - 1) + 1).double().mul_(2.0**-53)
        )
        # Box and Muller
        radius, angle = unit[:half].log_().mul_(-2.0).sqrt_(), unit[half:].mul_(2.0 * math.pi)
        return torch.cat([radius * angle.cos(), radius * angle.sin()])[:n]

    def below(self, bound: Tensor) -> Tensor:
        """Integers uniform in [0, bound), exactly, for each of `bound` (int64, from 1 to 2^62)."""
        out = torch.empty_like(bound)
        left = torch.arange(bound.numel())
        while left.numel():  # rejection: a remainder of 2^62 values would favour the small ones
            b, word = bound[left], self._words(left.numel()).bitwise_right_shift(1)
            fits = word < b * (2**62 // b)
            out[left[fits]] = word[fits] % b[fits]
            left = left[~fits]
        return out

    def _words(self, n: int) -> Tensor:
        """(n,) integers uniform in [0, 2^63)."""
        if isinstance(self.source, torch.Generator):
            high, low = (torch.randint(0, 2**k, (n,), generator=self.source) for k in (31, 32))
            return high.bitwise_left_shift(32).bitwise_or(low)
        return self._bytes(n).bitwise_and(2**63 - 1)

    def _bytes(self, n: int) -> Tensor:
        """(n,) int64 from the keyed stream; every call has a block of its own."""
        assert isinstance(self.source, bytes)
        self.calls += 1
        drawn = hashlib.shake_256(self.source + self.calls.to_bytes(8, "little")).digest(8 * n)
        return (
            torch.frombuffer(bytearray(drawn), dtype=torch.int64) if n else torch.empty(0, dtype=torch.int64)
        )


@dataclass(frozen=True)
class Ctx:
    """Seed, round, attempt, client, terms; `layout` names the coordinates of the vector at hand."""

    seed: int
    round: int = 0
    attempt: int = 0
    client: str = ""
    terms: Terms = Terms()
    layout: Layout | None = field(default=None, repr=False, compare=False)
    simulated: bool = True
    brief: str = ""  # digest of the model that this party was given; masks are bound to it
    path: str = ""
    horizon: int = 0  # rounds that schedules are made for: those of this stage (most runs have one)
    since: int = 0  # rounds of the stages before
    # at a party: gives the rows that everybody sees, encoded
    public: Any = field(default=None, repr=False, compare=False)
    unseen: bool = False  # cohorts are drawn from the operating system
    # the server's view (protocols.House); None at a party
    house: Any = field(default=None, repr=False, compare=False)
    events: list[Line] | None = field(default=None, repr=False, compare=False)

    def at(self, **changes: Any) -> Ctx:
        """The same context with some fields changed."""
        if unknown := changes.keys() - vars(self).keys():
            raise TypeError(f"a context has no {min(unknown)}")
        # `dataclasses.replace` takes ten times as long, eight times a client and round
        new = object.__new__(Ctx)
        vars(new).update(vars(self) | changes)
        return new

    def within(self, name: str | int) -> Ctx:
        """The context of a part (a pipe's second stage draws other numbers than its first)."""
        return self.at(path=f"{self.path}/{name}")

    def muted(self) -> Ctx:
        """The same streams, no events: for what-if computations such as coalition utilities."""
        return self.at(events=None)

    # ---- randomness -------------------------------------------------------------------------------------------
    def _seed(self, stream: str, purpose: str, client: str) -> int:
        key = f"{self.seed}|{stream}|{self.round}|{client}|{self.path}|{purpose}"
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") >> 1

    def rng(self, purpose: str) -> torch.Generator:
        """This party's own stream."""
        return torch.Generator().manual_seed(self._seed("own", purpose, self.client))

    def pair(self, purpose: str) -> torch.Generator:
        """A stream that one client and the server share."""
        return torch.Generator().manual_seed(self._seed("pair", purpose, self.client))

    def shared(self, purpose: str) -> torch.Generator:
        """A stream that the whole cohort and the server share."""
        return torch.Generator().manual_seed(self._seed("shared", purpose, ""))

    def noise(self, purpose: str, real: bool = False) -> Noise:
        """For privacy noise: from the seed in simulation (repeatable, predictable), else from the operating system.

        `real` asks for the operating system's in simulation too.
        """
        if self.simulated and not real:
            return Noise(torch.Generator().manual_seed(self._seed("noise", purpose, self.client)))
        return Noise(self.secret(32))

    def coins(self, purpose: str) -> Noise:
        """For the draw of a cohort: the cohort's stream, or the operating system's where nobody may draw it again."""
        return Noise(self.secret(32) if self.unseen else self.shared(purpose))

    @contextlib.contextmanager
    def ambient(self, purpose: str = "") -> Iterator[None]:
        """Torch's global generators (dropout and the like) seeded for this work, restored afterwards."""
        devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        with torch.random.fork_rng(devices=devices):
            # torch.manual_seed would format a traceback per absent accelerator, and queue it there for good
            seed = self._seed("ambient", purpose, self.client)
            torch.default_generator.manual_seed(seed)
            if devices:
                torch.cuda.manual_seed_all(seed)
            yield

    @staticmethod
    def secret(n_bytes: int) -> bytes:
        """Fresh randomness from the operating system, for keys and masks; never derived from the run's seed."""
        return os.urandom(n_bytes)

    # ---- facts ------------------------------------------------------------------------------------------------
    def drain(self) -> tuple[Line, ...]:
        """Hand over what was noted so far."""
        events, self.events[:] = tuple(self.events or ()), ()  # type: ignore[index]
        return events

    def note(self, event: Event) -> None:
        """Record a fact: the one way a pure method has to tell the ledger anything."""
        if not isinstance(event, Event):
            raise TypeError(f"ctx.note takes an Event (a frozen dataclass of its own), not {event!r}")
        if self.events is not None:
            facts = event.facts()
            try:  # what the ledger cannot hold is an error where it was written
                json.dumps(facts, allow_nan=False)
            except ValueError:  # but for NaN and Infinity, which JSON does not know: null
                facts = json.loads(json.dumps(facts), parse_constant=lambda word: None)
            self.events.append(
                {**facts, "round": self.round, "kind": event.kind, "client": self.client or None}
            )
