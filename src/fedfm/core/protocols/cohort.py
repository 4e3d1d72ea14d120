"""Who takes part in a round, and when it closes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from fedfm.core.context import Ctx, Terms
from fedfm.core.message import Message
from fedfm.core.protocols.slot import Slot, State


@dataclass(frozen=True)
class Plan:
    """Whom to ask to work, on what terms, in a definite order; and what each was promised for it."""

    jobs: tuple[tuple[str, Terms], ...]
    promised: Mapping[str, float] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)  # how it was drawn, for privacy accounting


@dataclass(frozen=True)
class Outcome:
    """What became of a plan: the selector learns from it (reputation, fairness, bandits)."""

    plan: Plan
    delivered: tuple[str, ...]
    refused: Mapping[str, str]  # party -> why
    values: Mapping[str, float]
    paid: Mapping[str, float]


@dataclass(frozen=True)
class Load:
    """What a piece of work weighs: bytes that go down, local steps, examples."""

    down: int = 0
    steps: int = 0
    rows: int = 0


class Selector(Slot):
    """Who takes part (by default everybody). One that `asks` hears private answers (bids, losses) before it plans."""

    rests = {"draws": ("select",), "random_size": ("select",), "releases": ("answer",)}
    asks: ClassVar[bool] = False  # it questions parties before it plans
    random_size: ClassVar[bool] = False  # how many take part is random, hence private under sampling
    promises: ClassVar[bool] = False  # its plans promise money
    needs_model: ClassVar[bool] = False  # its questions carry the bare model
    cuts: ClassVar[bool] = False  # some parties get a sub-model
    recuts: ClassVar[bool] = False  # a party's sub-model may be another one in another round
    groups: ClassVar[bool] = False  # parties are summed group by group, at edges

    @property
    def releases(self) -> bool:
        """Do the answers say something about private rows (a loss)? Whoever asks must say that they do not."""
        return self.asks

    @property
    def draws(self) -> str:
        """How a cohort is drawn, for privacy accounting: "all", "uniform", "poisson"; "unknown" is refused."""
        return "all" if self.identity() else "unknown"

    @property
    def independent(self) -> bool:
        """Does a party's place depend on no other party?"""
        return self.identity()

    def most(self, parties: int) -> int:
        """The most parties of a plan, of so many."""
        return parties

    def init(self, pool: Mapping[str, int], ctx: Ctx) -> State:
        return {}

    def candidates(self, pool: Mapping[str, int], state: State, ctx: Ctx) -> Sequence[str]:
        """Whom to ask before planning; `pool` maps the free parties to their number of examples."""
        return ()

    def question(self, brief: Message, pool: Mapping[str, int], state: State, ctx: Ctx) -> Message:
        """What they are asked: the bare model where `needs_model`, else a word without a payload."""
        return brief if self.needs_model else Message(brief.x[:0], "question")

    def select(
        self, pool: Mapping[str, int], state: State, ctx: Ctx, answers: Mapping[str, Message]
    ) -> tuple[Plan, State]:
        return Plan(tuple((i, Terms()) for i in pool), sampling={"kind": "all"}), state

    def learn(self, state: State, outcome: Outcome, ctx: Ctx) -> State:
        """What it remembers of a round that has succeeded."""
        return state


class Pace(Slot):
    """When a round closes, as data. Times are simulated seconds."""

    rests = {"partial": ("enough",), "independent": ("enough",), "loses": ("lost",)}
    bold = frozenset({"partial", "loses"})
    late: Literal["cancel", "keep"] = "cancel"  # what becomes of work that its round did not wait for
    partial: bool = False  # a round may close while parties are still working
    deadline_s: float | None = None  # after which nobody is waited for
    drop: Mapping[str, str] = {}  # party -> phase before which it vanishes (simulated)

    @property
    def independent(self) -> bool:
        """Does whether a party counts depend on no other party?"""
        return self.late == "cancel" and not self.partial

    @property
    def loses(self) -> bool:
        """May a planned party be missing from the sum, other than by its own failure?"""
        return self.partial or bool(self.drop)

    def room(self, busy: int, want: int) -> int:
        """How many new sessions may start while `busy` are under way."""
        return want

    def due(self, now: float, ctx: Ctx, load: Load) -> float:
        """When the work that this client starts at `now` will be done."""
        return now

    def lands(self, due: float, nbytes: int, ctx: Ctx) -> float:
        """When an upload of so many bytes, which begins at `due`, is there."""
        return due

    def enough(self, arrived: int, planned: int, waited_s: float) -> bool:
        """Close the round now, `waited_s` after its start (asked before each release with that release's time)?"""
        return False

    def quorum(self, planned: int) -> int:
        """The fewest contributions that make a round."""
        return 1

    def lost(self, phase: str, ctx: Ctx) -> bool:
        """Does this party vanish just before `phase` (simulated drop-out)?"""
        return False
