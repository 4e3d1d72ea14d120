"""Sign flipping: malicious parties push against the federation."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fedfm.around import AroundClient
from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.message import Message
from fedfm.core.protocols import Adversary, Bound, Client, Say, State
from fedfm.trust.robustness.attack.membership import drawn
from fedfm.vectors.layout import Layout


@method(
    "sign-flip",
    slot="adversary",
    section="V.A",
    paper="Li et al., RSA: Byzantine-robust stochastic aggregation methods, AAAI 2019",
    also=("byzantine", "model-poisoning"),
)
@dataclass(frozen=True)
class SignFlip(Adversary):
    """A malicious party sends -scale times its own update; an omniscient one, -scale times the mean honest update.

    With f of n parties and equal honest updates u the mean becomes ((n - f) - scale f)/n u: it turns round when
    scale > (n - f)/f. The plain attack happens inside the party, before its codecs (a message of weights w_i becomes
    w - scale (w_i - w)); the omniscient one at the server's door, in simulation only; in a round without an honest party
    each reverses its own. Buffers stay as they are.
    """

    fraction: float | None = knob(0.2, "share of malicious parties", above=0.0, high=1.0, alternative="size")
    count: int | None = knob(
        None, "number of malicious parties, instead of the share", low=1, alternative="size"
    )
    scale: float = knob(1.0, "length of the reversed update", low=0.0)
    omniscient: bool = knob(False, "know and reverse the honest parties' mean instead of the own update")

    takes = ("delta",)  # only an update has a sign to flip

    @property
    def reads(self) -> bool:  # type: ignore[override]
        return self.omniscient

    def members(self, ids: Sequence[str], ctx: Ctx) -> frozenset[str]:
        return drawn(ids, self.fraction, self.count, ctx)

    def wrap(self, client: Client) -> Client:
        return client if self.omniscient else _Reversed(client, self.scale)

    def forge(
        self, messages: dict[str, Message], members: frozenset[str], state: State, ctx: Ctx
    ) -> tuple[dict[str, Message], State]:
        honest = [m for i, m in messages.items() if i not in members]
        if not self.omniscient or len(honest) == len(messages):
            return messages, state
        if not honest:  # nobody to know: each turns its own
            return {
                i: replace(m, x=_keep(m.x * -self.scale, m.x, ctx.layout)) for i, m in messages.items()
            }, state
        total = torch.zeros(honest[0].x.numel(), dtype=torch.float64)
        for m in honest:
            total += m.x
        mean = (total / len(honest)).float()
        return {
            i: replace(m, x=_keep(mean * -self.scale, m.x, ctx.layout)) if i in members else m
            for i, m in messages.items()
        }, state


@dataclass(frozen=True)
class _Reversed(AroundClient):
    """A client whose update is turned round just before it leaves."""

    inner: Client
    scale: float

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> Any:
        out: Any = self.inner.work(brief, data, state, ctx, bound)
        if isinstance(out, tuple):
            return self._turned(out[0], brief, bound), out[1]
        return self._after(out, brief, bound)

    def _after(
        self, talk: Generator[Say, Message, tuple[Message, State]], brief: Message, bound: Bound
    ) -> Generator[Say, Message, tuple[Message, State]]:
        m, state = yield from talk
        return self._turned(m, brief, bound), state

    def _turned(self, m: Message, brief: Message, bound: Bound) -> Message:
        base = brief.x[: m.x.numel()] if m.kind == "weights" else torch.zeros_like(m.x)
        turned = base - self.scale * (m.x - base)
        return replace(m, x=_keep(turned, m.x, self.gives(bound.layout)))


def _keep(turned: Tensor, own: Tensor, layout: Layout | None) -> Tensor:
    """Put the party's own buffers (batch-norm statistics and the like) back: they are no update."""
    if layout is None or layout.size != own.numel():
        return turned
    return layout.whole(layout.weights(turned), layout.buffers(own))
