"""Who protects whom, and what that costs: the plan's noise, its samplings, and the budget that stops a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from fedfm.core.combine import Pipe, stages_of
from fedfm.core.context import Ctx
from fedfm.core.protocols import Wire
from fedfm.ledger.events import Line

if TYPE_CHECKING:
    from fedfm.core.federation import Federation

Change = Literal["zero-out", "replace-one", "add-or-remove"]
Sampling = Mapping[str, Any]
SERVER, RECIPIENTS = "server", "recipients"
TRIAL = 64  # parties of the pool on which a selector is tried when the real number is not known


@dataclass(frozen=True)
class Relation:
    """Two data sets that a guarantee makes hard to tell apart: they differ in one `unit`, by `change`."""

    change: Change = "zero-out"
    unit: str = "party"

    def __str__(self) -> str:
        what = {
            "zero-out": f"the contribution of one {self.unit} set to zero: hides what it contributed, not that it took part",
            "replace-one": f"one {self.unit} with other data in its place: hides what it contributed, not that it took part",
            "add-or-remove": f"one {self.unit} more or less: hides that it took part",
        }
        return f"{self.change} ({what[self.change]})"


class Accountant(Protocol):
    """Who knows what releases cost. The core asks; it computes no epsilon."""

    def planned(self, stage: Any, samplings: Sequence[Sampling]) -> Wire:
        """The stage with the noise that its epsilon needs over these rounds."""

    def overspends(self, stages: Sequence[Any], events: Iterable[Line], sampling: Sampling) -> str:
        """Why one more round would exceed the budget; empty: it would not."""

    def cost(self, stages: Sequence[Any], samplings: Sequence[Sampling]) -> float:
        """Epsilon of a plan."""


# ---- who protects whom -------------------------------------------------------------------------------------
def guards(fed: Federation, against: str = "") -> tuple[Wire, ...]:
    """The stages of the uplink that protect, from everybody or from one observer."""
    return tuple(s for s in stages_of(fed.uplink) if s.against and against in ("", s.against))


def noises(fed: Federation) -> tuple[Wire, ...]:
    """Those that add noise and promise an epsilon."""
    return tuple(s for s in stages_of(fed.uplink) if s.perturbs and s.against and not s.off)


def observers(fed: Federation) -> tuple[str, ...]:
    """From whom protection was asked for."""
    return tuple(o for o in (SERVER, RECIPIENTS) if guards(fed, o))


def schedule(fed: Federation, parties: int, rounds: int | None = None) -> tuple[Sampling, ...]:
    """How the cohort of each planned round is drawn, by trying the selector on so many equal parties.

    Where the draw must be secret, `secret` says whether it is: a selector that draws from the seed does not hide it.
    """
    rounds = fed.rounds if rounds is None else rounds
    if fed.select.asks:  # what is answered decides, so nothing is known beforehand
        return ({"kind": "by answers"},) * rounds
    ctx, pool = Ctx(fed.seed, unseen=unseen(fed)), {f"party-{i}": 1 for i in range(parties)}
    state, found = fed.select.init(pool, ctx), []
    for t in range(rounds):
        plan, state = fed.select.select(pool, state, ctx.at(round=fed.since + t), {})
        found.append({**({"secret": False} if ctx.unseen else {}), **plan.sampling})
    return tuple(found)


def unseen(fed: Federation) -> bool:
    """Must nobody be able to draw the cohorts again? Real noise on a sum is amplified by a secret draw alone."""
    return any(s.against == RECIPIENTS and (s.fresh or not fed.simulated) for s in noises(fed))


def always(fed: Federation) -> bool:
    """Must a round release noise though nobody contributed? Of a random cohort, that it was empty is private too."""
    return fed.select.draws == "poisson" and any(s.after_sum for s in noises(fed))


def planned(fed: Federation, parties: int) -> Federation:
    """The federation with every epsilon turned into the noise that it needs; `parties`: how many there are.

    In a run of several stages an epsilon is the whole run's: each stage gets the noise that all rounds need.
    """
    if all(w.accountant is None for s in fed.each for w in stages_of(s.uplink)):
        return fed
    draws = tuple(d for s in fed.each for d in schedule(s, parties, s.span))
    ready = tuple(_ready(s, draws) for s in fed.stages)
    return _ready(fed if ready == fed.stages else replace(fed, stages=ready), draws)


def _ready(fed: Federation, draws: Sequence[Sampling]) -> Federation:
    stages = stages_of(fed.uplink)
    ready = tuple(s if s.accountant is None else s.accountant.planned(s, draws) for s in stages)
    return fed if ready == stages else replace(fed, uplink=ready[0] if len(ready) == 1 else Pipe(*ready))


def overspends(fed: Federation, events: Callable[[], Iterable[Line]], parties: int) -> str:
    """Why the next round must not begin: it would exceed a privacy budget. To be asked before each round."""
    stages = tuple(s for s in noises(fed) if s.budget is not None)
    if not stages:
        return ""
    sampling = schedule(fed, parties, 1)[0]
    return str(stages[0].accountant.overspends(stages, events(), sampling))
