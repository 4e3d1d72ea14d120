"""Greedy soup: average only those updates that help, as the server's own rows judge."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.errors import RoundFailed
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregator, State
from fedfm.ledger.events import Event, Line


@dataclass(frozen=True)
class Soup(Event):
    """Whose models went into the soup, and its score on the server's rows."""

    chosen: list[str]
    score: float
    server = True

    @classmethod
    def counted(cls, line: Line) -> Collection[str]:
        return tuple(line["chosen"])


@method(
    "greedy-soup",
    slot="aggregate",
    section="IV.A",
    survey=(55,),
    paper="Wortsman et al., Model soups: averaging weights of multiple fine-tuned models improves accuracy, ICML 2022",
    departs="ingredients are one round's updates of one starting model",
    atlas=("soup-greedy",),
)
@dataclass(frozen=True)
class GreedySoup(Aggregator):
    """Updates by falling score; each joins the plain mean if the mean's score does not fall (`strict`: rises).

    Scores are the primary metric on the server's rows (`data.server_rows`) of the model after the server's own step:
    one pass over them per update, and one per try. The result scores at least as the best single update does. Ties by
    plan order. Claimed weights are ignored. Notes who is in the soup.
    """

    strict: bool = knob(False, "an ingredient must improve the score, and not only keep it")

    form = "all"
    needs = frozenset({"server rows"})
    needs_model = True

    def combine(self, messages: Sequence[Message], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        if not messages:
            raise RoundFailed("greedy-soup: no messages")
        house = ctx.house

        def score(x: Tensor) -> float:
            worth: float = house.score(house.after(x))
            return worth

        alone = [score(m.x.float()) for m in messages]
        order = sorted(range(len(messages)), key=lambda i: -alone[i])
        chosen, soup, best = [order[0]], messages[order[0]].x.double(), alone[order[0]]
        for i in order[1:]:
            tried = (soup * len(chosen) + messages[i].x) / (len(chosen) + 1)
            worth = score(tried.float())
            if worth > best or (worth == best and not self.strict):
                chosen, soup, best = [*chosen, i], tried, worth
        ctx.note(Soup([messages[i].sender for i in chosen], best))
        return soup.to(torch.float32), state
