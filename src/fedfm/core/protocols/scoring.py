"""What a model is worth, and to whom that is owed: evaluation, audits, contributions, payments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from fedfm.core.context import Ctx
from fedfm.core.protocols.cohort import Plan
from fedfm.core.protocols.slot import Scores, Slot, State
from fedfm.core.protocols.training import Bound
from fedfm.core.schema import Parties


def means(parts: Sequence[Scores]) -> dict[str, float]:
    """Means from sums and counts."""
    sums: dict[str, list[float]] = {}
    for part in parts:
        for name, (total, n) in part.items():
            both = sums.setdefault(name, [0.0, 0])
            both[0], both[1] = both[0] + total, both[1] + n
    return {name: s / n for name, (s, n) in sorted(sums.items()) if n}


class Evaluator(Slot):
    """On what a model is scored, and how the sums of the cases become metrics."""

    rests = {"collects": ("rows",)}
    bold = frozenset({"collects"})
    every: int = 1  # rounds between two scores; the last round is always scored
    parts: int = 1  # pieces of a case, scored side by side
    personal: bool = False  # each party's own model on its own test rows too
    where: Literal["server", "parties"] = "server"  # of the test rows: the common ones, or each party's own
    stop_after: int = 0  # rounds without a gain on validation rows, after which a run ends; 0: never
    keep_best: bool = False  # the run's model is that of the best round on validation rows, not the last
    collects: bool = False  # it reads parties' own test rows at the server (a simulation)

    @property
    def validates(self) -> bool:
        """Does it look for the best round? By the server's rows; with no single model, by rows that parties keep for it."""
        return self.keep_best or self.stop_after > 0

    def cases(self, parties: Parties) -> Sequence[str]:
        """Names of what is scored at the server; "" is the common test set."""
        return ("",)

    def rows(self, case: str, parties: Parties) -> Any:
        """The rows of a case."""
        return parties.test()

    def measure(self, encoded: Any, bound: Bound) -> Scores:
        """Sums and counts on one piece of a case, with the model loaded."""
        return bound.score(encoded)

    def finish(self, scores: Mapping[str, Sequence[Scores]]) -> dict[str, float]:
        """Metrics from the sums by case; those of other cases than "" get its name behind a slash."""
        found: dict[str, float] = {}
        for case, parts in scores.items():
            found |= {f"{name}/{case}" if case else name: v for name, v in means(parts).items()}
        return found


class Audit(Slot):
    """Questions to a finished run: what its model or its rounds give away."""

    needs_rounds: ClassVar[bool] = False  # checkpoints of single rounds (`keep_rounds`)

    def run(self, opened: Any, ctx: Ctx) -> dict[str, Any]:
        """Findings by name, from an opened run (`fedfm.running.audits.Opened`)."""
        return {}


class Valuer(Slot):
    """Contributions, from `ctx.house`: its game, its rows, or questions to the parties."""

    reads: ClassVar[bool] = False  # it needs each contributor's message
    asks: ClassVar[bool] = False  # it asks parties (`ctx.house.ask`); the answers say something of their rows
    exact: ClassVar[bool] = False  # the values share out the round's whole gain, on every game

    def init(self, parties: Sequence[str], ctx: Ctx) -> State:
        return {}

    def evaluations(self, n: int) -> int:
        """Scores of models that a round of n contributors takes."""
        return 0

    def value(self, ids: Sequence[str], state: State, ctx: Ctx) -> tuple[dict[str, float], State]:
        """What each contributor brought this round."""
        return {}, state


class Reward(Slot):
    """Payments: only who delivered is paid. By default what the plan promised."""

    @property
    def needs_values(self) -> bool:
        """Does it pay by contribution?"""
        return False

    def init(self, parties: Sequence[str], ctx: Ctx) -> State:
        return {}

    def pay(
        self, plan: Plan, delivered: Sequence[str], values: Mapping[str, float], state: State, ctx: Ctx
    ) -> tuple[dict[str, float], State]:
        """What a plan promised is owed until its work is delivered, in that round or a later one."""
        begun = {i: plan.promised[i] for i, _ in plan.jobs if i in plan.promised}
        still = {**state.get("open", {}), **begun}
        paid = {i: still.pop(i) for i in delivered if i in still}
        return paid, ({"open": still} if still else {})
